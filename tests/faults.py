"""Ways to kill, stop, starve and damage, for the tests of crash safety.

What is to be killed runs in a process of its own, forked from a server without threads
(`Processes`): a fork of pytest's own process would inherit locks that its threads hold.
"""

import contextlib
import ctypes
import gc
import http.client
import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from cache import lease
from cache.lease import Lease, read_holder
from cache.reader import Cache, read_plan
from cache.storage import LocalStorage, Storage, is_temporary, open_storage
from cache.verify import shard_states
from pipeline.decode_pool import DecodePool
from pipeline.embed import embed
from pipeline.status import read_status
from pipeline.verify import remove_orphans, verify
from schemas.errors import CacheCorruptError, CacheIncompleteError
from schemas.plan import Plan
from tests.fakes import HashEncoder, fake_spec, write_catalog

ROOT = Path(__file__).resolve().parents[1]
_PR_SET_PDEATHSIG = 1

# ------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    status: int
    """As os.waitpid gives it."""
    value: Any = None
    """What its function returned."""
    error: str = ""
    """Name of the exception's class, and the exception; empty if there was none."""
    trace: str = ""
    """The exception's traceback."""

    @property
    def was_killed(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    def result(self) -> Any:
        """Return its value; fail the test if it did not come so far."""
        assert not self.error, self.trace
        assert self.status == 0, f"ended with status {self.status}"
        return self.value


class Child:
    """A process that runs one function."""

    def __init__(self, processes: "Processes", pid: int) -> None:
        self.pid, self._processes = pid, processes

    def send(self, number: int) -> None:
        os.kill(self.pid, number)  # not reaped before `wait`, so the number is still its own

    def wait(self) -> Outcome:
        return self._processes.order(self.pid)


class Processes:
    """Starts functions of this module in processes of their own; a context manager."""

    def __enter__(self) -> "Processes":
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-c", f"from tests.faults import serve; serve({theirs.fileno()})"],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stderr=subprocess.DEVNULL,
            )
        self._orders = Connection(ours.detach())
        return self

    def __exit__(self, *error: object) -> None:
        self._orders.close()
        self._server.kill()  # its children die with it
        self._server.wait()

    def start(self, function: Callable[..., Any], *args: Any, **options: Any) -> Child:
        environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return Child(self, self.order((function, args, options, environ)))

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Outcome:
        return self.start(function, *args, **options).wait()

    def order(self, order: Any) -> Any:
        self._orders.send(order)
        return self._orders.recv()


def serve(descriptor: int) -> None:
    """Fork a child for each function ordered, wait for one for each number ordered."""
    import pyarrow.dataset  # noqa: F401 - else each child would

    gc.freeze()  # so that collecting does not copy the pages that children share
    orders = Connection(descriptor)
    readers: dict[int, int] = {}
    while True:
        try:
            order = orders.recv()
        except EOFError:
            os._exit(0)
        if isinstance(order, tuple):
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(reader)
                _work(writer, *order)
            os.close(writer)
            readers[pid] = reader
            orders.send(pid)
            continue
        with os.fdopen(readers.pop(order), "rb") as file:
            said = file.read()
        _, status = os.waitpid(order, 0)
        found = pickle.loads(said) if said else {}
        orders.send(Outcome(status=status, **found))


def _work(
    writer: int,
    function: Callable[..., Any],
    args: Sequence[Any],
    options: dict[str, Any],
    environ: dict[str, str],
) -> None:
    """Run in the child; never return."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    code = 0
    try:
        os.environ.update(environ)
        found = {"value": function(*args, **options)}
    except SystemExit as error:
        found, code = {}, int(str(error.code))
    except BaseException as error:
        found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    with os.fdopen(writer, "wb") as file:
        pickle.dump(found, file)
    os._exit(code)


def _parents() -> dict[int, int]:
    """Return every living process's parent."""
    parents = {}
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, parent, *_ = (place / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(place.name)] = int(parent)
    return parents


def children_of(pid: int) -> list[int]:
    """Return the processes below one, near and far."""
    parents, found = _parents(), [pid]
    for above in found:
        found += [child for child, parent in parents.items() if parent == above]
    return found[1:]


