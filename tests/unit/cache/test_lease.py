"""One writer a shard: the dead are replaced, the living are not, and the dispossessed stop."""

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import lease
from cache.layout import lease_name
from cache.lease import Lease, read_holder
from cache.storage import LocalStorage
from cache.verify import find_orphans, shard_state
from cache.writer import ShardWriter
from pipeline.embed import embed
from pipeline.status import read_status
from schemas.errors import LeaseError
from schemas.plan import Plan
from tests.fakes import HashEncoder, fake_embeddings, fake_plan, rows_table, write_shard
from tests.faults import (
    Processes,
    check_finished,
    copy_files,
    embed_all,
    embed_here,
    files_of,
    forge_lease,
    hold_lease,
    plan_catalog,
    wait_until,
)

SHORT: dict[str, Any] = {"beat_seconds": 60.0, "stale_seconds": 0.2}
FOR_EVER: dict[str, Any] = {"beat_seconds": 60.0, "stale_seconds": 3600.0}


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Return a place for other processes."""
    with Processes() as found:
        yield found


@pytest.fixture
def elsewhere() -> Iterator[Callable[[], None]]:
    """Pretend to run on another machine until the result is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "_machine", lambda: "another boot")
        yield patch.undo


def test_the_lease_is_there_while_it_is_held_and_gone_after(workspace: LocalStorage) -> None:
    """And says who holds it, for `status` and for the error that others get."""
    with Lease(workspace, 3) as held:
        holder = read_holder(workspace, 3)
        assert holder is not None
        assert (holder.pid, holder.host) == (os.getpid(), os.uname().nodename)
        assert not holder.is_dead()
        held.check()
    assert read_holder(workspace, 3) is None
    assert workspace.sizes("") == {}


def test_a_second_process_is_refused_with_the_firsts_name(
    processes: Processes, workspace: LocalStorage, tmp_path: Path
) -> None:
    """So that a person knows which job to look for."""
    child = processes.start(hold_lease, workspace.location, 0, str(tmp_path / "end"))
    wait_until(lambda: read_holder(workspace, 0))
    with pytest.raises(LeaseError) as caught, Lease(workspace, 0):
        pass
    assert f"process {child.pid} on {os.uname().nodename}" in caught.value.what
    (tmp_path / "end").touch()
    assert str(child.pid) in child.wait().result()
    with Lease(workspace, 0):
        pass


def test_embed_of_a_shard_under_way_is_refused_or_left_to_the_other(
    processes: Processes, tmp_path: Path
) -> None:
    """`--shard 1` says so; one of several workers goes on to the next shard without a word."""
    workspace = LocalStorage(tmp_path / "w")
    plan = plan_catalog(workspace, tmp_path / "catalog")
    child = processes.start(hold_lease, workspace.location, 1, str(tmp_path / "end"))
    wait_until(lambda: read_holder(workspace, 1))
    with pytest.raises(LeaseError, match=f"process {child.pid} on"):
        embed_here(workspace, plan, shards=[1])
    embed_here(workspace, plan, is_one_of_many=True)
    assert [shard_state(workspace, plan, i).state for i in range(3)] == ["done", "running", "done"]
    (tmp_path / "end").touch()
    child.wait().result()
    assert embed_here(workspace, plan, is_one_of_many=True).num_images == 16


def test_two_workers_make_every_shard_once(processes: Processes, tmp_path: Path) -> None:
    """They meet at each shard: one makes it, the other leaves it, neither fails."""
    planned, alone = LocalStorage(tmp_path / "planned"), LocalStorage(tmp_path / "alone")
    plan = plan_catalog(planned, tmp_path / "catalog")
    copy_files(planned, alone)
    embed_here(alone, plan)
    for number in range(4):
        both = LocalStorage(tmp_path / str(number))
        copy_files(planned, both)
        options = {"is_one_of_many": True, "pause": 0.01}
        children = [processes.start(embed_all, both.location, **options) for _ in range(2)]
        found = [child.wait().result() for child in children]
        assert sum(each["images"] for each in found) == 40
        check_finished(both, plan, files_of(alone))


def test_exactly_one_of_many_takes_a_dead_holders_lease(
    processes: Processes, workspace: LocalStorage, tmp_path: Path
) -> None:
    """After a node's reboot all its workers come back at once."""
    dead = processes.start(hold_lease, workspace.location, 0, str(tmp_path / "never"))
    wait_until(lambda: read_holder(workspace, 0))
    dead.send(signal.SIGKILL)
    assert dead.wait().was_killed
    end = str(tmp_path / "end")
    children = [processes.start(hold_lease, workspace.location, 0, end) for _ in range(6)]
    wait_until(lambda: (h := read_holder(workspace, 0)) and not h.is_dead())
    Path(end).touch()
    found = [child.wait() for child in children]
    # Who comes after the end may take it in turn: nobody held it at the same time.
    assert any(not each.error for each in found)
    assert all(each.error.startswith("LeaseError") for each in found if each.error)
    assert workspace.sizes("cache") == {}


