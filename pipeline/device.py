"""Choose where torch computes."""

import torch

from schemas.errors import ConfigError


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
