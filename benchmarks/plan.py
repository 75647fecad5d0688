"""Plan simulated catalogs of 1 to 100 million items, and see that time an item and memory stay.

    python benchmarks/plan.py [--sizes 1000000,10000000,100000000] [--folder FOLDER]

Writes a Parquet catalog of each size over 4,350 labels (not timed), in files of up to 5 million
rows, then runs `cli.py plan` on it in a process of its own. Printed and appended to
benchmarks/results/plan.json: seconds, microseconds an item, peak resident memory of the process
and those it starts, number of shards. 100 million items need 4 GB of disk, and are gone after.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from record import append

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import read_plan
from cache.storage import LocalStorage
from pipeline.progress import Progress

ROOT = Path(__file__).parents[1]
SIZES = "1000000,10000000,100000000"
NUM_LABELS = 4350
FILE_ROWS = 5_000_000
GROUP_ROWS = 100_000
_LOOK_SECONDS = 0.1
_WORDS = ("red", "small", "oak", "steel", "Acme", "chair", "lamp", "shelf", "boots", "kettle")


def write_catalog(folder: Path, num_items: int) -> None:
    """Write items/*.parquet and labels.csv, a row group at a time."""
    (folder / "items").mkdir(parents=True)
    names = "".join(f"L{label:05d},Shelf {label}\n" for label in range(NUM_LABELS))
    (folder / "labels.csv").write_text(f"label_id,name\n{names}")
    with Progress(f"write {num_items:,} items", num_items) as progress:
        for number, start in enumerate(range(0, num_items, FILE_ROWS)):
            stop = min(start + FILE_ROWS, num_items)
            path = folder / "items" / f"{number:05d}.parquet"
            with pq.ParquetWriter(path, _rows(0, 1).schema, compression="zstd") as writer:
                for row in range(start, stop, GROUP_ROWS):
                    table = _rows(row, min(row + GROUP_ROWS, stop))
                    writer.write_table(table)
                    progress.update(len(table))


def _rows(start: int, stop: int) -> pa.Table:
    """Return rows of the catalog; labels are drawn with few large and many small ones."""
    rng = np.random.default_rng(start)
    numbers = pa.array(np.arange(start, stop)).cast(pa.string())
    words = pa.array(_WORDS)
    drawn = [words.take(pa.array(rng.integers(len(words), size=stop - start))) for _ in range(4)]
    labels = (NUM_LABELS * rng.random(stop - start) ** 2).astype(int)
    label_ids = pa.array([f"L{label:05d}" for label in range(NUM_LABELS)])
    return pa.table(
        {
            "item_id": pc.binary_join_element_wise("item", pc.utf8_lpad(numbers, 12, "0"), "-"),
            "title": pc.binary_join_element_wise(*drawn, numbers, " "),
            "image_path": pc.binary_join_element_wise("pictures/", numbers, ".jpg", ""),
            "label_id": label_ids.take(pa.array(labels)),
        }
    )


def measure(folder: Path) -> dict[str, Any]:
    """Plan the catalog of a folder; return seconds and the peak of what the processes hold."""
    command = [sys.executable, "cli.py", "plan", "--workspace", str(folder / "workspace")]
    command += ["--items", str(folder / "items"), "--labels", str(folder / "labels.csv")]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [*command, "--model", "shelfwise-tiny", "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = time.perf_counter() - started
    plan = read_plan(LocalStorage(folder / "workspace"))
    return {
        "items": plan.num_items,
        "seconds": seconds,
        "microseconds_per_item": seconds / plan.num_items * 1e6,
        "peak_resident_bytes": peak,
        "shards": plan.num_shards,
    }


def _resident(pid: int) -> int:
    """Return the resident memory of a process and all that it started."""
    try:
        first = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (first, *first.children(recursive=True)))
    except psutil.NoSuchProcess:  # one has just ended
        return 0


def describe(figures: dict[str, Any]) -> str:
    """Say a run's figures in one line."""
    return (
        f"{figures['items']:>11,} items: {figures['seconds']:.1f} s, "
        f"{figures['microseconds_per_item']:.2f} us an item, peak "
        f"{figures['peak_resident_bytes'] / 1e9:.2f} GB, {figures['shards']:,} shards"
    )


def main() -> None:
    """Make the catalogs, measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    options = parser.parse_args()
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            write_catalog(Path(temporary), size)
            os.sync()  # the writes of a catalog are not its reader's time
            figures = measure(Path(temporary))
            print(describe(figures), flush=True)
            append("plan", figures)


if __name__ == "__main__":
    main()
