"""What the tests of killed and shared runs start in processes of their own.

The fork server imports this module, and torch with it, once; see tests/faults.py.
"""

from pathlib import Path

import torch

from cache.reader import read_plan
from cache.storage import LocalStorage
from pipeline.fit import fit
from schemas.run import FitConfig, FitRuntime


def train(location: str, config: FitConfig, runtime: FitRuntime) -> str:
    """Train a run in a workspace, with one thread; return its folder."""
    torch.set_num_threads(1)
    workspace = LocalStorage(Path(location))
    return fit(workspace, read_plan(workspace), config, runtime=runtime).folder
