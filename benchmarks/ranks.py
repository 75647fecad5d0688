"""Train one run by one, two and four processes, and compare curves, pace and memory.

    python benchmarks/ranks.py --workspace FOLDER [--epochs 2] [--approach 5]

FOLDER is a finished workspace; runs/ in it is not touched. Every process computes with its share
of the cores. Printed and appended to benchmarks/results/ranks.json: items/s, train items and peak
memory of each process, and the largest difference of the loss curves, relative.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import append

ROOT = Path(__file__).parents[1]
CURVES = ("train/loss", "train/focal", "val/nll")


def copy_of(workspace: Path, folder: Path) -> Path:
    """Return a workspace with links to all but the runs."""
    for path in workspace.iterdir():
        if path.name not in ("runs", "cache"):
            (folder / path.name).symlink_to(path)
    (folder / "cache").mkdir()
    for path in (workspace / "cache").iterdir():
        if path.name != "leases":
            (folder / "cache" / path.name).symlink_to(path)
    return folder


def train(workspace: Path, num_processes: int, options: list[str]) -> dict[str, Any]:
    """Fit in so many processes; return the history and what each held."""
    command = [sys.executable]
    if num_processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={num_processes}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    done = subprocess.run(
        [*command, "cli.py", "fit", *options, "--log-format", "json", "--workspace", workspace],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    folder = next((workspace / "runs").iterdir())
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    shutil.rmtree(workspace / "runs")
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    shares = next((each for each in lines if each["event"] == "ranks"), None)
    pace = re.search(r"([\d,]+) items/s, .* peak memory ([\d.]+) GB", done.stdout)
    assert pace is not None
    return {
        "processes": num_processes,
        "threads": threads,
        "items_per_second": int(pace[1].replace(",", "")),
        "train_items": shares["train_items"] if shares else None,
        "peak_bytes": shares["peak_bytes"] if shares else [float(pace[2]) * 1e9],
        "history": [{name: each[name] for name in (*CURVES, "val/top1")} for each in history],
    }


def difference(alone: dict[str, Any], shared: dict[str, Any]) -> float:
    """Return how far the curves are from each other, as a share of the first."""
    pairs = zip(alone["history"], shared["history"], strict=True)
    return max(abs(b[name] - a[name]) / a[name] for a, b in pairs for name in CURVES)


def main() -> None:
    """Train, compare, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--epochs", default="2")
    parser.add_argument("--approach", default="5")
    parser.add_argument("--residency", default="auto")
    options = parser.parse_args()
    call = ["--approach", options.approach, "--epochs", options.epochs, "--device", "cpu"]
    call += ["--residency", options.residency]
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        workspace = copy_of(options.workspace.resolve(), Path(temporary))
        for num_processes in (1, 2, 4):
            found.append(train(workspace, num_processes, call))
            each = found[-1]
            each["largest_difference"] = difference(found[0], each)
            held = "all" if each["train_items"] is None else each["train_items"]
            memory = " + ".join(f"{num / 1e9:.2f}" for num in each["peak_bytes"])
            print(
                f"{num_processes} processes of {each['threads']} threads: "
                f"{each['items_per_second']:,} items/s, train items {held}, peak memory {memory} "
                f"GB, curves differ by at most {each['largest_difference']:.1e}",
                flush=True,
            )
    append("ranks", {"epochs": options.epochs, "approach": options.approach, "runs": found})


if __name__ == "__main__":
    main()
