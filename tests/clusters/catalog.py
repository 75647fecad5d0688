"""A catalog that takes a cluster some seconds, and what became of it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from cache.layout import MODALITIES
from tests.fakes import write_catalog

ROOT = Path(__file__).parents[2]
SHARD_ROWS = 96
# One thread, as each of the workers has: what is added up in another order rounds otherwise.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def cli(*arguments: str | Path) -> list[str]:
    """Return the command line of a call."""
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        cli(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, **options
    )


def noise(seed: int, side: int = 160) -> bytes:
    """Return a picture unlike any other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def plan_noise(
    place: Path,
    num_shards: int,
    *,
    workspace: str | None = None,
    shard_rows: int = SHARD_ROWS,
    **columns: list[object],
) -> None:
    """Plan a catalog of noise with the bundled encoder, in a folder or another workspace."""
    num_items = num_shards * shard_rows
    side = 160 if shard_rows == SHARD_ROWS else 48  # many have to be made quickly
    pictures: list[object] = [noise(seed, side) for seed in range(num_items)]
    items, labels = write_catalog(
        place.parent / f"{place.name}-catalog",
        num_items=num_items,
        **({"image": pictures} | columns),
    )
    sizes = ["--shard-rows", str(shard_rows), "--chunk-rows", "32"]
    options = ["--items", items, "--labels", labels, "--model", "shelfwise-tiny", *sizes]
    run("plan", *options, "--workspace", workspace or place, check=True)


def cache_bytes(workspace: Path) -> dict[str, bytes]:
    """Return all that may not depend on who embedded: arrays and rows."""
    places = [*(f"{name}.zarr" for name in (*MODALITIES, "label")), "rows"]
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for place in places
        for path in sorted((workspace / "cache" / place).rglob("*"))
        if path.is_file()
    }
