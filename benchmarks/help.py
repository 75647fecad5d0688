"""Time `cli.py --help` and every command's `--help`, whole process, median of 7.

Must stay under 0.3 s (DESIGN.md section 9). Prints, and appends to benchmarks/results/help.json.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from record import append

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "", "plan", "embed", "status", "verify", "import", "export", "neighbors", "fit", "compare",
    "demo",
)  # fmt: skip
NUM_RUNS = 7


def seconds(arguments: list[str]) -> float:
    """Return the wall time of one Python process in seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and report."""
    figures = {"python -c pass": median(seconds(["-c", "pass"]) for _ in range(NUM_RUNS))}
    for command in COMMANDS:
        arguments = ["cli.py", *command.split(), "--help"]
        figures[" ".join(arguments)] = median(seconds(arguments) for _ in range(NUM_RUNS))
    for name, value in figures.items():
        print(f"{name:28} {1000 * value:6.0f} ms")
    append("help", {"seconds": {name: round(value, 4) for name, value in figures.items()}})


if __name__ == "__main__":
    main()
