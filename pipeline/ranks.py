"""The processes that train one run together, started by torchrun; usually one.

Each holds its part of the train items and computes its part of every batch; gradients are summed.

N items, b rows.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from schemas.errors import ConfigError

_TIMEOUT = datetime.timedelta(minutes=30)  # the first process evaluates while others wait


class Ranks:
    """This process among those of the run."""

    def __init__(self, rank: int = 0, size: int = 1, local_size: int = 1) -> None:
        """Number it.

        Args:
            rank: from 0.
            size: number of processes.
            local_size: of them on this machine, whose memory they share.
        """
        self.rank, self.size, self.local_size = rank, size, local_size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that evaluates and writes."""
        return self.rank == 0

    def owns(self, rows: Int64[Any, " b"], block_rows: int) -> Bool[Any, " b"]:
        """Say which rows this process holds: every size-th block of consecutive rows."""
        return rows // block_rows % self.size == self.rank

    def add_up(self, tensors: Sequence[Shaped[Tensor, "..."]]) -> None:
        """Replace float tensors of one device by their sums over the processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def all_of(self, value: Any) -> list[Any]:
        """Return every process's value, on all of them."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def of_first(self, value: Any = None) -> Any:
        """Return the first process's value, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Ranks()


@contextlib.contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the processes that torchrun started; give the ranks and the device of this one.

    Args:
        device: as asked for; with `auto`, every process takes its own GPU where there are any.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE, device
        return
    if device.startswith("cuda:"):
        raise ConfigError(
            f"every process would take {device}",
            where="--device",
            fix="leave --device out under torchrun: each process takes a GPU of its own",
        )
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])), device
    # Not after an error: the others may be in the middle of a sum, and this would wait for them.
    dist.destroy_process_group()
