"""`embed --engine ray` on a real cluster of two nodes, both on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.errors import EXIT_ERROR, EXIT_RETRY
from tests.clusters.catalog import (
    ENVIRONMENT,
    ROOT,
    SHARD_ROWS,
    cache_bytes,
    cli,
    noise,
    plan_noise,
    run,
)

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")

RAY = Path(sys.executable).with_name("ray")
NUM_SHARDS = 32
RAY_ENVIRONMENT = ENVIRONMENT | {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead node is noticed in a second or two, not in ten.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
    "RAY_health_check_initial_delay_ms": "500",
}
pytestmark = pytest.mark.timeout(300)


class Cluster:
    """Nodes with one core each; each is a process group, so that it can be killed whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def add_node(self) -> None:
        """Start a node, the first one as head, and wait until it has joined."""
        port = self.address.partition(":")[2]
        place = [f"--address={self.address}"]
        if not self.nodes:
            place = ["--head", f"--port={port}", "--include-dashboard=false"]
            place.append(f"--temp-dir={self._folder}")
        path = self._folder.parent / f"node-{len(self.nodes)}.log"
        with path.open("wb") as log:
            self.nodes.append(
                subprocess.Popen(
                    [
                        RAY,
                        "start",
                        *place,
                        "--node-ip-address=127.0.0.1",
                        "--num-cpus=1",
                        "--block",
                    ],
                    env=RAY_ENVIRONMENT,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        for _ in range(240):
            if "Ray runtime started" in path.read_text():
                return
            time.sleep(0.25)
        raise AssertionError(path.read_text())

    def kill(self, node: int) -> None:
        """End a node at once, as a power cut does."""
        os.killpg(self.nodes[node].pid, signal.SIGKILL)
        self.nodes[node].wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes; not below pytest's folder, whose name is too long for Ray's sockets."""
    place = Path(f"/tmp/shelfwise-ray-{os.getpid()}")
    place.mkdir()
    found = Cluster(place / "ray")
    try:
        found.add_node()
        found.add_node()
        yield found
    finally:
        for number, node in enumerate(found.nodes):
            if node.poll() is None:
                found.kill(number)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of many small shards."""
    place = tmp_path_factory.mktemp("ray") / "planned"
    plan_noise(place, NUM_SHARDS)
    return place


class Run:
    """`embed --engine ray` under way; reads its events."""

    def __init__(self, workspace: Path, address: str, *options: str) -> None:
        asked = ["--engine", "ray", "--address", address, "--log-format", "json", *options]
        self._process = subprocess.Popen(
            cli("embed", *asked, "--workspace", workspace),
            env=RAY_ENVIRONMENT,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, object]] = []

    def until(self, is_reached: Callable[[list[dict[str, object]]], bool]) -> None:
        """Read events until they are enough."""
        assert self._process.stderr is not None
        while not is_reached(self.events):
            line = self._process.stderr.readline()
            assert line, self.events
            if line.startswith("{"):
                self.events.append(json.loads(line))

    def named(self, event: str) -> list[dict[str, object]]:
        """Return the events of a name."""
        return [each for each in self.events if each["event"] == event]

    def signal(self, number: int) -> None:
        """Send a signal to the driver."""
        self._process.send_signal(number)

    def end(self) -> int:
        """Read to the end; return the exit code."""
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            self.events += [json.loads(line) for line in lines if line.startswith("{")]
        return self._process.wait()


def hosts(events: list[dict[str, object]], name: str = "shard_done") -> set[object]:
    return {each["host"] for each in events if each["event"] == name}


def test_a_run_outlives_a_node_and_gives_the_bytes_of_one_process(
    cluster: Cluster, planned: Path, tmp_path: Path
) -> None:
    """The node is killed in the middle of its shards; nobody looks after the run."""
    alone, shared = (tmp_path / name for name in ("alone", "shared"))
    for workspace in (alone, shared):
        shutil.copytree(planned, workspace)
    assert run("embed", "--all", "--device", "cpu", "--workspace", alone).returncode == 0
    found = Run(shared, cluster.address)
    found.until(lambda events: len(hosts(events)) == 2)
    cluster.kill(1)
    assert found.end() == 0
    lost = found.named("worker_lost")[0]
    assert lost["shard"] is not None
    assert [each["node"] for each in found.named("node_lost")] == [lost["node"]]
    after = found.events[found.events.index(lost) :]
    assert len(hosts(after)) == 1, "only one node is left"
    assert cache_bytes(shared) == cache_bytes(alone)
    again = Run(shared, cluster.address)
    assert again.end() == 0
    assert again.named("nothing_to_do")


def test_a_dead_worker_is_replaced_and_a_bad_shard_stops_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A worker that is killed for its memory, and pictures that nobody can read."""
    workspace = tmp_path / "workspace"
    broken: list[object] = [b"no picture"] * SHARD_ROWS
    images = [*broken, *map(noise, range(5 * SHARD_ROWS))]
    plan_noise(workspace, 6, image=images)
    found = Run(workspace, cluster.address)
    found.until(lambda events: bool(hosts(events)))
    os.kill(int(str(found.named("shard_done")[0]["pid"])), signal.SIGKILL)
    assert found.end() == 1
    assert [each["shard"] for each in found.named("shard_failed")] == [0]
    assert len(found.named("worker_lost")) == 1
    assert not found.named("node_lost")
    assert len(found.named("node_joined")) == 2
    (error,) = found.named("error")
    assert (error["kind"], error["exit_code"]) == ("TooManyBadRowsError", 1)
    status = json.loads(run("status", "--json", "--workspace", workspace).stdout)
    assert status["counts"] == {"done": 6}  # the bad one too, with its reasons
    assert status["labels"] == "done"


def test_sigterm_ends_at_a_chunk_and_frees_the_shards(
    cluster: Cluster, planned: Path, tmp_path: Path
) -> None:
    """A rerun goes on at once: no lease is left that somebody would have to wait for."""
    workspace = tmp_path / "workspace"
    shutil.copytree(planned, workspace)
    found = Run(workspace, cluster.address)
    found.until(lambda events: bool(hosts(events)))
    found.signal(signal.SIGTERM)
    assert found.end() == 128 + signal.SIGTERM
    assert not list((workspace / "cache" / "leases").iterdir())
    status = json.loads(run("status", "--json", "--workspace", workspace).stdout)
    assert 0 < status["counts"]["done"] < NUM_SHARDS
    assert "running" not in status["counts"]


def test_what_cannot_work_is_said_before_anything_starts(cluster: Cluster, planned: Path) -> None:
    """No GPU, no cluster, a device that would be everybody's."""

    def refused(*options: str, code: int = EXIT_ERROR) -> str:
        done = run("embed", "--engine", "ray", *options, "--workspace", planned, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stderr

    here = ["--address", cluster.address]
    environment = {name: RAY_ENVIRONMENT[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setitem(ENVIRONMENT, name, value)
        assert "no node has 1 GPUs for a worker" in refused(*here, "--gpus-per-worker", "1")
        assert "every worker's device" in refused(*here, "--device", "cuda:0")
    # Its head may be starting.
    assert "no Ray cluster" in refused("--address", "127.0.0.1:1", code=EXIT_RETRY)
