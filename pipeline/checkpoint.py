"""What a run needs to go on as if nothing had happened: one file, replaced as a whole.

About four times the weights: 106 MB with the default head at 4,350 labels.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cache.storage import Storage
from schemas.configs import from_json, to_json
from schemas.errors import ConfigError, FitError
from schemas.run import RunRecord

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
# What may not change in the middle: order of items, sums, rounding.
_COMPUTED = ("device", "residency", "num_processes", "num_threads", "compute_dtype")
_STATE = "state"  # the tensor that holds everything that is none


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run between two steps."""

    step: int
    """Optimizer steps taken."""
    history: list[dict[str, float]]
    """A line for each finished epoch."""
    seconds: float
    """Trained so far."""
    tensors: dict[str, Shaped[Tensor, "..."]]
    """Weights, optimizer state, sums of the epoch under way."""


def write_checkpoint(
    workspace: Storage,
    place: str,
    record: RunRecord,
    checkpoint: Checkpoint,
    check: Callable[[], None],
) -> None:
    """Put a run's checkpoint in place of its last one, if `check` raises nothing."""
    state = {
        "record": json.loads(to_json(record)),
        "step": checkpoint.step,
        "history": checkpoint.history,
        "seconds": checkpoint.seconds,
    }
    text = bytearray(json.dumps(state).encode())
    tensors = {_STATE: torch.frombuffer(text, dtype=torch.uint8), **checkpoint.tensors}
    data = save({name: each.contiguous() for name, each in tensors.items()})
    workspace.write(f"{place}/{CHECKPOINT}", data, check=check)


def read_checkpoint(workspace: Storage, place: str, record: RunRecord) -> Checkpoint | None:
    """Return a run's checkpoint; None if there is none, or it is damaged or of other inputs.

    Raises: FitError if it is of this run, computed otherwise than it would be now.
    """
    where = workspace.where(f"{place}/{CHECKPOINT}")
    try:
        tensors = load(workspace.read(f"{place}/{CHECKPOINT}"))
        state = json.loads(bytes(tensors.pop(_STATE).tolist()))
        text = json.dumps(state["record"])
        found = from_json(RunRecord, text, where=where, fix=f"delete {where}")
    except FileNotFoundError:
        return None
    except (SafetensorError, ConfigError, KeyError, ValueError) as error:
        logger.warning("%s is not used: %s", where, " ".join(str(error).split())[:200])
        return None
    if _asked(found) != _asked(record):
        logger.warning("%s is not used: it is of another config or other inputs", where)
        return None
    old, new = asdict(found), asdict(record)
    changed = [f"{key} {old[key]} -> {new[key]}" for key in _COMPUTED if old[key] != new[key]]
    if changed:
        raise FitError(
            f"the checkpoint was computed otherwise than the run would go on: {'; '.join(changed)}",
            where=where,
            fix="go on as it was, or delete the checkpoint to begin anew",
        )
    return Checkpoint(
        step=state["step"], history=state["history"], seconds=state["seconds"], tensors=tensors
    )


def _asked(record: RunRecord) -> tuple[object, ...]:
    return record.config, record.inputs, record.batch_size
