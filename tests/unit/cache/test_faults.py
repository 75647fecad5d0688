"""A process killed at any step, a full disk, a vanished file: nothing half-written counts."""

import contextlib
import errno
import functools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cache import storage
from cache.reader import Cache, read_plan
from cache.storage import LocalStorage
from cache.verify import find_orphans, shard_state, shard_states
from pipeline.decode_pool import DecodePool
from pipeline.embed_shard import embed_shard
from pipeline.items import CatalogWatch
from pipeline.verify import verify
from schemas.errors import (
    CacheIncompleteError,
    PipelineError,
    SourceChangedError,
    WorkspaceError,
)
from schemas.plan import Plan
from tests.fakes import HashEncoder, commit_path, picture_bytes
from tests.faults import (
    Claims,
    Processes,
    SteppedStorage,
    check_finished,
    copy_files,
    embed_all,
    embed_here,
    files_of,
    flip_bit,
    plan_catalog,
    redo_all,
    repair,
    small_disk,
    wait_until,
)


@dataclass(frozen=True)
class Template:
    """A planned workspace and the same, embedded without interruption."""

    planned: LocalStorage
    done: LocalStorage
    plan: Plan
    reference: dict[str, Any]
    steps: list[str]
    num_images: int

    def fresh(self, folder: Path) -> LocalStorage:
        return self._copy(self.planned, folder)

    def finished(self, folder: Path) -> LocalStorage:
        return self._copy(self.done, folder)

    def _copy(self, source: LocalStorage, folder: Path) -> LocalStorage:
        workspace = LocalStorage(folder)
        copy_files(source, workspace)
        return workspace


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Return a place to run what is to be killed."""
    with Processes() as found:
        yield found


@pytest.fixture(scope="module")
def template(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Plan a catalog with repeats and bad items once, and embed it once without interruption."""
    folder = tmp_path_factory.mktemp("template")
    images: list[object] = [picture_bytes((7 * i % 256, i, 90)) for i in range(40)]
    images[3], images[20], images[33] = b"<html>", None, images[2]
    titles = [f"Acme thing {i % 7} no. {i % 30}" for i in range(40)]
    planned = LocalStorage(folder / "planned")
    plan = plan_catalog(planned, folder / "catalog", image=images, title=titles)
    done = LocalStorage(folder / "done")
    copy_files(planned, done)
    found = processes.run(embed_all, done.location).result()
    return Template(planned, done, plan, files_of(done), found["steps"], found["images"])


class Trial:
    """One kind of run, killed in many workspaces and then finished in each."""

    def __init__(
        self,
        processes: Processes,
        begin: Callable[[Path], LocalStorage],
        run: Callable[..., Any],
        finish: Callable[..., Any],
        check: Callable[[LocalStorage], object],
        reference: dict[str, Any],
    ) -> None:
        self._processes, self._begin, self._run, self._finish = processes, begin, run, finish
        self._check, self._reference = check, reference

    def kill(self, folder: Path, attempts: Sequence[tuple[int, ...]]) -> None:
        """Make a workspace for each attempt; kill a run at its first step, the next at its second.

        Then run to the end. Four workspaces at a time, to use more than one core.
        """
        for first in range(0, len(attempts), 4):
            group = [
                (self._begin(folder / f"{first + i}"), steps)
                for i, steps in enumerate(attempts[first : first + 4])
            ]
            for turn in range(len(attempts[first])):
                children = [
                    self._processes.start(self._run, workspace.location, kill_at=steps[turn])
                    for workspace, steps in group
                ]
                for child, (workspace, _) in zip(children, group, strict=True):
                    outcome = child.wait()
                    assert outcome.was_killed or turn, outcome  # later ones may have less to do
                    self._check(workspace)
            children = [self._processes.start(self._finish, ws.location) for ws, _ in group]
            for child, (workspace, _) in zip(children, group, strict=True):
                child.wait().result()
                check_finished(workspace, read_plan(workspace), self._reference)


def first_run(processes: Processes, template: Template) -> Trial:
    claims = Claims(template.plan, template.reference)
    return Trial(processes, template.fresh, embed_all, embed_all, claims.check, template.reference)


