"""Time import, verify, full read and export beside the plain speed of the same bytes.

Makes N x 512 float16 image and title embeddings and a plan for them, then runs every step in a
process of its own, four times, and prints the best time of each side, their ratio, and the peak of
resident memory above what was there before and the result itself. Plain means one thread: a copy
of the mapped files, a write of the same bytes as files of a chunk with fsync, `readinto` of the
chunk files. What a step reads is read once before, to be in the page cache. Appends to
benchmarks/results/import_export.json. At a million items it needs 8 GB of disk, as much memory for
the page cache, and about 4 minutes.

N items, D embedding width.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import append
from simulated import item_ids, make_workspace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cache.layout import (  # noqa: E402
    ITEM_DTYPE,
    MODALITIES,
    chunk_name,
)
from cache.reader import Cache, read_plan  # noqa: E402
from cache.storage import LocalStorage  # noqa: E402
from pipeline.embedding_files import open_files  # noqa: E402
from pipeline.export_embeddings import export_embeddings  # noqa: E402
from pipeline.import_embeddings import import_embeddings  # noqa: E402
from pipeline.verify import verify  # noqa: E402
from schemas.plan import Plan  # noqa: E402

DIM = 512
NUM_RUNS = 4
# What is measured, and the plain steps that move the same bytes.
STEPS = {
    "import": ("copy", "write"),
    "import permuted": ("copy", "write"),
    "verify": ("readinto",),
    "read": ("readinto whole",),
    "export": ("readinto", "write"),
}


def make_source(folder: Path, num_items: int) -> None:
    """Write image.npy and title.npy, and ids in plan order and in any order."""
    rng = np.random.default_rng(0)
    np.save(folder / "ids.npy", np.array(item_ids(np.arange(num_items)), "S"))
    np.save(folder / "permuted.npy", np.array(item_ids(rng.permutation(num_items)), "S"))
    for name in MODALITIES:
        matrix = np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", ITEM_DTYPE, (num_items, DIM)
        )
        for first in range(0, num_items, Plan.chunk_rows):
            rows = rng.standard_normal((len(matrix[first : first + Plan.chunk_rows]), DIM))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            matrix[first : first + Plan.chunk_rows] = rows
        matrix.flush()


def _chunk_files(plan: Plan, workspace: LocalStorage) -> list[tuple[str, Path]]:
    chunks = range(-(-plan.num_items // plan.chunk_rows))
    return [(m, workspace.path(chunk_name(m, chunk))) for m in MODALITIES for chunk in chunks]


def our_steps(folder: Path) -> dict[str, Callable[[], int]]:
    """Return what is measured; each returns the bytes of its result that stay in memory."""
    workspace = LocalStorage(folder / "workspace")
    plan = read_plan(workspace)

    def run_import(ids: str) -> int:
        source = open_files(
            plan,
            image_emb=str(folder / "image.npy"),
            title_emb=str(folder / "title.npy"),
            ids=str(folder / ids),
        )
        import_embeddings(workspace, plan, source, _no_encoder, trust=True)
        return 0

    def run_verify() -> int:
        verify(workspace, plan, range(plan.num_shards)).check()
        return 0

    def read() -> int:
        cache = Cache(workspace, plan)
        return sum(matrix.nbytes for matrix in [cache.read(name) for name in MODALITIES])

    def export() -> int:
        export_embeddings(workspace, plan, str(folder / "out"), allow_partial=True)
        return 0

    return {
        "import": lambda: run_import("ids.npy"),
        "import permuted": lambda: run_import("permuted.npy"),
        "verify": run_verify,
        "read": read,
        "export": export,
    }


def plain_steps(folder: Path) -> dict[str, Callable[[], int]]:
    """Return the same bytes moved plainly, likewise."""
    workspace = LocalStorage(folder / "workspace")
    plan = read_plan(workspace)

    def copy() -> int:
        out = np.empty((plan.chunk_rows, DIM), ITEM_DTYPE)
        for name in MODALITIES:
            matrix = np.load(folder / f"{name}.npy", mmap_mode="r")
            for first in range(0, len(matrix), plan.chunk_rows):
                rows = matrix[first : first + plan.chunk_rows]
                out[: len(rows)] = rows
        return 0

    def write() -> int:
        data = np.random.default_rng(0).bytes(plan.chunk_rows * DIM * ITEM_DTYPE.itemsize)
        (folder / "plain").mkdir()
        for number in range(len(_chunk_files(plan, workspace))):
            with (folder / "plain" / str(number)).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        return 0

    def readinto() -> int:
        buffer = np.empty((plan.chunk_rows, DIM), ITEM_DTYPE)
        for _, path in _chunk_files(plan, workspace):
            with path.open("rb", buffering=0) as file:
                file.readinto(buffer.data.cast("B"))
        return 0

    def readinto_whole() -> int:
        wholes = {name: np.empty((plan.num_items, DIM), ITEM_DTYPE) for name in MODALITIES}
        places = dict.fromkeys(MODALITIES, 0)
        for name, path in _chunk_files(plan, workspace):
            place = places[name]
            places[name] += plan.chunk_rows
            with path.open("rb", buffering=0) as file:
                file.readinto(wholes[name][place : place + plan.chunk_rows].data.cast("B"))
        return sum(matrix.nbytes for matrix in wholes.values())

    return {
        "copy": copy,
        "write": write,
        "readinto": readinto,
        "readinto whole": readinto_whole,
    }


def _no_encoder() -> None:
    raise AssertionError("trusted embeddings need no encoder")


def _kibibytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def run_here(step: str, folder: Path) -> None:
    """Run one step in this process and print its seconds and peak memory."""
    function = {**our_steps(folder), **plain_steps(folder)}[step]
    # In a virtual machine, pages that nobody used lately cost a fault of the host too; which step
    # met them would be chance. So every step begins after as much memory was used and freed.
    num_items = read_plan(LocalStorage(folder / "workspace")).num_items
    np.ones((len(MODALITIES), num_items, DIM), ITEM_DTYPE)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading the libraries
    before, started = _kibibytes("VmRSS"), time.perf_counter()
    result_bytes = function()
    seconds = time.perf_counter() - started
    peak = (_kibibytes("VmHWM") - before) / 1024 - result_bytes / 2**20
    print(json.dumps({"seconds": seconds, "peak_mebibytes": peak}))


def measure(step: str, folder: Path) -> dict[str, float]:
    """Run one step in a process of its own."""
    for name in ("plain", "out", *(["workspace/cache"] if step.startswith("import") else [])):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in [*folder.glob("*.npy"), *folder.glob("workspace/cache/*.zarr/c/*/0")]:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    os.sync()  # else a step waits for what the one before has left to be written
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_here(options.step, options.folder)
        return
    logging.disable()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(LocalStorage(folder / "workspace"), options.items)
        make_source(folder, options.items)
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(NUM_RUNS):
            for step, plain in STEPS.items():
                for each in (step, *plain):
                    found.setdefault(each, []).append(measure(each, folder))
    seconds = {step: min(run["seconds"] for run in runs) for step, runs in found.items()}
    megabytes = 2 * options.items * DIM * ITEM_DTYPE.itemsize / 1e6
    figures = {}
    for step, plain in STEPS.items():
        plain_seconds = sum(seconds[each] for each in plain)
        figures[step] = {
            "seconds": round(seconds[step], 3),
            "plain_seconds": round(plain_seconds, 3),
            "plain_over_ours": round(plain_seconds / seconds[step], 3),
            "peak_mebibytes": round(max(run["peak_mebibytes"] for run in found[step])),
        }
        print(
            f"{step:16} {seconds[step]:7.2f} s  {options.items / seconds[step]:11,.0f} rows/s  "
            f"{megabytes / seconds[step]:6,.0f} MB/s   plain ({' + '.join(plain)}) "
            f"{plain_seconds:.2f} s, {megabytes / plain_seconds:,.0f} MB/s   "
            f"plain/ours {plain_seconds / seconds[step]:.2f}   "
            f"peak +{figures[step]['peak_mebibytes']} MiB"
        )
    append("import_export", {"items": options.items, "dim": DIM, "steps": figures})


if __name__ == "__main__":
    main()
