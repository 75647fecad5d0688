"""`clusters/slurm/submit.sh` on a real Slurm on this machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.storage import LocalStorage
from tests.clusters import slurm
from tests.clusters.catalog import ENVIRONMENT, ROOT, cache_bytes, plan_noise, run
from tests.fakes import labels_commit_path

NUM_SHARDS = 8
pytestmark = [
    pytest.mark.skipif(bool(slurm.missing()), reason=f"Slurm cannot run here: {slurm.missing()}"),
    pytest.mark.timeout(580),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Slurm]:
    with slurm.running(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def submit(cluster: slurm.Slurm, workspace: Path) -> dict[str, list[str]]:
    """Submit what is missing; return the jobs of each stage."""
    environment = (
        cluster.environment
        | ENVIRONMENT
        | {
            "PATH": cluster.environment["PATH"],
            "SHELFWISE_WORKSPACE": str(workspace),
            "SHELFWISE_LOG_FORMAT": "json",
            "PYTHON": sys.executable,
            "GPU_JOB": "--cpus-per-task=1",
            "CPU_JOB": "--cpus-per-task=1",
            "SBATCH_OUTPUT": f"{workspace.parent}/%x-%j.log",
        }
    )
    done = subprocess.run(
        [ROOT / "clusters" / "slurm" / "submit.sh", "--approach", "1", "--epochs", "1"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for stage, job in re.findall(r"^(\w+) +(\d+)", done.stdout, re.MULTILINE):
        found.setdefault(stage, []).append(job)
    return found


def events(workspace: Path, name: str) -> list[dict[str, object]]:
    """Return the events of a name in the logs of all jobs."""
    logs = sorted(workspace.parent.glob("*.log"))
    lines = [line for log in logs for line in log.read_text().splitlines()]
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [each for each in found if each["event"] == name]


def holders(workspace: Path) -> dict[int, int]:
    """Return which process is at which shard."""
    status = json.loads(run("status", "--json", "--workspace", workspace).stdout)
    return {
        each["shard"]: int(re.findall(r"process (\d+)", each["holder"])[0])
        for each in status["shards"]
        if each["holder"]
    }


def test_an_array_outlives_a_kill_and_a_preemption(cluster: slurm.Slurm, tmp_path: Path) -> None:
    """One task is killed, one preempted; what is missing then is one command away.

    The array is two, as this Slurm allows no index above 5.
    """
    workspace, alone = tmp_path / "workspace", tmp_path / "alone" / "workspace"
    # Shards of some seconds, so that a preemption meets one in the middle.
    plan_noise(workspace, NUM_SHARDS, shard_rows=640)
    shutil.copytree(workspace, alone)
    assert run("embed", "--all", "--device", "cpu", "--workspace", alone).returncode == 0
    jobs = submit(cluster, workspace)
    found = {stage: len(numbers) for stage, numbers in jobs.items()}
    assert found == {"embed": 2, "verify": 1, "neighbors": 1, "fit": 1}
    killed = preempted = None
    deadline = time.monotonic() + 200
    while killed is None or preempted is None:
        assert time.monotonic() < deadline, cluster.logs()
        for shard, process in holders(workspace).items():
            if killed is None:
                os.kill(process, signal.SIGKILL)
                killed = shard
            elif preempted is None and shard != killed:
                # It needs both cores, and comes first.
                urgent = ["--partition=high", "--cpus-per-task=2", "--wrap=true", "-o/dev/null"]
                cluster.call("sbatch", *urgent)
                preempted = shard
    states: dict[str, str] = {}
    for offset, job in zip((0, 6), jobs["embed"], strict=True):
        states |= {str(int(index) + offset): state for index, state in cluster.wait(job).items()}
    assert states == {str(shard): "COMPLETED" for shard in range(NUM_SHARDS)} | {
        str(killed): "FAILED"
    }
    assert set(cluster.wait(jobs["fit"][0]).values()) == {"CANCELLED"}, "it waits for the array"
    stopped = [each["shard"] for each in events(workspace, "shard_stopped")]
    assert stopped == [preempted], "it ended at a whole chunk"
    missing = run("status", "--missing", "--workspace", workspace).stdout.strip()
    assert missing == str(killed)

    again = submit(cluster, workspace)
    assert {stage: len(numbers) for stage, numbers in again.items()} == {
        "embed": 1,
        "verify": 1,
        "neighbors": 1,
        "fit": 1,
    }
    assert set(cluster.wait(again["fit"][0]).values()) == {"COMPLETED"}
    done = [each["shard"] for each in events(workspace, "shard_done")]
    assert sorted(done) == list(range(NUM_SHARDS)), "none was made twice"
    assert cache_bytes(workspace) == cache_bytes(alone)
    assert list((workspace / "runs").glob("a1-*/commit.json"))

    labels_commit_path(LocalStorage(workspace)).unlink()
    third = submit(cluster, workspace)
    assert third.keys() == {"labels", "verify", "neighbors", "fit"}
    assert set(cluster.wait(third["labels"][0]).values()) == {"COMPLETED"}
    assert cache_bytes(workspace) == cache_bytes(alone)
