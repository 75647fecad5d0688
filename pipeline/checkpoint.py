"""What a run needs to go on as if nothing had happened: one file, replaced as a whole.

About four times the weights: 106 MB with the default head at 4,350 labels.
"""

import json
import logging
from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cache.storage import Storage
from schemas.configs import from_json, to_json
from schemas.errors import ConfigError
from schemas.run import RunRecord

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
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
    workspace: Storage, place: str, record: RunRecord, checkpoint: Checkpoint
) -> None:
    """Put a run's checkpoint in place of its last one."""
    state = {
        "record": json.loads(to_json(record)),
        "step": checkpoint.step,
        "history": checkpoint.history,
        "seconds": checkpoint.seconds,
    }
    text = bytearray(json.dumps(state).encode())
    tensors = {_STATE: torch.frombuffer(text, dtype=torch.uint8), **checkpoint.tensors}
    workspace.write(
        f"{place}/{CHECKPOINT}", save({name: each.contiguous() for name, each in tensors.items()})
    )


def read_checkpoint(workspace: Storage, place: str, record: RunRecord) -> Checkpoint | None:
    """Return a run's checkpoint; None if there is none, or it is of another config or inputs."""
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
    if _shaping(found) != _shaping(record):
        logger.warning("%s is not used: it is of another config, inputs or machine", where)
        return None
    return Checkpoint(
        step=state["step"], history=state["history"], seconds=state["seconds"], tensors=tensors
    )


def _shaping(record: RunRecord) -> RunRecord:
    """Return what of a record shapes the numbers; code and packages may have been updated."""
    return replace(record, git_commit="", packages={})
