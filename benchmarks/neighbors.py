"""Time the label graph beside a plain NumPy search of the same labels, and the memory of each.

Two cases: 4,719 labels of D = 384 (Google's taxonomy, float16; random where shared/data does not
lie beside the project) and 100,000 random ones of D = 512 in float32. Plain is a float32 product
of 1,024 labels at a time with all, and argpartition for the 21 largest: no order, no ties, no
float64. Every run is a process of its own, the sides take turns; printed are the best seconds of
each, their ratio, and the peak of resident memory above libraries and embeddings. Must reach: less
than a second for the first, minutes and bounded memory for the second ([C, C] in float32 would be
40 GB). Appends to benchmarks/results/neighbors.json. About 10 minutes on 2 cores.

C labels, D embedding width, K neighbors.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from record import append

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.neighbors import build_graph  # noqa: E402

GOOGLE = ROOT.parent / "shared/data/labels/google_minilm.npy"
K = 20
PLAIN_ROWS = 1024
CASES = {"small": (4719, 384, 5), "large": (100_000, 512, 1)}  # C, D, runs of each side


def embeddings(case: str) -> Float[np.ndarray, "C D"]:
    """Return the label embeddings of a case."""
    num_labels, dim, _ = CASES[case]
    if case == "small" and GOOGLE.is_file():
        return np.load(GOOGLE)
    return np.random.default_rng(0).standard_normal((num_labels, dim), np.float32)


def plain(label_emb: Float[np.ndarray, "C D"]) -> None:
    """Find the K + 1 largest cosines of each label, in any order."""
    unit = label_emb.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = np.empty((len(unit), K + 1), np.int64)
    for start in range(0, len(unit), PLAIN_ROWS):
        cosines = unit[start : start + PLAIN_ROWS] @ unit.T
        found[start : start + PLAIN_ROWS] = np.argpartition(cosines, -K - 1)[:, -K - 1 :]


def ours(label_emb: Float[np.ndarray, "C D"]) -> None:
    """Build the label graph."""
    build_graph(label_emb, K)


SIDES: dict[str, Callable[[Float[np.ndarray, "C D"]], None]] = {"ours": ours, "plain": plain}


def kibibytes(field: str) -> int:
    """Return a field of this process's status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def run_here(case: str, side: str) -> None:
    """Run one side in this process and print its seconds and peak memory."""
    label_emb = embeddings(case)
    SIDES[side](label_emb[:256])  # threads are started, libraries loaded
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading them
    before, started = kibibytes("VmRSS"), time.perf_counter()
    SIDES[side](label_emb)
    seconds = time.perf_counter() - started
    peak = (kibibytes("VmHWM") - before) / 1024
    print(json.dumps({"seconds": seconds, "peak_mebibytes": peak}))


def measure(case: str, side: str) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--case", case, "--side", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), help="measure only this one")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_here(options.case, options.side)
        return
    figures = {}
    for case in [options.case] if options.case else CASES:
        num_labels, dim, num_runs = CASES[case]
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(num_runs):
            for side, found in runs.items():
                found.append(measure(case, side))
        seconds = {side: min(run["seconds"] for run in found) for side, found in runs.items()}
        peak = {side: max(run["peak_mebibytes"] for run in found) for side, found in runs.items()}
        is_google = case == "small" and GOOGLE.is_file()
        print(
            f"{num_labels:,} x {dim} ({'Google taxonomy' if is_google else 'random'}), K = {K}: "
            f"ours {seconds['ours']:.2f} s, +{peak['ours']:.0f} MiB; "
            f"plain {seconds['plain']:.2f} s, +{peak['plain']:.0f} MiB; "
            f"plain/ours {seconds['plain'] / seconds['ours']:.2f}",
            flush=True,
        )
        figures[case] = {
            "labels": num_labels,
            "dim": dim,
            "source": "google" if is_google else "random",
            "seconds": {side: round(value, 3) for side, value in seconds.items()},
            "plain_over_ours": round(seconds["plain"] / seconds["ours"], 3),
            "peak_mebibytes": {side: round(value) for side, value in peak.items()},
        }
    append("neighbors", {"k": K, "cases": figures})


if __name__ == "__main__":
    main()
