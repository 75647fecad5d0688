"""Run the demo as a stranger does, twice, and what images and titles give alone.

Prints wall times, peak memory of all its processes together, and the figures of DESIGN.md's demo:
top1 of both modalities and of each alone, neighbors@5 of approaches 1 and 4. Appends to
benchmarks/results/demo.json. Takes about 5 minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from record import append

ROOT = Path(__file__).parents[1]
_SAMPLE_SECONDS = 0.2


def run(arguments: list[str]) -> tuple[float, float]:
    """Run cli.py; return its wall time in seconds and its peak memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "cli.py", *arguments],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    peak = [0.0]
    sampler = threading.Thread(target=_sample, args=(process, peak))
    sampler.start()
    if process.wait():
        raise SystemExit(f"cli.py {' '.join(arguments)} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    sampler.join()
    return seconds, peak[0]


def _sample(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], _session_mebibytes(process.pid))
        time.sleep(_SAMPLE_SECONDS)


def _session_mebibytes(session: int) -> float:
    """Sum the proportional memory of a session's processes (shared pages counted once)."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.getsid(int(folder.name)) == session:
                    text = (folder / "smaps_rollup").read_text(encoding="ascii")
                    total += next(
                        int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:"
                    )
            except (OSError, StopIteration):
                continue  # it ended meanwhile
    return total / 1024


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder:
        place = ["--workspace", folder, "--device", "cpu"]
        first, peak = run(["demo", *place])
        second, _ = run(["demo", *place])
        top1 = {}
        for modalities in ("both", "image", "title"):
            run(["fit", "--approach", "1", "--modalities", modalities, *place])
            suffix = "" if modalities == "both" else f"-{modalities}"
            path = Path(folder) / "runs" / f"a1-onehot{suffix}-s0" / "metrics.json"
            top1[modalities] = json.loads(path.read_text(encoding="utf-8"))["top1"]
        report = json.loads((Path(folder) / "report" / "compare.json").read_text(encoding="utf-8"))
    runs = {name: next(iter(each["runs"].values())) for name, each in report["approaches"].items()}
    figures = {
        "first_seconds": round(first, 1),
        "second_seconds": round(second, 1),
        "peak_mebibytes": round(peak),
        "top1": {name: round(value, 4) for name, value in top1.items()},
        "neighbors_at_5": {name: round(each["neighbors_at_5"], 3) for name, each in runs.items()},
        "top5": {name: round(each["top5"], 4) for name, each in runs.items()},
    }
    for name, value in figures.items():
        print(f"{name:18} {value}")
    append("demo", figures)


if __name__ == "__main__":
    main()
