"""Look after simulated caches of up to a billion items: status, verify's listing, what embed asks.

    python benchmarks/shards.py [--sizes 1024,4096,16384] [--folder FOLDER]

Makes a workspace of so many shards of 65,536 rows (commits, leases, files of the right sizes
without a byte of data; not timed), of which one in a hundred is missing, then runs `status`,
`status --json` and `status --missing` in processes of their own, and times in one more what a
worker does before each shard. Printed and appended to benchmarks/results/shards.json: seconds,
peak resident memory, size of plan and JSON. 16,384 shards make 180,000 small files.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from record import append

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.layout import (
    LABELS_TABLE,
    MODALITIES,
    chunk_name,
    chunk_num_bytes,
    chunk_range,
    commit_name,
    open_arrays,
    parquet_bytes,
    rows_name,
)
from cache.reader import PLAN, read_plan
from cache.storage import LocalStorage
from cache.verify import shard_state
from pipeline.encoder import resolve
from pipeline.progress import Progress
from schemas.commit import ShardCommit, sealed_json
from schemas.configs import to_json
from schemas.plan import ItemsSource, Plan, even_shards
from schemas.tables import LABELS

ROOT = Path(__file__).parents[1]
SHARD_ROWS = 65536
CALLS = {"status": [], "status --json": ["--json"], "status --missing": ["--missing"]}


def make_plan(workspace: LocalStorage, num_shards: int) -> Plan:
    """Write a plan of so many shards, without their items tables."""
    spec = resolve("shelfwise-tiny", "")
    sha256s = tuple(hashlib.sha256(b"%d" % shard).hexdigest() for shard in range(num_shards))
    table = pa.table(
        {name: [0] if name in ("label", "count") else ["Shelf"] for name in LABELS.names}
    )
    labels = parquet_bytes(table.cast(LABELS))
    plan = Plan(
        items=ItemsSource(files=()),
        labels_path="labels.csv",
        labels_sha256="0" * 64,
        label_text="name",
        num_labels=1,
        limit=None,
        encoder=spec,
        spec_id=spec.spec_id(),
        shard_rows=SHARD_ROWS,
        shard_items=even_shards(num_shards * SHARD_ROWS, SHARD_ROWS),
        shards=sha256s,
        items_tables=sha256s,
        labels_table=hashlib.sha256(labels).hexdigest(),
    )
    workspace.write(LABELS_TABLE, labels)
    workspace.write(PLAN, to_json(plan).encode())
    return plan


def make_cache(workspace: LocalStorage, plan: Plan) -> None:
    """Write what a finished cache holds, but no data: the files are holes."""
    open_arrays(workspace, plan)
    num_bytes = chunk_num_bytes(plan)
    with Progress("simulate", plan.num_shards, "shard") as progress:
        for shard in range(plan.num_shards):
            if shard % 100 == 99:
                continue
            chunks = chunk_range(plan, shard)
            for name in [rows_name(shard), *(chunk_name(m, c) for m in MODALITIES for c in chunks)]:
                path = workspace.path(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.truncate(path, num_bytes)
            start, stop = plan.shard_range(shard)
            commit = ShardCommit(
                shard=shard,
                start=start,
                stop=stop,
                spec_id=plan.spec_id,
                items_sha256=plan.shards[shard],
                image_ok=stop - start - 3,
                title_ok=stop - start,
                num_bad=3,
                reasons={"image: no such file": 3},
                chunk_bytes=num_bytes,
                image_crc32c=(4_000_000_000,) * len(chunks),
                title_crc32c=(4_000_000_000,) * len(chunks),
                rows_sha256="0" * 64,
                compute_dtype="bfloat16",
                batch_size=256,
                seconds=65.0,
                host=f"node-{shard % 64}",
            )
            path = workspace.path(commit_name(shard))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sealed_json(commit))
            progress.update(1)


def measure(folder: Path, options: list[str]) -> dict[str, Any]:
    """Run a status command; return seconds, its peak memory and what it printed."""
    # Not ru_maxrss: a process inherits what its parent had.
    code = "import sys, cli\ntry: cli.main(sys.argv[1:], standalone_mode=False)\n"
    code += "finally: print(open('/proc/self/status').read(), file=sys.stderr)"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "status", *options, "--workspace", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "seconds": time.perf_counter() - started,
        "peak_resident_bytes": int(done.stderr.partition("VmHWM:")[2].split()[0]) * 1024,
        "printed_bytes": len(done.stdout),
    }


def before_each_shard(workspace: LocalStorage) -> float:
    """Return the seconds that a worker takes to read the plan anew and see a shard's state."""
    read_plan(workspace)
    started = time.perf_counter()
    for shard in range(5):
        shard_state(workspace, read_plan(workspace), shard)
    return (time.perf_counter() - started) / 5


def main() -> None:
    """Simulate, measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1024,4096,16384")
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    options = parser.parse_args()
    for num_shards in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            workspace = LocalStorage(Path(temporary))
            plan = make_plan(workspace, num_shards)
            make_cache(workspace, plan)
            figures: dict[str, Any] = {
                "shards": num_shards,
                "items": plan.num_items,
                "plan_bytes": workspace.size(PLAN),
                "before_each_shard_seconds": before_each_shard(workspace),
                "calls": {name: measure(workspace.root, call) for name, call in CALLS.items()},
            }
            print(f"{num_shards:,} shards, {plan.num_items:,} items:", flush=True)
            for name, call in figures["calls"].items():
                print(
                    f"  {name:<18} {call['seconds']:6.2f} s, peak "
                    f"{call['peak_resident_bytes'] / 1e6:,.0f} MB, prints "
                    f"{call['printed_bytes'] / 1e6:.2f} MB"
                )
            print(
                f"  before each shard  {figures['before_each_shard_seconds']:6.2f} s; the plan has "
                f"{figures['plan_bytes'] / 1e6:.1f} MB",
                flush=True,
            )
            append("shards", figures)


if __name__ == "__main__":
    main()