def decoders_of(pid: int) -> list[int]:
    """Return the decode workers of a process: grandchildren, through multiprocessing's server."""
    parents = _parents()
    return [child for child, parent in parents.items() if parents.get(parent) == pid]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return the first true value; pytest's own timeout ends a wait in vain."""
    while not (found := condition()):
        time.sleep(0.002)
    return found


# ------------------------------------------------------------------------------ what runs there


class SteppedStorage(LocalStorage):
    """Counts the steps of the protocol and kills its process at one of them."""

    def __init__(self, root: Path, kill_at: int | None = None) -> None:
        super().__init__(root)
        self.kill_at = kill_at
        self.steps: list[str] = []
        self._lock = threading.Lock()

    def _step(self, step: str, name: str) -> None:
        with self._lock:  # a chunk's two files are written at once
            if len(self.steps) == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps.append(f"{step} {name}")


class SlowEncoder(HashEncoder):
    """Takes its time, so that a kill at a random moment hits something."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def encode_images(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for found in super().encode_images(batches):
            time.sleep(self._seconds)
            yield found


def _open(location: str, kill_at: int | None) -> Storage:
    return open_storage(location) if "://" in location else SteppedStorage(Path(location), kill_at)


def embed_all(
    location: str,
    *,
    kill_at: int | None = None,
    pause: float = 0.0,
    machine: str | None = None,
    stop_nicely: bool = False,
    in_group: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Embed a workspace; say what it took.

    Args:
        location: of the workspace.
        kill_at: the step of the protocol that does not happen any more.
        pause: seconds for a batch of pictures.
        machine: what the lease says of where this runs, where it is not this machine.
        stop_nicely: at SIGTERM, as cli.py does.
        in_group: lead a process group, so that all of it can get a signal, as from Slurm.
        options: of `embed`.
    """
    if in_group:
        os.setpgrp()
    if stop_nicely:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    workspace = _open(location, kill_at)
    plan, encoder = read_plan(workspace), SlowEncoder(pause)
    with contextlib.ExitStack() as stack:
        if machine is not None:
            stack.enter_context(mock.patch.object(lease, "_machine", return_value=machine))
        embed_here(workspace, plan, encoder, **options)
    return _report(workspace, encoder)


def embed_here(
    workspace: Storage, plan: Plan, encoder: HashEncoder | None = None, **options: Any
) -> HashEncoder:
    """Embed without worker processes; return the encoder, which has counted."""
    encoder = encoder or HashEncoder()
    given = {"with_labels": True, "batch_size": 5, "num_workers": 0, "max_bad": 1.0} | options
    shards = given.pop("shards", range(plan.num_shards))
    embed(workspace, plan, shards, lambda: encoder, **given)
    return encoder


def redo_all(location: str, *, kill_at: int | None = None) -> dict[str, Any]:
    """Embed a workspace again, whatever is done."""
    return embed_all(location, kill_at=kill_at, redo=True)


def repair(location: str, *, kill_at: int | None = None) -> dict[str, Any]:
    """Mend a workspace as `verify --repair` does."""
    workspace = _open(location, kill_at)
    plan = read_plan(workspace)
    return _report(workspace, repair_here(workspace, plan))


def repair_here(workspace: Storage, plan: Plan) -> HashEncoder:
    """Mend a workspace as `verify --repair` does; return the encoder, which has counted."""
    found = verify(workspace, plan, range(plan.num_shards))
    remove_orphans(workspace, found)
    return embed_here(workspace, plan, shards=found.broken, with_labels=found.labels_broken)


def _report(workspace: Storage, encoder: HashEncoder) -> dict[str, Any]:
    steps = workspace.steps if isinstance(workspace, SteppedStorage) else []
    return {"steps": steps, "images": encoder.num_images, "texts": encoder.num_texts}


def hold_lease(location: str, shard: int, until: str, **options: Any) -> str:
    """Hold a lease until a file is there; say who is holding it."""
    workspace = open_storage(location)
    with Lease(workspace, shard, **options) as held:
        held.check()
        wait_until(Path(until).exists)
        held.check()
        return str(read_holder(workspace, shard))


