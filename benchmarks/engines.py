"""Compare the rate of `embed --engine ray` with that of `embed --all`, with as many workers.

    python benchmarks/engines.py --workspace PLANNED [--rounds 3] [--folder FOLDER]

PLANNED is a workspace with a plan of some twenty shards; it is copied, not touched. Per round:
one worker with all cores (`embed --all` against a local Ray), then two with half of the cores each
(two processes of `embed --shards` against a Ray cluster of two nodes on this machine). The rate is
that of the items after each worker's first shard, so that neither side's start counts; whole
commands are printed too. Appended to benchmarks/results/engines.json.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from record import append

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import read_plan
from cache.storage import LocalStorage

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


def embed(
    planned: Path, folder: Path, calls: Sequence[Sequence[str]], num_cores: int
) -> tuple[float, float]:
    """Run embed commands at once on a copy; return items/s after the first shards, and seconds."""
    workspace = folder / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    shutil.copytree(planned, workspace, ignore=shutil.ignore_patterns("cache", "runs"))
    environment = os.environ | {"OMP_NUM_THREADS": str(num_cores), "RAY_AUTH_MODE": "token"}
    common = ["--workers", str(num_cores), "--log-format", "json", "--workspace", str(workspace)]
    processes = [
        subprocess.Popen(
            [sys.executable, "cli.py", "embed", *call, *common, "--device", "cpu"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for call in calls
    ]
    outputs = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("\n".join(outputs))
    events = [
        json.loads(line) for text in outputs for line in text.splitlines() if line.startswith("{")
    ]
    return _rate([each for each in events if each["event"] == "shard_done"]), _seconds(events)


def _seconds(events: Sequence[dict[str, Any]]) -> float:
    times = [datetime.fromisoformat(each["time"]) for each in events]
    return (max(times) - min(times)).total_seconds()


def _rate(events: list[dict[str, Any]]) -> float:
    """Return the rate once every worker has done a shard."""
    first: dict[tuple[str, int], datetime] = {}
    events.sort(key=lambda each: each["time"])
    for each in events:
        first.setdefault((each["host"], each["pid"]), datetime.fromisoformat(each["time"]))
    started = max(first.values())
    later = [each for each in events if datetime.fromisoformat(each["time"]) > started]
    ended = datetime.fromisoformat(later[-1]["time"])
    return sum(each["items"] for each in later) / (ended - started).total_seconds()


def start_nodes(num_cores: int, folder: Path) -> str:
    """Start two Ray nodes; return the cluster's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([RAY, "get-auth-token", "--generate"], capture_output=True, check=True)
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    for place in (head, [f"--address=127.0.0.1:{port}"]):
        subprocess.run(
            [RAY, "start", *place, "--node-ip-address=127.0.0.1", f"--num-cpus={num_cores}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return f"127.0.0.1:{port}"


def main() -> None:
    """Measure in turns, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="with a plan")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    options = parser.parse_args()
    plan = read_plan(LocalStorage(options.workspace))
    cores, half = os.cpu_count() or 1, plan.num_shards // 2
    halves = [f"0-{half - 1}", f"{half}-{plan.num_shards - 1}"]
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        address = start_nodes(max(1, cores // 2), folder / "ray")
        sides: dict[str, tuple[list[list[str]], int]] = {
            "one worker, embed --all": ([["--all"]], cores),
            "one worker, ray": ([["--engine", "ray"]], cores),
            "two workers, processes": ([["--shards", each] for each in halves], cores // 2),
            "two workers, ray": ([["--engine", "ray", "--address", address]], cores // 2),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        try:
            for _ in range(options.rounds):
                for name, (calls, num_cores) in sides.items():
                    found[name].append(embed(options.workspace, folder, calls, max(1, num_cores)))
                    print(f"{name}: {found[name][-1][0]:.0f} items/s", flush=True)
        finally:
            subprocess.run([RAY, "stop", "--force"], stdout=subprocess.DEVNULL, check=False)
    figures: dict[str, Any] = {"items": plan.num_items, "shards": plan.num_shards}
    for name, pairs in found.items():
        rates, seconds = zip(*pairs, strict=True)
        figures[name] = {
            "items_per_second": statistics.median(rates),
            "all_items_per_second": rates,
            "command_seconds": statistics.median(seconds),
        }
    for workers, alone in (("one worker", "embed --all"), ("two workers", "processes")):
        left, right = figures[f"{workers}, ray"], figures[f"{workers}, {alone}"]
        ratio = left["items_per_second"] / right["items_per_second"]
        figures[f"{workers}, ratio"] = ratio
        print(
            f"{workers}: ray {left['items_per_second']:.0f} items/s, {alone} "
            f"{right['items_per_second']:.0f} items/s: {ratio:.3f}; whole commands "
            f"{left['command_seconds']:.1f} s and {right['command_seconds']:.1f} s"
        )
    append("engines", figures)


if __name__ == "__main__":
    main()
