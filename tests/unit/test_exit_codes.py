"""Exit codes, from which a scheduler knows whether to run the same command again."""

import errno
import json
import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from obstore.exceptions import GenericError, PermissionDeniedError

import cli
from cache.lease import Lease
from cache.object_storage import ObjectStorage
from cache.storage import LocalStorage, Storage
from cache.verify import shard_states
from pipeline.ray_nodes import RayReport
from schemas.errors import (
    EXIT_CRASH,
    EXIT_ERROR,
    EXIT_RETRY,
    LeaseError,
    PipelineError,
    ShardsFailedError,
    WorkspaceError,
)
from tests.fakes import fake_plan


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(each) for each in arguments])


def test_a_crash_is_told_from_an_error_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one may be gone on another node; the other wants a person."""

    def break_down(*arguments: object) -> None:
        raise ZeroDivisionError("no such thing")

    fake_plan(LocalStorage(tmp_path), num_items=10)
    monkeypatch.setattr("pipeline.status.read_status", break_down)
    crashed = run("status", "--workspace", tmp_path)
    assert crashed.exit_code == EXIT_CRASH
    assert "ZeroDivisionError: no such thing" in crashed.output
    as_json = run("status", "--workspace", tmp_path, "--log-format", "json")
    last = json.loads(as_json.stderr.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("crash", EXIT_CRASH)
    assert run("status", "--workspace", tmp_path / "none").exit_code == EXIT_ERROR


def test_a_held_shard_may_be_tried_again(tmp_path: Path, small_model: Path) -> None:
    """As when a scheduler starts a task twice: the second comes back when the first is done."""
    workspace = LocalStorage(tmp_path)
    fake_plan(workspace, num_items=10)
    with Lease(workspace, "the plan"):
        refused = run("plan", "--delete", _ids(tmp_path), "--workspace", tmp_path)
    assert refused.exit_code == EXIT_RETRY
    assert "is being written by" in refused.output


def _ids(folder: Path) -> Path:
    path = folder / "ids.txt"
    path.write_text("item-000000\n")
    return path


@pytest.mark.parametrize(
    ("number", "can_retry"),
    [
        (errno.ENOSPC, False),
        (errno.EACCES, False),
        (errno.EROFS, False),
        (errno.ESTALE, True),
        (errno.ETIMEDOUT, True),
        (errno.EIO, True),
    ],
)
def test_a_full_disk_wants_a_person_and_a_lost_server_wants_time(
    workspace: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int, can_retry: bool
) -> None:
    """A retry on a full disk costs every task its work; one on a stale handle heals."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(workspace, "_step", refuse)
    with pytest.raises(WorkspaceError) as caught:
        workspace.write("a", b"a")
    assert caught.value.can_retry == can_retry
    monkeypatch.undo()
    workspace.write("a", b"a")
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(WorkspaceError) as caught:
        workspace.read("a")
    assert caught.value.can_retry == can_retry


@pytest.mark.parametrize(
    ("error", "can_retry"), [(GenericError("no route"), True), (PermissionDeniedError("no"), False)]
)
def test_a_store_out_of_reach_wants_time_and_a_forbidden_one_a_person(
    monkeypatch: pytest.MonkeyPatch, error: Exception, can_retry: bool
) -> None:
    """The same through an object store."""

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    store: Storage = ObjectStorage("memory://")
    monkeypatch.setattr("obstore.put", refuse)
    monkeypatch.setattr("obstore.get", refuse)
    for call in (lambda: store.write("a", b"a"), lambda: store.read("a")):
        with pytest.raises(WorkspaceError) as caught:
            call()
        assert caught.value.can_retry == can_retry


def test_an_error_stays_whole_on_its_way_between_processes() -> None:
    """A worker on another node sends it to the process that shows it."""
    sent = LeaseError("held", where="here", fix="wait")
    changed = ShardsFailedError("2 failed", where="there", fix="look", can_retry=True)
    for error in (sent, changed):
        found: PipelineError = pickle.loads(pickle.dumps(error))
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert found.exit_code == EXIT_RETRY


def test_a_store_out_of_reach_is_not_taken_for_a_broken_cache(
    workspace: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a moment without network has a scheduler submit every shard again."""
    plan = fake_plan(workspace, num_items=10)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    for name in ("pathlib.Path.read_bytes", "os.stat"):
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse)
            with pytest.raises(WorkspaceError) as caught:
                list(shard_states(workspace, plan, [0]))
        assert caught.value.can_retry
    (state,) = shard_states(workspace, plan, [0])
    assert state.state == "missing"


def test_ctrl_c_has_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 would say that a person has to mend something."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    fake_plan(LocalStorage(tmp_path), num_items=10)
    monkeypatch.setattr("pipeline.status.read_status", interrupt)
    done = run("status", "--workspace", tmp_path, "--log-format", "json")
    assert done.exit_code == 130
    assert json.loads(done.stderr.splitlines()[-1])["exit_code"] == 130
    assert "interrupted; run the same" in run("status", "--workspace", tmp_path).output


@pytest.mark.parametrize(
    ("arguments", "shards"),
    [
        ([], [0, 1, 2]),
        (["--all", "--redo"], [0, 1, 2]),
        (["--shards", "1-2"], [1, 2]),
        (["--labels"], []),
    ],
)
def test_ray_gets_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], shards: list[int]
) -> None:
    """All shards is its default, but not where labels were asked for, or to make them again."""
    asked: list[tuple[list[int], bool]] = []

    def embed_on_ray(
        workspace: Storage, plan: object, chosen: list[int], **options: bool
    ) -> RayReport:
        asked.append((list(chosen), options["with_labels"]))
        return RayReport(nodes=(), seconds=0.0)

    fake_plan(LocalStorage(tmp_path), num_items=128 * 3)
    monkeypatch.setattr("pipeline.ray_engine.embed_on_ray", embed_on_ray)
    place = ["--engine", "ray", "--workspace", tmp_path]
    assert run("embed", *arguments, *place).exit_code == 0
    assert asked == [(shards, "--labels" in arguments)]
    assert run("embed", "--redo", *place).exit_code == 2