def decode_for_ever(pictures: list[bytes], num_workers: int, ready: str) -> None:
    """Decode the same pictures over and over, until the process is killed."""
    with DecodePool(fake_spec().preprocess, is_scaled=True, num_workers=num_workers) as pool:
        for number, _ in enumerate(pool.decode(([], pictures) for _ in itertools.count())):
            if number == 100:
                Path(ready).touch()


class Deadly(bytes):
    """A picture that kills the worker that decodes it: always, or a number of times.

    Not the process that made it, and without this module, which workers do not import.
    """

    log: str
    times: int

    @classmethod
    def of(cls, picture: bytes, log: Path, times: int = 10**9) -> "Deadly":
        found = cls(picture)
        found.log, found.times = str(log), times
        log.touch()
        return found

    def __reduce__(self) -> Any:
        code = """
def die(picture):
    import os, signal
    with open(log, "r+") as file:
        if len(file.read()) < times:
            file.write("x")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return len(bytes(memoryview(picture)))
"""
        text = (
            f"(lambda names: (exec({code!r}, names), "
            "type('Deadly', (bytes,), {'__len__': names['die']})(names['data']))[1])"
            f"({{'log': {self.log!r}, 'times': {self.times}, 'data': {bytes(self)!r}}})"
        )
        return eval, (text,)


# --------------------------------------------------------------------------------- workspaces


def plan_catalog(workspace: Storage, folder: Path, **catalog: Any) -> Plan:
    """Write a catalog of 40 items and plan it in three shards and five chunks."""
    from pipeline import plan as planning  # imports torch, which no child needs

    items, labels = write_catalog(folder, **catalog)
    encoder = mock.Mock(items_per_second=lambda: None)
    with mock.patch.multiple(
        planning, resolve=lambda *_: fake_spec(), load_encoder=lambda *_: encoder
    ):
        planning.make_plan(
            workspace,
            items=items,
            labels=labels,
            model="hash",
            pretrained="fake",
            shard_rows=16,
            chunk_rows=8,
        )
    return read_plan(workspace)


def copy_files(source: Storage, target: Storage, folder: str = "") -> None:
    """Copy a workspace, or what is below one of its folders."""
    for name in source.sizes(folder):
        target.write(name, source.read(name))


def files_of(workspace: Storage) -> dict[str, Any]:
    """Return what must be equal from run to run: commits without time and place, no leases."""
    found: dict[str, Any] = {}
    for name in workspace.sizes("cache"):
        if "/leases/" in name:
            continue
        found[name] = workspace.read(name)
        if "/commits/" in name and not is_temporary(name):
            commit = json.loads(found[name])
            found[name] = {
                field: value
                for field, value in commit.items()
                if field not in ("seconds", "host", "body_sha256")
            }
    return found