def test_a_kill_at_any_step_of_a_chunk_and_a_commit_costs_nothing_but_time(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """Nodes are preempted at any instant: no state in between may read as done or lose a row."""
    first = template.steps.index("opens cache/image.zarr/c/1/0")
    last = template.steps.index("has removed cache/leases/00000.json")
    hit = "\n".join(template.steps[first : last + 1])
    for kind in ("image.zarr", "title.zarr", "parts/", "rows/", "commits/", "leases/"):
        assert kind in hit
    steps = [(step,) for step in range(first, last + 1)]
    first_run(processes, template).kill(tmp_path, steps)


def test_a_kill_anywhere_else_costs_nothing_but_time(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """Between shards, in a lease, in the labels: what is done stays done. A sample of the steps."""
    first = template.steps.index("opens cache/image.zarr/c/1/0")
    last = template.steps.index("has removed cache/leases/00000.json")
    rest = [*range(first), *range(last + 1, len(template.steps))]
    steps = [template.steps.index("has created cache/leases/00001.json"), *rest[::12]]
    first_run(processes, template).kill(tmp_path, [(step,) for step in steps])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_at_any_step_of_a_run_costs_nothing_but_time(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """All of them, for those who change the protocol."""
    steps = [(step,) for step in range(len(template.steps))]
    first_run(processes, template).kill(tmp_path, steps)


def test_a_run_that_is_killed_again_and_again_still_ends_the_same(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """What a killed run left is read by the next one, which is killed in turn."""
    dice = random.Random(0)
    steps = [
        (dice.randrange(30, 120), dice.randrange(20, 70), dice.randrange(20, 40)) for _ in range(4)
    ]
    first_run(processes, template).kill(tmp_path, steps)


def test_fifty_kills_at_random_moments_cost_nothing_but_time(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """A kill does not wait for a step: it may hit between any two instructions."""
    dice = random.Random(1)
    claims = Claims(template.plan, template.reference)
    num_kills = number = 0
    workspaces: list[LocalStorage] = []
    while num_kills < 50 or workspaces:
        while len(workspaces) < 4 and num_kills < 50:
            workspaces.append(template.fresh(tmp_path / str(number)))
            number += 1
        children = [processes.start(embed_all, each.location, pause=0.02) for each in workspaces]
        for child in children:
            time.sleep(dice.uniform(0.0, 0.2))
            child.send(signal.SIGKILL)
        for child, workspace in zip(children, list(workspaces), strict=True):
            outcome = child.wait()
            claims.check(workspace)
            num_kills += outcome.was_killed
            if not outcome.was_killed:
                outcome.result()
                check_finished(workspace, template.plan, template.reference)
                workspaces.remove(workspace)
    assert number > 4


def mending(processes: Processes, template: Template) -> Trial:
    """Return the repair of three shards: a flipped bit, a lost chunk, a lost commit."""

    def damaged(folder: Path) -> LocalStorage:
        workspace = template.finished(folder)
        flip_bit(workspace.path("cache/image.zarr/c/1/0"), 77)
        workspace.remove("cache/title.zarr/c/2/0")
        workspace.remove("cache/commits/00002.json")
        return workspace

    claims = Claims(template.plan, template.reference)
    check = functools.partial(claims.check, damaged=[0])
    return Trial(processes, damaged, repair, embed_all, check, template.reference)


def steps_of(trial: Trial, folder: Path) -> list[str]:
    """Return the steps of a run of that kind without a kill."""
    workspace = trial._begin(folder)
    steps = trial._processes.run(trial._run, workspace.location).result()["steps"]
    check_finished(workspace, read_plan(workspace), trial._reference)
    return steps


def test_a_kill_while_damaged_shards_are_mended_makes_them_no_worse(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """An old commit still stands when the repair begins, and must not cover half a repair."""
    trial = mending(processes, template)
    num_steps = len(steps_of(trial, tmp_path / "whole"))
    trial.kill(tmp_path, [(step,) for step in range(0, num_steps, 7)])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_at_any_step_of_a_repair_makes_it_no_worse(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """All of them, for those who change the protocol."""
    trial = mending(processes, template)
    num_steps = len(steps_of(trial, tmp_path / "whole"))
    trial.kill(tmp_path, [(step,) for step in range(num_steps)])


def redoing(processes: Processes, folder: Path) -> Trial:
    """Return the redo of a workspace whose pictures came back: old and new content differ."""
    planned = LocalStorage(folder / "planned")
    plan = plan_catalog(planned, folder / "catalog", with_bytes=False)
    away = [folder / "catalog" / f"{i:04d}.png" for i in (1, 9, 20, 39)]
    saved = [path.read_bytes() for path in away]
    for path in away:
        path.unlink()
    old, new = LocalStorage(folder / "old"), LocalStorage(folder / "new")
    copy_files(planned, old)
    processes.run(embed_all, old.location).result()
    for path, data in zip(away, saved, strict=True):
        path.write_bytes(data)
    copy_files(planned, new)
    processes.run(embed_all, new.location).result()
    before, after = files_of(old), files_of(new)
    assert before.keys() == after.keys()
    assert before != after

    def begin(place: Path) -> LocalStorage:
        workspace = LocalStorage(place)
        copy_files(old, workspace)
        return workspace

    return Trial(processes, begin, redo_all, redo_all, Claims(plan, before, after).check, after)


def test_a_kill_during_a_redo_leaves_the_old_shard_or_the_new_one(
    processes: Processes, tmp_path: Path
) -> None:
    """Never a mixture of the two under a commit."""
    trial = redoing(processes, tmp_path)
    num_steps = len(steps_of(trial, tmp_path / "whole"))
    trial.kill(tmp_path, [(step,) for step in range(0, num_steps, 14)])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_at_any_step_of_a_redo_leaves_the_old_shard_or_the_new_one(
    processes: Processes, tmp_path: Path
) -> None:
    """All of them, for those who change the protocol."""
    trial = redoing(processes, tmp_path)
    num_steps = len(steps_of(trial, tmp_path / "whole"))
    trial.kill(tmp_path, [(step,) for step in range(num_steps)])


def test_sigterm_keeps_whole_chunks_and_frees_the_lease(
    processes: Processes, template: Template, tmp_path: Path
) -> None:
    """A preempted node gets thirty seconds: the next one goes on, without waiting for a lease."""
    workspace = template.fresh(tmp_path / "w")
    child = processes.start(embed_all, workspace.location, pause=0.05, stop_nicely=True)
    wait_until(lambda: workspace.size("cache/parts/00000/0"))
    child.send(signal.SIGTERM)
    assert os.waitstatus_to_exitcode(child.wait().status) == 128 + signal.SIGTERM
    assert workspace.sizes("cache/leases") == {}
    assert not [name for name in workspace.sizes("") if name.endswith(".tmp")]
    assert shard_state(workspace, template.plan, 0).chunks_done == 1
    again = processes.run(embed_all, workspace.location).result()
    assert again["images"] == template.num_images - 7  # of chunk 0, one of which is no picture
    check_finished(workspace, template.plan, template.reference)


def test_a_worker_that_comes_second_leaves_a_finished_shard_alone(
    template: Template, tmp_path: Path
) -> None:
    """It saw the shard unfinished, then waited for the lease: the shard is done all the while."""
    done = template.finished(tmp_path / "w")
    workspace = SteppedStorage(done.root)
    before = workspace.sizes("cache")
    encoder = HashEncoder()
    with DecodePool(encoder.spec.preprocess, is_scaled=True, num_workers=0) as pool:
        watch = CatalogWatch(template.plan.items)
        embed_shard(workspace, template.plan, 1, encoder, pool, watch, batch_size=5)
    assert encoder.num_images == 0
    assert not [step for step in workspace.steps if "commits/" in step]
    assert workspace.sizes("cache") == before


@pytest.mark.parametrize("content", [b"", bytes(4), bytes(5), b"PAR1", b"x" * 100])
def test_a_damaged_part_is_a_chunk_to_make_again(
    template: Template, tmp_path: Path, content: bytes
) -> None:
    """A power cut may leave an empty file under a good name; it must not stop the rerun."""
    workspace = killed_before_the_commit(template, tmp_path / "w")
    workspace.path("cache/parts/00000/1").write_bytes(content)
    encoder = embed_here(workspace, template.plan, shards=[0])
    assert encoder.num_images == 8
    embed_here(workspace, template.plan)
    check_finished(workspace, template.plan, template.reference)


def test_a_part_vouches_for_its_own_chunk_only(template: Template, tmp_path: Path) -> None:
    """Swapped, each fits the files of the other's chunk, and rows would change places."""
    workspace = killed_before_the_commit(template, tmp_path / "w")
    first, second = (workspace.path(f"cache/parts/00000/{i}") for i in (0, 1))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    embed_here(workspace, template.plan)
    check_finished(workspace, template.plan, template.reference)


def killed_before_the_commit(template: Template, folder: Path) -> LocalStorage:
    """Return a workspace in which shard 0 has all its parts and no commit."""

    class Killed(BaseException):
        pass

    class Stopped(LocalStorage):
        def _step(self, step: str, name: str) -> None:
            if (step, name) == ("opens", "cache/commits/00000.json"):
                raise Killed

    workspace = template.fresh(folder)
    with contextlib.suppress(Killed):
        embed_here(Stopped(folder), template.plan)
    assert sorted(workspace.sizes("cache/parts")) == [f"cache/parts/00000/{i}" for i in (0, 1)]
    return workspace


class FinishedMeanwhile(LocalStorage):
    """A workspace in which another process finishes everything right after a listing."""

    def __init__(self, root: Path, finished: LocalStorage) -> None:
        super().__init__(root)
        self._finished: LocalStorage | None = finished

    def sizes(self, folder: str) -> dict[str, int]:
        found = super().sizes(folder)
        if self._finished is not None:
            copy_files(self._finished, LocalStorage(self.root), "cache")
            self._finished = None
        return found


def test_a_shard_that_is_finished_while_one_looks_is_not_broken(
    template: Template, tmp_path: Path
) -> None:
    """A listing is older than the commits read after it: no reason for alarm or for a repair."""
    for number, checksums in enumerate((False, True)):
        root = template.fresh(tmp_path / str(number)).root
        states = shard_states(
            FinishedMeanwhile(root, template.done), template.plan, range(3), checksums=checksums
        )
        assert {state.state for state in states} <= {"done", "missing"}


def test_a_removed_commit_is_gone_after_a_power_cut_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it comes back and vouches for chunks that were written after its removal."""
    workspace = LocalStorage(tmp_path)
    workspace.write("cache/commits/00000.json", b"{}")
    calls: list[str] = []
    monkeypatch.setattr(storage, "_sync", lambda folder: calls.append(folder.name))
    workspace.remove("cache/commits/00000.json")
    assert calls == ["commits"]


# ------------------------------------------------------------------------ disks and sources


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[LocalStorage, Callable[..., None]]]:
    """Return a workspace on a disk of its own and a way to mount it again."""
    with small_disk(tmp_path / "disk", 400 << 10) as mount:
        yield LocalStorage(tmp_path / "disk" / "workspace"), mount


def fill(workspace: LocalStorage, num_free: int) -> Path:
    """Leave so many pages of 4 kB free on a workspace's disk."""
    filler = workspace.root.parent / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - 4096 * num_free))
    return filler


def test_a_full_disk_is_one_error_and_no_loss(
    template: Template, disk: tuple[LocalStorage, Callable[..., None]]
) -> None:
    """At whatever file it fills up: the same command goes on once there is space."""
    disk_folder = disk[0].root.parent
    claims = Claims(template.plan, template.reference)
    num_failures, is_done = 0, False
    while not is_done:
        workspace = template.fresh(disk_folder / str(num_failures))
        filler = fill(workspace, 3 * num_failures)
        found: list[WorkspaceError] = []
        try:
            embed_here(workspace, template.plan)
        except WorkspaceError as error:
            found.append(error)
        is_done = not found
        num_failures += len(found)
        assert all(os.strerror(errno.ENOSPC) in error.what for error in found)
        assert all(str(workspace.root) in error.where for error in found)
        claims.check(workspace)
        assert not [name for name in workspace.sizes("") if name.endswith(".tmp")]
        assert workspace.sizes("cache/leases") == {}
        filler.unlink()
        embed_here(workspace, template.plan)
        check_finished(workspace, template.plan, template.reference)
        shutil.rmtree(workspace.root)
    assert num_failures > 6


def test_a_workspace_that_cannot_be_written_is_refused_before_the_work(
    template: Template, disk: tuple[LocalStorage, Callable[..., None]]
) -> None:
    """Loading the encoder and embedding the labels may take minutes, for nothing."""
    workspace, mount = disk
    copy_files(template.planned, workspace)
    encoder = HashEncoder()
    mount("ro")
    with pytest.raises(WorkspaceError) as caught:
        embed_here(workspace, template.plan, encoder)
    assert str(workspace.root) in caught.value.where
    assert (encoder.num_images, encoder.num_texts) == (0, 0)
    mount("rw")
    embed_here(workspace, template.plan)
    mount("ro")
    embed_here(workspace, template.plan)  # nothing to do, so nothing to refuse
    check_finished(workspace, template.plan, template.reference)


def planned_with_its_own_catalog(folder: Path) -> tuple[LocalStorage, Plan, Path]:
    workspace = LocalStorage(folder / "workspace")
    plan = plan_catalog(workspace, folder / "catalog")
    return workspace, plan, Path(plan.items.files[0].path)


def test_a_source_that_is_gone_is_one_error_and_no_loss(tmp_path: Path) -> None:
    """The mount of the catalog was away."""
    workspace, plan, source = planned_with_its_own_catalog(tmp_path)
    source.rename(tmp_path / "away")
    with pytest.raises(SourceChangedError, match="gone") as caught:
        embed_here(workspace, plan)
    assert caught.value.where == str(source)
    assert {state.state for state in shard_states(workspace, plan, range(3))} == {"missing"}
    with pytest.raises(CacheIncompleteError):
        Cache(workspace, plan)
    (tmp_path / "away").rename(source)
    assert embed_here(workspace, plan).num_images == 40
    verify(workspace, plan, range(3)).check()


class Meddler(HashEncoder):
    """Does something while the first shard is encoded."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__()
        self._meddle: Callable[[], object] | None = meddle

    def encode_texts(self, texts: list[str], batch_size: int = 64) -> Any:
        if self.num_images and self._meddle:
            self._meddle()
            self._meddle = None
        return super().encode_texts(texts, batch_size)


def other_catalog(source: Path) -> None:
    """Put other titles of the same length in place of the planned ones."""
    data = source.read_bytes()
    plan_catalog(
        LocalStorage(source.parent / "other"),
        source.parent / "changed",
        title=[f"Brag thing {i % 4} no. {i}" for i in range(40)],
    )
    (source.parent / "changed" / "items.parquet").replace(source)
    assert source.read_bytes() != data


@pytest.mark.parametrize("meddle", [Path.unlink, other_catalog])
def test_a_source_that_changes_during_a_run_ends_in_no_shard(
    tmp_path: Path, meddle: Callable[[Path], None]
) -> None:
    """A run takes hours: later shards must not be made from other items than the planned ones."""
    workspace, plan, source = planned_with_its_own_catalog(tmp_path)
    saved = source.read_bytes()
    with pytest.raises(PipelineError) as caught:
        embed_here(workspace, plan, Meddler(lambda: meddle(source)))
    assert str(source) in caught.value.where
    source.write_bytes(saved)
    reference = LocalStorage(tmp_path / "reference")
    copy_files(workspace, reference)
    for name in reference.sizes("cache"):
        reference.remove(name)
    embed_here(reference, plan)
    Claims(plan, files_of(reference)).check(workspace)
    embed_here(workspace, plan)
    check_finished(workspace, plan, files_of(reference))


def test_an_items_file_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    """Before any work: its rows are no longer the plan's."""
    workspace, plan, source = planned_with_its_own_catalog(tmp_path)
    saved = source.read_bytes()
    other_catalog(source)
    encoder = HashEncoder()
    with pytest.raises(SourceChangedError) as caught:
        embed_here(workspace, plan, encoder)
    assert caught.value.where == str(source)
    assert encoder.num_images == 0
    assert not commit_path(workspace, 0).exists()
    source.write_bytes(saved)
    embed_here(workspace, plan)
    assert find_orphans(workspace, plan) == []
    verify(workspace, plan, range(3)).check()
