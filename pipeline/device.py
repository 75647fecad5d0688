"""Where torch computes, and how data gets there and back.

B batch.
"""

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from schemas.errors import ConfigError

_IN_FLIGHT = 3
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def all_devices() -> list[str]:
    """Return every local GPU, else the CPU."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def pick_device(name: str) -> torch.device:
    """Return the torch device called `name`; `auto` is the first GPU, else the CPU.

    Raises: ConfigError if the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"no device {name!r} here: {' '.join(str(error).split())[:200]}",
            where="--device",
            fix=f"use auto, cpu or one of {torch.cuda.device_count()} CUDA devices",
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """Return `cpu`, or `cuda` with the card's model; which of several equal ones is no matter."""
    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)})"


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for its next allocation.

    By default glibc gives blocks above 32 MB back, and the kernel clears new pages for the next
    one: 70,000 page faults a training step on a CPU, an eighth of its time with the default head
    and half of it with a small one. Peak memory grew by 3% at most. Does nothing where another C
    library is in use.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def has_bfloat16(device: torch.device) -> bool:
    """Say whether the hardware multiplies bfloat16; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class Staging:
    """Brings batches to a device and results back while it computes."""

    def __init__(self, device: torch.device) -> None:
        """Name the device."""
        self._device = device

    def map(
        self,
        function: Callable[[Tensor], Tensor],
        batches: Iterable[Shaped[np.ndarray, "B ..."]],
    ) -> Iterator[Shaped[np.ndarray, "B ..."]]:
        """Yield function(batch) for every batch, in order.

        On a GPU, copies go through pinned memory and nothing waits for a batch before three more
        are under way.
        """
        if self._device.type != "cuda":
            for batch in batches:
                yield function(torch.from_numpy(batch).to(self._device)).cpu().numpy()
            return
        in_flight: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        for batch in batches:
            pinned = torch.from_numpy(batch).pin_memory()
            result = function(pinned.to(self._device, non_blocking=True))
            back = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            back.copy_(result, non_blocking=True)
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self._device))
            in_flight.append((back, done))
            if len(in_flight) > _IN_FLIGHT:
                yield _finished(*in_flight.popleft())
        while in_flight:
            yield _finished(*in_flight.popleft())


class Upload:
    """Fills a tensor on a GPU from parts that several threads have, through pinned memory.

    A copy from ordinary memory is first copied to pinned memory by one thread: 3 GB/s against 25.
    """

    def __init__(self, whole: Shaped[Tensor, "n D"], part_rows: int) -> None:
        """Name the tensor.

        Args:
            whole: to be filled.
            part_rows: the most rows of a part.
        """
        self._whole, self._part_rows = whole, part_rows
        self._own = threading.local()

    def take(
        self, start: int, stop: int, fill: Callable[[Shaped[np.ndarray, "r D"]], None]
    ) -> None:
        """Let rows start to stop be filled, and copy them to their place."""
        own = self._own
        if not hasattr(own, "pinned"):
            shape = (self._part_rows, *self._whole.shape[1:])
            own.pinned = torch.empty(shape, dtype=self._whole.dtype, pin_memory=True)
            own.stream = torch.cuda.Stream(self._whole.device)
        part = own.pinned[: stop - start]
        fill(part.numpy())
        with torch.cuda.stream(own.stream):
            self._whole[start:stop].copy_(part, non_blocking=True)
        own.stream.synchronize()


def _finished(result: Tensor, done: torch.cuda.Event) -> Shaped[np.ndarray, "B ..."]:
    done.synchronize()
    return result.numpy()