class Claims:
    """Checks that whatever a workspace says is done is one of the states that it may have."""

    def __init__(self, plan: Plan, *references: dict[str, Any]) -> None:
        """Name the states: files of whole workspaces."""
        self._plan, self._references = plan, references

    def check(self, workspace: Storage, damaged: Iterable[int] = ()) -> list[str]:
        """Fail if a shard reads as done that is not as one uninterrupted run makes it.

        Args:
            workspace: as a killed process left it.
            damaged: shards in which a test flipped bits, which sizes alone do not show.
        Returns: the state of each shard.
        """
        plan, shards = self._plan, range(self._plan.num_shards)
        found = files_of(workspace)
        by_size = [state.state for state in read_status(workspace, plan).shards]
        by_content = [each.state for each in shard_states(workspace, plan, shards, checksums=True)]
        for shard in shards:
            names = self._names(shard)
            is_whole = any(
                all(found.get(name) == files[name] for name in names) for files in self._references
            )
            assert is_whole == (by_content[shard] == "done"), (shard, by_content)
            assert is_whole == (by_size[shard] == "done") or shard in damaged, (shard, by_size)
        assert self._is_readable(workspace) == (set(by_content) == {"done"})
        return by_content

    def _names(self, shard: int) -> list[str]:
        plan = self._plan
        start, stop = plan.shard_range(shard)
        chunks = range(start // plan.chunk_rows, -(-stop // plan.chunk_rows))
        names = [f"cache/{name}.zarr/c/{i}/0" for name in ("image", "title") for i in chunks]
        return [*names, f"cache/rows/{shard:05d}.parquet", f"cache/commits/{shard:05d}.json"]

    def _is_readable(self, workspace: Storage) -> bool:
        """Say whether `fit` would read the cache; whatever it gets must be right."""
        try:
            cache = Cache(workspace, self._plan)
            rows, image, title = cache.read_rows(), cache.read("image"), cache.read("title")
        except (CacheIncompleteError, CacheCorruptError):
            return False
        assert rows["row"].to_pylist() == list(range(self._plan.num_items))
        absent = [np.isnan(matrix).any(1) for matrix in (image, title)]
        np.testing.assert_array_equal(absent[0], ~rows["image_ok"].to_numpy())
        np.testing.assert_array_equal(absent[1], ~rows["title_ok"].to_numpy())
        return True


def check_finished(workspace: Storage, plan: Plan, reference: dict[str, Any]) -> None:
    """Fail unless a workspace is whole, with nothing beside it but what `verify` clears away."""
    found = verify(workspace, plan, range(plan.num_shards))
    found.check()
    assert {state.state for state in found.states} == {"done"}
    assert found.labels == "done"
    extra = set(workspace.sizes("cache")) - set(reference)
    assert extra <= set(found.orphans), "files that nobody names"
    assert not set(found.orphans) & set(reference)
    remove_orphans(workspace, found)
    assert files_of(workspace) == reference
    assert set(workspace.sizes("cache")) == set(reference)


def forge_lease(workspace: Storage, shard: int, **fields: Any) -> None:
    """Leave the lease of a holder on another machine, which never beats again."""
    real = Lease(workspace, shard)._holder
    foreign = {"machine": "another boot", "host": "node7", "pid": 4242, "token": "f" * 32}
    holder = replace(real, **(foreign | fields))
    workspace.write(lease.lease_name(shard), lease._encode(holder))


def flip_bit(path: Path, bit: int) -> None:
    """Turn one bit of a file around."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


# --------------------------------------------------------------------------------------- disks


@contextlib.contextmanager
def small_disk(place: Path, num_bytes: int) -> Iterator[Callable[..., None]]:
    """Mount a disk of a few bytes; give a function that mounts it again with other options.

    Skips the test where this process may not mount, as in most containers.
    """
    place.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        subprocess.run(command, capture_output=True, text=True, check=True)

    try:
        mount(f"size={num_bytes}")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no disk of a given size can be mounted here: {error}")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# ---------------------------------------------------------------------------------- an S3 server


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def serve_s3(port: int) -> None:
    """Run moto's S3 server until this process is killed."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    threading.Event().wait()


def make_bucket(port: int, bucket: str) -> None:
    """Make a bucket, once the server answers."""

    def put() -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT")
        try:
            with urllib.request.urlopen(request) as answer:
                return bool(answer.status == 200)
        except OSError:  # not yet
            return False

    wait_until(put)


def serve_flaky(port: int, target: int, every: int, fault: str) -> None:
    """Pass requests on to another server, with a fault in every so many of them.

    Args:
        port: to listen at.
        target: port of the server behind.
        every: which of the requests go wrong.
        fault: `503` answers SlowDown; `dropped` closes the connection before the request is
            passed on, `lost` after it: the server has done it, and nobody heard.
    """
    lock, count = threading.Lock(), iter(range(1, 10**9))

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                is_bad = next(count) % every == 0
            if is_bad and fault == "503":
                self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            if is_bad and fault == "dropped":
                self.close_connection = True
                return
            server = http.client.HTTPConnection("127.0.0.1", target)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            data = answer.read()
            server.close()
            if is_bad:
                self.close_connection = True
                return
            self._answer(answer.status, dict(answer.getheaders()), data)

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            self.wfile.write(data if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

    ThreadingHTTPServer(("127.0.0.1", port), Proxy).serve_forever()