def test_a_killed_holder_is_replaced_at_once_on_its_own_machine(
    processes: Processes, workspace: LocalStorage, tmp_path: Path
) -> None:
    """The usual restart: no two minutes of waiting."""
    child = processes.start(hold_lease, workspace.location, 0, str(tmp_path / "never"))
    wait_until(lambda: read_holder(workspace, 0))
    child.send(signal.SIGKILL)
    wait_until(lambda: (h := read_holder(workspace, 0)) and h.is_dead())
    with Lease(workspace, 0, **FOR_EVER) as held:
        held.check()
    assert child.wait().was_killed


def test_a_number_given_to_another_process_is_not_the_holder(workspace: LocalStorage) -> None:
    """Process ids come round again: ours, started at another time, is not who wrote the lease."""
    real = Lease(workspace, 0)._holder
    forge_lease(workspace, 0, machine=real.machine, pid=os.getpid(), started=real.started - 1)
    with Lease(workspace, 0, **FOR_EVER) as held:
        held.check()
    forge_lease(workspace, 0, machine=real.machine, pid=os.getpid(), started=real.started)
    with pytest.raises(LeaseError), Lease(workspace, 0, **SHORT):
        pass


def test_a_silent_holder_elsewhere_is_replaced_after_the_time(workspace: LocalStorage) -> None:
    """Nobody can ask another machine whether its process lives: its beat alone tells."""
    forge_lease(workspace, 0)
    with Lease(workspace, 0, **SHORT) as held:
        held.check()
        assert read_holder(workspace, 0).pid == os.getpid()
    assert workspace.sizes("") == {}


def test_a_holder_elsewhere_that_beats_keeps_its_lease(
    workspace: LocalStorage, elsewhere: Callable[[], None]
) -> None:
    """And whoever comes second learns so at the next beat, not after the whole time."""
    with Lease(workspace, 0, beat_seconds=0.05, stale_seconds=60.0) as held:
        elsewhere()
        with (
            pytest.raises(LeaseError, match=f"process {os.getpid()}"),
            Lease(workspace, 0, **FOR_EVER),
        ):
            pass
        held.check()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[1]", b'{"pid": 7}'])
def test_a_damaged_lease_is_taken_after_the_time(workspace: LocalStorage, content: bytes) -> None:
    """It names nobody who could be asked, and must not lock the shard for ever."""
    workspace.write(lease_name(0), content)
    with Lease(workspace, 0, **SHORT) as held:
        held.check()
    assert workspace.sizes("") == {}


def test_a_lease_of_wrong_types_is_a_damaged_one(workspace: LocalStorage) -> None:
    """As long as it lasts, `status` and the refusal must still be able to print it."""
    plan = fake_plan(workspace, num_items=40, chunk_rows=8, shard_rows=16)
    forge_lease(workspace, 0)
    fields = json.loads(workspace.read(lease_name(0)))
    workspace.write(lease_name(0), json.dumps(fields | {"taken": "x", "beat": None}).encode())
    assert shard_state(workspace, plan, 0).state == "running"
    assert "another boot" not in str(read_status(workspace, plan).table())
    with Lease(workspace, 0, **SHORT) as held:
        held.check()


def holder_elsewhere(
    workspace: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> ShardWriter:
    """Return a writer that other machines' writers take for one of theirs, and for silent."""
    monkeypatch.setattr("cache.writer.Lease", functools.partial(Lease, **SHORT))
    return ShardWriter(workspace, plan, 0, compute_dtype="float32", batch_size=50)


def chunk_of(embeddings: dict[str, np.ndarray], start: int, stop: int) -> dict[str, Any]:
    ok = np.ones(stop - start, bool)
    found = {name: matrix[start:stop] for name, matrix in embeddings.items()}
    return found | {"rows": rows_table(start, ok, ok)}


def test_a_holder_that_lost_its_lease_writes_nothing_more(
    workspace: LocalStorage, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[], None]
) -> None:
    """Else two writers' chunks would stand mixed under one commit."""
    plan = fake_plan(workspace, num_items=32, chunk_rows=8, shard_rows=16)
    first, second = fake_embeddings(plan, seed=1), fake_embeddings(plan, seed=2)
    with holder_elsewhere(workspace, plan, monkeypatch) as old:
        old.write(0, **chunk_of(first, 0, 8))
        elsewhere()
        write_shard(workspace, plan, 0, second)
        before = files_of(workspace)
        with pytest.raises(LeaseError, match="lost to nobody"):
            old.write(1, **chunk_of(first, 8, 16))
        assert files_of(workspace) == before
        with holder_elsewhere(workspace, plan, monkeypatch):
            during = workspace.sizes("cache")
            with pytest.raises(LeaseError, match=f"lost to process {os.getpid()}"):
                old.write(1, **chunk_of(first, 8, 16))
            assert workspace.sizes("cache") == during
    assert shard_state(workspace, plan, 0, checksums=False).state != "broken"


