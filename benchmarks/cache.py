"""Read the cache: whole, checksums on, against one thread's readinto; random rows against zarr.

Writes a simulated cache of a million items, D = 512, through the real writer, reads it and prints
both sides of every ratio, medians of several turns that alternate. The files are in the page
cache, so this is the speed of memory; `--items` larger than memory makes it the disk's. Single rows
take the same time in a cache of any size, while zarr reads every chunk that has one of them.
Appends to benchmarks/results/cache.json. About 20 seconds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr
from record import append
from simulated import make_workspace

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.layout import array_name, chunk_name
from cache.reader import Cache
from cache.storage import LocalStorage
from cache.writer import ShardWriter
from schemas.plan import Plan
from schemas.tables import ROWS

NUM_RANDOM = 4096


def fill(workspace: LocalStorage, plan: Plan) -> float:
    """Write every shard; return bytes per second."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((plan.chunk_rows, plan.encoder.embed_dim)).astype(np.float16)
    seconds = num_bytes = 0.0
    for shard in range(plan.num_shards):
        with ShardWriter(workspace, plan, shard, compute_dtype="float32", batch_size=1) as writer:
            for chunk in writer.missing:
                start, stop = writer.chunk_range(chunk)
                matrix, rows = block[: stop - start], rows_table(start, stop)
                started = time.perf_counter()
                writer.write(chunk, image=matrix, title=-matrix, rows=rows)
                seconds += time.perf_counter() - started
                num_bytes += 2 * matrix.nbytes
            writer.commit()
    return num_bytes / seconds


def rows_table(start: int, stop: int) -> pa.Table:
    """Return rows without errors."""
    num_rows = stop - start
    columns = {
        "row": np.arange(start, stop),
        "item_id": [f"item-{row}" for row in range(start, stop)],
        "image_ok": np.ones(num_rows, bool),
        "title_ok": np.ones(num_rows, bool),
        **{name: pa.nulls(num_rows, ROWS.field(name).type) for name in ROWS.names[4:]},
    }
    return pa.table(columns, schema=ROWS)


def plain_read(workspace: LocalStorage, plan: Plan) -> None:
    """One thread's readinto of the same chunk files into one matrix, nothing checked."""
    shape = (-(-plan.num_items // plan.chunk_rows), plan.chunk_rows, plan.encoder.embed_dim)
    matrix = np.empty(shape, np.float16)
    for chunk in range(shape[0]):
        with workspace.path(chunk_name("image", chunk)).open("rb", buffering=0) as file:
            file.readinto(matrix[chunk].data.cast("B"))


def medians(functions: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the median seconds of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(turns + 1):  # the first warms up
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_048_576)
    parser.add_argument("--folder", help="where to write; the system's temporary folder if not")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        workspace = LocalStorage(Path(folder))
        plan = make_workspace(workspace, options.items)
        written = fill(workspace, plan)
        cache = Cache(workspace, plan)
        array = zarr.open_array(workspace.path(array_name("image")), mode="r")
        rows = np.random.default_rng(1).integers(0, plan.num_items, NUM_RANDOM)
        assert np.array_equal(cache.read_random("image", rows), array.oindex[rows])
        read = medians(
            {
                "ours": lambda: cache.read("image"),
                "readinto": lambda: plain_read(workspace, plan),
                "zarr": lambda: array[:],
            },
            turns=5,
        )
        random = medians(
            {
                "ours": lambda: cache.read_random("image", rows),
                "zarr": lambda: array.oindex[rows],
            },
            turns=5,
        )
    gigabytes = plan.num_items * plan.encoder.embed_dim * 2 / 1e9
    print(
        f"{plan.num_items:,} items, {gigabytes:.2f} GB a modality; written {written / 1e9:.2f} GB/s"
    )
    for name, seconds in read.items():
        print(f"  read all, {name:<10} {gigabytes / seconds:8.2f} GB/s")
    print(
        f"  ours / readinto {read['readinto'] / read['ours']:.2f}, "
        f"ours / zarr {read['zarr'] / read['ours']:.1f}"
    )
    for name, seconds in random.items():
        print(f"  {NUM_RANDOM} random rows, {name:<6} {seconds * 1e3:8.2f} ms")
    print(f"  zarr / ours {random['zarr'] / random['ours']:.0f}")
    append(
        "cache",
        {
            "items": plan.num_items,
            "gigabytes": gigabytes,
            "write_gigabytes_per_second": written / 1e9,
            "read_seconds": read,
            "random_seconds": random,
            "ratios": {
                "read: ours / readinto": read["readinto"] / read["ours"],
                "random rows: zarr / ours": random["zarr"] / random["ours"],
            },
        },
    )


if __name__ == "__main__":
    main()
