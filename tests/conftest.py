"""Fixtures that cost too much to make for every test."""

import json
import logging
import os
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from cache.storage import LocalStorage

# Tests run offline: a hub that is out of reach must never cost a test its minutes.
os.environ["HF_HUB_OFFLINE"] = "1"
# Networks of a few thousand weights: a second thread only waits for the first.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _loggers_are_heard() -> None:
    """Undo what an earlier test's command line did to the loggers, so that caplog hears them."""
    for name in ("cli", "pipeline", "cache"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)


@pytest.fixture
def workspace(tmp_path: Path) -> LocalStorage:
    """Return an empty workspace."""
    return LocalStorage(tmp_path)


SMALL_ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a real, small, randomly initialized open_clip model."""
    folder = tmp_path_factory.mktemp("small-model")
    config = {"model_cfg": SMALL_ARCHITECTURE, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**SMALL_ARCHITECTURE)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder
