"""Training killed at random, and training shared by two processes. Run by `make faults`."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cache.storage import LocalStorage
from pipeline.checkpoint import CHECKPOINT
from pipeline.neighbors import write_neighbors
from schemas.run import FitConfig, FitRuntime
from tests.fakes import fake_workspace
from tests.faults import ROOT, Processes, wait_until
from tests.fit_faults import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("residency", "num_kills"), [("host", 10), ("stream", 4)])
def test_a_run_killed_at_random_ends_in_the_same_bytes(
    workspace: LocalStorage, residency: str, num_kills: int
) -> None:
    """Kill -9, most of them in training; every time it goes on from its checkpoint."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    config = FitConfig(approach="5", epochs=8, patience=8, batch_size=16, hidden_dim=64, lr=0.01)
    runtime = FitRuntime(device="cpu", checkpoint_seconds=0, residency=residency)
    with Processes() as processes:
        folder = Path(processes.run(train, workspace.location, config, runtime).result())
        started = time.monotonic()
        shutil.rmtree(folder)
        processes.run(train, workspace.location, config, runtime).result()
        seconds = time.monotonic() - started
        expected = {
            name: (folder / name).read_bytes()
            for name in ("model.safetensors", "metrics.json", "predictions.parquet")
        }
        shutil.rmtree(folder)
        random.seed(0)
        num_killed = num_resumed = 0
        while num_killed < num_kills:
            child = processes.start(
                train, workspace.location, config, replace(runtime, resume=True)
            )
            time.sleep(random.uniform(0, seconds))
            num_resumed += (folder / CHECKPOINT).exists()
            child.send(9)
            num_killed += child.wait().was_killed
            if (folder / "commit.json").exists():  # it was faster: again from the beginning
                shutil.rmtree(folder)
        assert num_resumed >= num_kills // 2
        processes.run(train, workspace.location, config, replace(runtime, resume=True)).result()
    for name, content in expected.items():
        assert (folder / name).read_bytes() == content, name


FLOAT32 = """
from pipeline import runs
runs.has_bfloat16 = lambda device: False
import cli
cli.main()
"""


def torchrun(location: str, *options: str, processes: int) -> list[dict[str, float]]:
    """Fit through the command line in several processes; return the run's history.

    In float32 on any machine: parts of a batch are rounded apart in bfloat16.
    """
    script = Path(location, "float32.py")
    script.write_text(FLOAT32)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += [str(script), "fit", "--epochs", "4", "--batch-size", "32", "--lr", "0.01"]
    command += options
    done = subprocess.run(
        [*command, "--workspace", location],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("neighbors@5") == 1, done.stdout  # one process reports
    shares = re.findall(r"processes held ([0-9 +]+) train items", done.stderr)
    assert [share.count("+") + 1 for share in shares] == [processes] * (processes > 1)
    folder = next(Path(location, "runs").iterdir())
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert json.loads((folder / "config.json").read_text())["num_processes"] == processes
    return lines


@pytest.mark.parametrize(
    ("approach", "options"),
    [("5", []), ("online", ["--residency", "stream", "--accumulate", "2"])],
)
def test_two_and_four_processes_train_as_one(
    workspace: LocalStorage, approach: str, options: list[str]
) -> None:
    """Same global batch, same dropout: the loss curves agree within 1e-3, and so do the weights."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    found, weights = {}, {}
    for processes in (1, 2, 4):
        found[processes] = torchrun(
            workspace.location, "--approach", approach, *options, processes=processes
        )
        folder = next(Path(workspace.location, "runs").iterdir())
        weights[processes] = load_file(folder / "model.safetensors")
        shutil.rmtree(folder)
    for processes in (2, 4):
        for alone, shared in zip(found[1], found[processes], strict=True):
            for name in ("train/loss", "train/focal", "val/nll"):
                assert shared[name] == pytest.approx(alone[name], rel=1e-3), name
            assert shared["val/top1"] == pytest.approx(alone["val/top1"], abs=0.02)
        for name, value in weights[1].items():
            assert (value - weights[processes][name]).abs().max() < 0.01, name


def test_a_stopped_shared_run_goes_on(workspace: LocalStorage) -> None:
    """SIGTERM to torchrun reaches all of its processes; the first keeps the checkpoint."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "cli.py", "fit"]
    command += ["--approach", "5", "--epochs", "3000", "--batch-size", "64", "--workspace"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, workspace.location],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        runs = Path(workspace.location, "runs")
        wait_until(lambda: any(path.stat().st_size for path in runs.glob("*/history.jsonl")))
        process.terminate()
        assert process.wait() != 0
    file = next(runs.glob(f"*/{CHECKPOINT}"))
    history = file.parent / "history.jsonl"

    def num_epochs() -> int:
        return len(history.read_text().splitlines()) if history.exists() else 0

    before = num_epochs()
    with subprocess.Popen(
        [*command, workspace.location, "--resume"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = ""
        while "goes on after step" not in said:
            said = process.stderr.readline()
            assert said, "ended without going on"
        wait_until(lambda: num_epochs() > before + 3)
        process.terminate()
        rest = process.stderr.read()
        assert process.wait() != 0
    assert "is not used" not in rest
