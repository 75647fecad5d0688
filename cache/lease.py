"""A shard, or a run, belongs to one process at a time: whoever holds its lease.

The lease is a file whose beat grows every 15 seconds while its holder lives. An observer that sees
no new beat for 120 seconds of its own clock may seize it; on one machine a dead holder is known at
once. The holder asks again before each file it puts in place.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from cache.layout import THE_PLAN, lease_name
from cache.storage import Storage
from schemas.configs import from_json
from schemas.errors import LeaseError, PipelineError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease, as its file says."""

    token: str
    """Unlike any other holder's."""
    beat: int
    """Grows while the holder lives."""
    host: str
    """Its machine."""
    pid: int
    """Its process there."""
    machine: str
    """Tells machines and containers apart whose names are equal."""
    started: float
    """When its process started, in clock ticks since its machine booted."""
    taken: float
    """When it took the lease, in seconds of the epoch by its own clock."""
    beaten: float
    """When it gave its last beat, likewise."""

    def __str__(self) -> str:
        """Name it for a person."""
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Say whether it ran on this machine and is no more; False where nobody can tell."""
        return self.is_here() and _started(self.pid) != self.started

    def is_here(self) -> bool:
        """Say whether it runs on this machine, where a dead process can be told."""
        return bool(self.machine) and self.machine == _machine()


def read_holder(workspace: Storage, what: int | str) -> Holder | None:
    """Return who holds a shard or a run; None if nobody does."""
    found = _read(workspace, what)
    return found[0] if found else None


def _read(workspace: Storage, what: int | str) -> tuple[Holder, bytes] | None:
    try:
        data = workspace.read(lease_name(what))
        return from_json(Holder, data.decode(), where="", fix=""), data
    except FileNotFoundError:
        return None
    except ValueError:  # damaged: nobody can beat it any more
        unknown = Holder(
            token="", beat=0, host="?", pid=0, machine="", started=0.0, taken=0.0, beaten=0.0
        )
        return unknown, data


class Lease:
    """The right to write one shard or one run; a context manager."""

    def __init__(
        self,
        workspace: Storage,
        what: int | str,
        *,
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        """Name the shard, by its number, or the run; entering takes it."""
        self._workspace, self._what, self._name = workspace, what, lease_name(what)
        self._title = f"shard {what}" if isinstance(what, int) else f"run {what}"
        if what == THE_PLAN:
            self._title = THE_PLAN
        self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
        now = time.time()
        self._holder = Holder(
            token=uuid.uuid4().hex,
            beat=0,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            started=_started(os.getpid()),
            taken=now,
            beaten=now,
        )
        self._data = _encode(self._holder)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> "Lease":
        """Take the lease, from nobody or from the dead.

        Raises: LeaseError naming who holds it.
        """
        while not self._workspace.create(self._name, self._data):
            found = _read(self._workspace, self._what)
            if found is None:
                continue
            self._wait_for_death(*found)
            if self._workspace.seize(self._name, self._data, found[1]):
                logger.warning("%s: took over from %s", self._title, found[0])
                break
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(PipelineError, FileNotFoundError):
            found = _read(self._workspace, self._what)
            if found is not None and found[0].token == self._holder.token:
                self._workspace.remove(self._name)

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises: LeaseError if it was seized: this process was silent for too long.
        """
        with self._lock:
            found = _read(self._workspace, self._what)
        if found is None or found[0].token != self._holder.token:
            raise LeaseError(
                f"the lease of {self._title} was lost to {found[0] if found else 'nobody'}",
                where=self._workspace.where(self._name),
                fix="nothing half-written counts; look whether this machine or its storage stalls, "
                "then run the same command again",
            )

    def _wait_for_death(self, holder: Holder, data: bytes) -> None:
        """Return once the holder is known to be dead.

        Raises: LeaseError as soon as it shows life.
        """
        if holder.is_dead():
            return
        is_here = holder.is_here()
        deadline = time.monotonic() + self._stale_seconds
        if not is_here:
            logger.info(
                "%s is held by %s; watching for up to %.0f s whether it lives",
                self._title,
                holder,
                self._stale_seconds,
            )
        while time.monotonic() < deadline and not is_here:
            time.sleep(min(_POLL_SECONDS, self._stale_seconds / 10))
            found = _read(self._workspace, self._what)
            if found is None:
                return
            if found[1] != data:
                holder = found[0]
                break
        else:
            if not is_here:
                return
        raise LeaseError(
            f"{self._title} is being written by {holder}, "
            f"for {max(0.0, time.time() - holder.taken):.0f} s",
            where=self._workspace.where(self._name),
            fix="let it finish; a holder that dies is noticed after "
            f"{self._stale_seconds:.0f} s, on its own machine at once",
        )

    def _keep_beating(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            beaten = replace(self._holder, beat=self._holder.beat + 1, beaten=time.time())
            data = _encode(beaten)
            try:
                with self._lock:
                    if self._workspace.refresh(self._name, data, self._data):
                        self._holder, self._data = beaten, data
                        continue
                    found = _read(self._workspace, self._what)
                    if found is None or found[0].token != self._holder.token:
                        return  # lost; `check` says so
                    self._holder, self._data = found  # a beat whose answer got lost
            except PipelineError as error:
                logger.warning("%s: no heartbeat: %s", self._title, error.what)


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _machine() -> str:
    """Identify this boot of this machine, or this container on it."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> float:
    """Return when a process here started, in clock ticks since boot; 0 if there is none.

    A number that was given to another process since then starts later.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        state, *rest = fields.rpartition(")")[2].split()
        return 0.0 if state == "Z" else float(rest[18])
    return 0.0
