"""Where the embeddings are while a run trains: on the device, in memory, or on disk.

12M items at D = 512 are 24.6 GB: they fit a GPU of 80 GB and not a machine of 24.
"""

from pathlib import Path

import psutil
import torch

from pipeline.ranks import ALONE, Ranks
from schemas.errors import FitError

DEVICE, HOST, STREAM = "device", "host", "stream"
_PLACES = (DEVICE, HOST, STREAM)
_CGROUP = Path("/sys/fs/cgroup")
# Of what is free: the rest is for weights, logits and everybody else.
_SHARE = 0.7


def choose_residency(asked: str, num_bytes: int, device: torch.device, ranks: Ranks = ALONE) -> str:
    """Return where the embeddings are to be.

    Args:
        asked: `device`, `host`, `stream`, or `auto` for the first of them with enough free memory.
        num_bytes: of the embeddings that this process holds.
        device: where it trains; for a CPU, `device` and `host` are one.
        ranks: that share the machine's memory, and take the same place.
    Raises: FitError if `device` or `host` was asked for and is too small.
    """
    host = free_bytes(torch.device("cpu")) // ranks.local_size
    free = {DEVICE: host if device.type == "cpu" else free_bytes(device), HOST: host}
    if asked == "auto":
        fitting = [place for place in (DEVICE, HOST) if num_bytes <= _SHARE * free[place]]
        chosen = max(ranks.all_of(fitting[0] if fitting else STREAM), key=_PLACES.index)
    else:
        chosen = asked
    if chosen != STREAM and num_bytes > free[chosen]:
        raise FitError(
            f"embeddings of {num_bytes / 1e9:.1f} GB do not fit the {free[chosen] / 1e9:.1f} GB "
            f"that are free on the {chosen}",
            where=f"--residency {chosen}",
            fix="use --residency stream, or auto",
        )
    return HOST if chosen == DEVICE and device.type == "cpu" else chosen


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device; for the CPU what the machine and its cgroup leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [psutil.virtual_memory().available]
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and used is not None:
        # The page cache counts as used and is given back.
        found.append(limit - used + (_cgroup_stat("inactive_file") or 0))
    return max(0, min(found))


def _cgroup(name: str) -> int | None:
    try:
        text = (_CGROUP / name).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit


def _cgroup_stat(name: str) -> int | None:
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)
