"""Time `report` on a demo catalog of which 10,000 items are test items, and weigh its page.

    python benchmarks/report.py [--catalog demo-workspace/catalog] [--test 10000]

Takes the demo's pictures (20,000 of them) with another column `split`; embeds, links and compares
them first (approaches 1, 4 and 5, one seed), which is not timed. Must reach: a minute on 2 cores,
15 MB. Appends to benchmarks/results/report.json.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from record import append

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Make the workspace, time, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catalog", type=Path, default=ROOT / "demo-workspace" / "catalog")
    parser.add_argument("--test", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = ["--workspace", folder]
        items = Path(folder) / "items.parquet"
        write_items(options.catalog, items, options.test)
        catalog = ["--items", str(items), "--labels", str(options.catalog / "labels.csv")]
        cli("plan", *catalog, "--items-root", str(options.catalog), *workspace, *DEMO_PLAN)
        cli("embed", "--all", *workspace)
        cli("neighbors", *workspace)
        cli("compare", "--approaches", "1,4,5", "--seeds", "1", *workspace)
        started = time.perf_counter()
        said = cli("report", *workspace)
        seconds = time.perf_counter() - started
        num_bytes = (Path(folder) / "report" / "index.html").stat().st_size
    shown, mistakes, pictures = (
        int(each.replace(",", "")) for each in re.findall(r"([\d,]+) (?:of|mistakes|with)", said)
    )
    print(
        f"{options.test:,} test items, {shown:,} of {mistakes:,} mistakes shown, {pictures:,} "
        f"pictures: {seconds:.1f} s with the interpreter's start, {num_bytes / 1e6:.1f} MB"
    )
    append(
        "report",
        {
            "test_items": options.test,
            "mistakes": mistakes,
            "shown": shown,
            "pictures": pictures,
            "seconds": seconds,
            "page_bytes": num_bytes,
        },
    )


DEMO_PLAN = ["--model", "shelfwise-tiny", "--label-text", "path"]


def write_items(catalog: Path, path: Path, num_test: int) -> None:
    """Write the demo's items with splits: so many for test, a tenth of the others for val."""
    table = pq.read_table(catalog / "items.parquet")
    order = np.random.default_rng(0).permutation(len(table))
    split = np.full(len(table), "train", object)
    split[order[:num_test]] = "test"
    split[order[num_test : num_test + (len(table) - num_test) // 10]] = "val"
    pq.write_table(table.append_column("split", pa.array(split.tolist())), path)


def cli(*arguments: str) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