def test_a_holder_that_lost_its_lease_cannot_commit(
    workspace: LocalStorage, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[], None]
) -> None:
    """The last chance: all its chunks are written, and are no longer those on the disk."""
    plan = fake_plan(workspace, num_items=32, chunk_rows=8, shard_rows=16)
    first, second = fake_embeddings(plan, seed=1), fake_embeddings(plan, seed=2)
    with holder_elsewhere(workspace, plan, monkeypatch) as old:
        for chunk in (0, 1):
            old.write(chunk, **chunk_of(first, 8 * chunk, 8 * chunk + 8))
        elsewhere()
        write_shard(workspace, plan, 0, second)
        before = files_of(workspace)
        with pytest.raises(LeaseError):
            old.commit()
    assert files_of(workspace) == before
    assert shard_state(workspace, plan, 0, checksums=True).state == "done"


def test_a_holder_that_left_does_not_free_anothers_lease(
    workspace: LocalStorage, elsewhere: Callable[[], None]
) -> None:
    """Leaving late, it must look whose lease it is."""
    with Lease(workspace, 0, **SHORT):
        elsewhere()
        new = Lease(workspace, 0, **SHORT)
        new.__enter__()
    new.check()
    new.__exit__(None, None, None)
    assert workspace.sizes("") == {}


def test_a_process_that_was_stopped_and_goes_on_writes_nothing_more(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine that was suspended: everything looks to it as if no time had passed."""
    workspace = LocalStorage(tmp_path / "w")
    plan = plan_catalog(workspace, tmp_path / "catalog")
    child = processes.start(embed_all, workspace.location, pause=0.05, machine="another boot")
    wait_until(lambda: workspace.size("cache/parts/00000/0"))
    child.send(signal.SIGSTOP)
    monkeypatch.setattr("cache.writer.Lease", functools.partial(Lease, **SHORT))
    encoder = HashEncoder()
    options: dict[str, Any] = {"with_labels": False, "batch_size": 5, "num_workers": 0}
    embed(workspace, plan, [0], lambda: encoder, **options)
    assert 0 < encoder.num_images <= 8
    before = files_of(workspace)
    child.send(signal.SIGCONT)
    outcome = child.wait()
    assert outcome.error.startswith("LeaseError: the lease of shard 0 was lost to nobody")
    assert files_of(workspace) == before
    embed_here(workspace, plan)
    check_finished(workspace, plan, files_of(workspace))


def test_who_saw_an_older_lease_does_not_move_the_new_one(
    workspace: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that waited for a dead holder one is late: the other must not miss its new lease."""
    forge_lease(workspace, 0)
    old = workspace.read(lease_name(0))
    with Lease(workspace, 0, **SHORT) as held:

        def refuse(path: Path, target: Path) -> None:
            raise AssertionError(f"{path} was away for a moment")

        monkeypatch.setattr(Path, "rename", refuse)
        assert not workspace.seize(lease_name(0), b"late", old)
        held.check()


def test_the_lease_of_a_living_process_is_no_orphan(workspace: LocalStorage) -> None:
    """A redo holds it while the old commit still stands: `verify --repair` must leave it."""
    plan = fake_plan(workspace, num_items=32, chunk_rows=8, shard_rows=16)
    write_shard(workspace, plan, 0, fake_embeddings(plan))
    with Lease(workspace, 0) as held:
        workspace.write("cache/image.zarr/c/0/.0.4194305.0a1b2c3d.tmp", b"half")
        workspace.write("cache/parts/00000/0", b"kept for later")
        assert shard_state(workspace, plan, 0).state == "done"
        assert find_orphans(workspace, plan) == []
        held.check()
    assert len(find_orphans(workspace, plan)) == 2


def test_a_beat_whose_answer_got_lost_does_not_end_the_beating(workspace: LocalStorage) -> None:
    """The network failed after the server had done it: the lease is ours, with the new beat."""

    class Deaf(LocalStorage):
        num = 0

        def refresh(self, name: str, data: bytes, old: bytes) -> bool:
            self.num += 1
            done = super().refresh(name, data, old)
            if self.num == 1:
                raise lease.PipelineError("no answer", where=name, fix="")
            return done

    deaf = Deaf(workspace.root)
    with Lease(deaf, 0, beat_seconds=0.01, stale_seconds=60.0) as held:
        wait_until(lambda: deaf.num > 3 or not held._thread.is_alive())
        assert held._thread.is_alive()
        wait_until(lambda: (h := read_holder(workspace, 0)) and h.beat > 2)
    assert workspace.sizes("") == {}
