"""Benchmarks that wait for other hardware still run. Called by `make faults`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gpu_benchmark_runs_its_small_size_on_a_cpu(tmp_path: Path) -> None:
    """When a GPU is there, its time is not for finding typing errors."""
    sizes = ["--items", "4000", "--labels", "24", "--dim", "32", "--batch-size", "64"]
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/gpu.py",
            *sizes,
            *["--epochs", "2", "--device", "cpu", "--folder", str(tmp_path / "catalog")],
            *["--parts", "steps,embed,approaches,elsewhere,accuracy", "--pictures", "40"],
            *["--workspaces", str(tmp_path / "catalog" / "4000x32-24")],
            *["--out", str(tmp_path / "figures.json")],
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [run["approach"] for run in figures["approaches"]] == ["1", "2", "3", "4", "5"]
    assert [run["residency"] for run in figures["elsewhere"]] == ["host", "stream"]
    assert all(run["epochs"] == 2 and 0 < run["ceiling_share"] < 2 for run in figures["approaches"])
    assert figures["embed"]["items_per_second"]["embed, workers"] > 0
    assert [len(each["top1"]) for each in figures["accuracy"]] == [3] * 4
    assert set(figures["steps"]["steps"][0]["ratios"]) == {"1", "4", "5"}
    assert "all 5 approaches, loaded once" in done.stdout
