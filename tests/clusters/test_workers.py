"""Workers that meet a full disk, a lost network or a bad shard, beside others that do not."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.errors import EXIT_ERROR, EXIT_RETRY
from tests.clusters.catalog import ENVIRONMENT, ROOT, SHARD_ROWS, cli, noise, plan_noise, run
from tests.faults import free_port, make_bucket, small_disk

pytestmark = pytest.mark.timeout(580)
PAGE = 4096
S3 = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}


def worker(workspace: str | Path, shards: str, **environment: str) -> subprocess.Popen[str]:
    """Start one that embeds some shards."""
    return subprocess.Popen(
        cli("embed", "--shards", shards, "--log-format", "json", "--workspace", workspace),
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, object]]]:
    """Wait for a worker; return its exit code and events."""
    _, errors = process.communicate()
    lines = [line for line in errors.splitlines() if line.startswith("{")]
    return process.returncode, [json.loads(line) for line in lines]


def counts(workspace: str | Path) -> dict[str, int]:
    return json.loads(run("status", "--json", "--workspace", workspace).stdout)["counts"]


def test_a_bad_shard_wants_a_person_and_the_others_are_done(tmp_path: Path) -> None:
    """Its worker ends with what a scheduler does not try again."""
    workspace = tmp_path / "workspace"
    broken: list[object] = [b"no picture"] * SHARD_ROWS
    plan_noise(workspace, 4, image=[*broken, *map(noise, range(3 * SHARD_ROWS))])
    workers = [worker(workspace, shards) for shards in ("0-1", "2-3")]
    (code, events), (other, _) = map(ended, workers)
    assert (code, other) == (EXIT_ERROR, 0)
    assert (events[-1]["kind"], events[-1]["exit_code"]) == ("TooManyBadRowsError", EXIT_ERROR)
    assert counts(workspace) == {"done": 4}


def test_a_full_disk_wants_a_person_and_who_had_room_is_done(tmp_path: Path) -> None:
    """Nothing half-written counts, and with more room the same command goes on."""
    place = tmp_path / "disk"
    planned, whole = tmp_path / "workspace", tmp_path / "whole"
    plan_noise(planned, 4)
    shutil.copytree(planned, whole)
    assert run("embed", "--all", "--workspace", whole).returncode == 0
    num_bytes = (_pages(planned) * 2 + _pages(whole) * 3) // 5 * PAGE
    with small_disk(place, num_bytes) as remount:
        subprocess.run(["cp", "-r", planned, place], check=True)
        workspace = place / "workspace"
        workers = [worker(workspace, shards) for shards in ("0", "1", "2", "3")]
        found = [ended(each) for each in workers]
        codes = [code for code, _ in found]
        assert EXIT_ERROR in codes, found
        assert set(codes) <= {0, EXIT_ERROR}, found
        whats = [str(events[-1]["what"]) for code, events in found if code]
        assert all("No space left on device" in what for what in whats), whats
        assert counts(workspace)["done"] == codes.count(0)
        remount("size=100m")
        assert run("embed", "--all", "--workspace", workspace).returncode == 0
        assert run("verify", "--workspace", workspace).returncode == 0


@contextlib.contextmanager
def serving(function: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server of tests/faults.py in a process of its own."""
    call = f"from tests.faults import {function}; {function}({', '.join(map(repr, arguments))})"
    process = subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_lost_network_wants_time_and_the_other_node_goes_on(tmp_path: Path) -> None:
    """One of two nodes loses the store for good; its shard is whoever's who tries again."""
    store, way = free_port(), free_port()
    direct, cut = (S3 | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"} for port in (store, way))
    with serving("serve_s3", store), serving("serve_flaky", way, store, 10**9, "503") as network:
        make_bucket(store, "bucket")
        url = "s3://bucket/workspace"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (direct | {"AWS_ALLOW_HTTP": "true"}).items():
                patch.setitem(ENVIRONMENT, name, value)
            plan_noise(tmp_path / "catalog", 8, workspace=url)
            workers = [worker(url, "0-3", **cut), worker(url, "4-7")]
            _until(lambda: _has_commit(url))
            network.send_signal(signal.SIGKILL)
            (code, events), (other, _) = map(ended, workers)
            assert (code, other) == (EXIT_RETRY, 0), events[-1]
            assert (events[-1]["kind"], events[-1]["exit_code"]) == ("WorkspaceError", EXIT_RETRY)
            assert counts(url)["done"] >= 4
            assert run("embed", "--shards", "0-3", "--workspace", url).returncode == 0
            assert counts(url) == {"done": 8}


def _pages(folder: Path) -> int:
    """Return what a folder takes of a disk that gives whole pages."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // PAGE) for size in sizes)


def _has_commit(url: str) -> bool:
    return counts(url).get("done", 0) > 0


def _until(is_reached: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.2)
