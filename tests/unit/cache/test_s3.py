"""A workspace in S3 keeps the promises of a folder, against a real server on this machine."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import torch

from cache import object_storage
from cache.lease import Lease, read_holder
from cache.object_storage import ObjectStorage
from cache.reader import Cache, read_all_items, read_plan
from cache.storage import LocalStorage, Storage, open_storage
from pipeline.catalog_changes import delete_items
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.status import read_status
from pipeline.tensors import FitData
from pipeline.verify import verify
from schemas.errors import CacheCorruptError, LeaseError, WorkspaceError
from schemas.plan import Plan
from schemas.run import FitConfig
from tests.fakes import CPU, fake_workspace
from tests.faults import (
    Claims,
    Processes,
    check_finished,
    copy_files,
    embed_all,
    embed_here,
    files_of,
    forge_lease,
    free_port,
    hold_lease,
    make_bucket,
    plan_catalog,
    repair_here,
    serve_flaky,
    serve_s3,
    wait_until,
)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Return a place to run what is to be killed, and the server."""
    with Processes() as found:
        yield found


@pytest.fixture(scope="module")
def port(processes: Processes) -> int:
    """Run an S3 server; return its port."""
    found = free_port()
    processes.start(serve_s3, found)
    make_bucket(found, "bucket")
    return found


def use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(
    port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], Storage]:
    """Return what opens a workspace of the test in the bucket, for it and its processes."""
    use(monkeypatch, port)
    return lambda name: open_storage(f"s3://bucket/{request.node.name}/{name}")


@dataclass(frozen=True)
class Template:
    """A planned workspace in a folder and what its cache must contain."""

    planned: LocalStorage
    plan: Plan
    reference: dict[str, Any]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Embed a catalog on disk, once."""
    folder = tmp_path_factory.mktemp("template")
    planned, done = LocalStorage(folder / "planned"), LocalStorage(folder / "done")
    plan = plan_catalog(planned, folder / "catalog")
    copy_files(planned, done)
    embed_here(done, plan)
    return Template(planned, plan, files_of(done))


def test_every_object_has_the_bytes_of_the_file(
    bucket: Callable[[str], Storage], template: Template
) -> None:
    """So that a cache may be copied between the two, and either be verified."""
    workspace = bucket("w")
    assert isinstance(workspace, ObjectStorage)
    copy_files(template.planned, workspace)
    assert embed_here(workspace, template.plan).num_images == 40
    check_finished(workspace, template.plan, template.reference)
    assert files_of(workspace) == template.reference
    assert {state.state for state in read_status(workspace, template.plan).shards} == {"done"}
    assert embed_here(workspace, template.plan).num_images == 0


def test_a_plan_is_written_there_too(bucket: Callable[[str], Storage], tmp_path: Path) -> None:
    """The whole first stage, without a folder."""
    workspace = bucket("w")
    plan = plan_catalog(workspace, tmp_path / "catalog")
    embed_here(workspace, plan)
    verify(workspace, plan, range(3)).check()


def test_ten_kills_at_random_moments_cost_nothing_but_time(
    bucket: Callable[[str], Storage], processes: Processes, template: Template
) -> None:
    """Spot instances write to S3, and die there."""
    dice = random.Random(2)
    claims = Claims(template.plan, template.reference)
    num_kills = number = 0
    workspaces: list[Storage] = []
    while num_kills < 10 or workspaces:
        while len(workspaces) < 3 and num_kills < 10:
            workspaces.append(bucket(str(number)))
            copy_files(template.planned, workspaces[-1])
            number += 1
        children = [processes.start(embed_all, each.location, pause=0.03) for each in workspaces]
        for child in children if num_kills < 10 else ():
            time.sleep(dice.uniform(0.0, 0.3))
            child.send(signal.SIGKILL)
        for child, workspace in zip(children, list(workspaces), strict=True):
            outcome = child.wait()
            claims.check(workspace)
            num_kills += outcome.was_killed
            if not outcome.was_killed:
                outcome.result()
                check_finished(workspace, template.plan, template.reference)
                workspaces.remove(workspace)


@pytest.mark.parametrize("fault", ["503", "dropped", "lost"])
def test_a_run_survives_a_server_that_fails_now_and_then(
    bucket: Callable[[str], Storage],
    processes: Processes,
    template: Template,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """Under load S3 answers 503, and connections break before or after the server has done it."""
    workspace = bucket("w")
    copy_files(template.planned, workspace)
    flaky = free_port()
    processes.start(serve_flaky, flaky, port, 17, fault)
    make_bucket(flaky, "bucket")
    use(monkeypatch, flaky)
    found = processes.run(embed_all, workspace.location).result()
    assert found["images"] == 40
    use(monkeypatch, port)
    check_finished(open_storage(workspace.location), template.plan, template.reference)


@pytest.mark.parametrize("fault", ["503", "dropped", "lost"])
def test_a_lease_is_taken_and_given_back_through_a_server_that_fails(
    bucket: Callable[[str], Storage],
    processes: Processes,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """Its conditional puts too are tried again, and know their own first try when they meet it."""
    pause = {"init_backoff": timedelta(milliseconds=5)}
    monkeypatch.setitem(object_storage._RETRY, "backoff", object_storage._RETRY["backoff"] | pause)
    flaky = free_port()
    processes.start(serve_flaky, flaky, port, 4, fault)
    make_bucket(flaky, "bucket")
    use(monkeypatch, flaky)
    workspace = bucket("w")
    for turn in range(6):
        if turn % 2:
            forge_lease(workspace, 0)
        with Lease(workspace, 0, beat_seconds=60.0, stale_seconds=0.05) as held:
            held.check()
        assert workspace.sizes("") == {}


def test_a_server_that_is_not_there_is_one_error(
    monkeypatch: pytest.MonkeyPatch, template: Template
) -> None:
    """With the address, not a stack trace of an HTTP library."""
    use(monkeypatch, free_port())
    monkeypatch.setattr("cache.object_storage._RETRY", {"max_retries": 0})
    with pytest.raises(WorkspaceError) as caught:
        embed_here(open_storage("s3://bucket/nothing"), template.plan)
    assert "s3://bucket/nothing" in caught.value.where
    assert "Debug source" not in str(caught.value)


def test_exactly_one_of_many_takers_gets_the_lease(
    bucket: Callable[[str], Storage], processes: Processes, tmp_path: Path
) -> None:
    """Of a free shard, and of a dead holder's: the others are told who has it."""
    workspace = bucket("w")
    for turn in ("free", "dead"):
        if turn == "dead":
            dead = processes.start(hold_lease, workspace.location, 0, str(tmp_path / "never"))
            wait_until(lambda: read_holder(workspace, 0))
            dead.send(signal.SIGKILL)
            dead.wait()
        end = tmp_path / turn
        children = [processes.start(hold_lease, workspace.location, 0, str(end)) for _ in range(6)]
        wait_until(lambda: (holder := read_holder(workspace, 0)) and not holder.is_dead())
        holder = read_holder(workspace, 0)
        refused = [child for child in children if holder and child.pid != holder.pid]
        for child in refused:
            assert f"written by {holder}" in child.wait().error
        end.touch()
        (winner,) = set(children) - set(refused)
        assert winner.wait().result() == str(holder)
        assert read_holder(workspace, 0) is None


def test_of_two_that_saw_the_same_dead_holder_one_gets_the_lease(
    bucket: Callable[[str], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and writing another may be faster: the server refuses who comes second."""
    workspace, get = bucket("w"), obstore.get
    workspace.create("lease", b"dead")

    def rival_after(*args: Any, **options: Any) -> Any:
        found = get(*args, **options)
        monkeypatch.setattr(obstore, "get", get)
        assert workspace.seize("lease", b"rival", b"dead")
        return found

    monkeypatch.setattr(obstore, "get", rival_after)
    assert not workspace.seize("lease", b"ours", b"dead")
    assert workspace.read("lease") == b"rival"


def test_a_lease_there_beats_and_goes_stale(bucket: Callable[[str], Storage]) -> None:
    """The same rules as in a folder, by conditional puts."""
    workspace = bucket("w")
    forge_lease(workspace, 0)
    with Lease(workspace, 0, beat_seconds=0.02, stale_seconds=0.3) as held:
        wait_until(lambda: (holder := read_holder(workspace, 0)) and holder.beat > 2)
        held.check()
        forge_lease(workspace, 0)
        with pytest.raises(LeaseError, match="lost to process 4242 on node7"):
            held.check()
    assert read_holder(workspace, 0) is not None


def test_fit_reads_and_writes_there(bucket: Callable[[str], Storage], tmp_path: Path) -> None:
    """Stage two on another machine than stage one: the same run as from a folder."""
    config = FitConfig(approach="4", epochs=2, batch_size=32, hidden_dim=16, lr=0.01)
    results, tensors = [], []
    for workspace in (LocalStorage(tmp_path), bucket("w")):
        plan = fake_workspace(workspace)  # type: ignore[arg-type]
        write_neighbors(workspace, plan, k=3)
        tensors.append(
            FitData(workspace, plan, torch.device("cpu")).embeddings(
                "image", torch.arange(plan.num_items)
            )
        )
        results.append(fit(workspace, plan, config, runtime=CPU))
        assert fit(workspace, plan, config, runtime=CPU).is_reused
        assert len(read_all_items(workspace, plan)) == 300
    torch.testing.assert_close(tensors[0], tensors[1], rtol=0, atol=0)
    assert results[0].metrics == results[1].metrics
    assert results[1].folder.startswith("s3://bucket/")
    runs = workspace.sizes("runs")
    assert any(name.endswith("/metrics.json") for name in runs)
    assert any("tfevents" in name for name in runs)


def test_a_plan_is_changed_there(
    bucket: Callable[[str], Storage], template: Template, tmp_path: Path
) -> None:
    """The same change gives the same tables, and leaves nothing pending."""
    (tmp_path / "gone.txt").write_text(
        "\n".join(read_all_items(template.planned, template.plan)["item_id"].to_pylist()[:3])
    )
    here, there = LocalStorage(tmp_path / "here"), bucket("changed")
    for workspace in (here, there):
        copy_files(template.planned, workspace)
        assert delete_items(workspace, tmp_path / "gone.txt").is_changed
    names = ("plan.json", "labels.parquet", "retired.parquet")
    assert [there.read(name) for name in names] == [here.read(name) for name in names]
    assert not there.sizes("pending/")
    assert read_all_items(there, read_plan(there))["split"].null_count == 3


def test_single_rows_are_read_by_ranges(
    bucket: Callable[[str], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen megabytes for each of 4,096 rows would be 64 GB."""
    workspace = bucket("w")
    plan = fake_workspace(workspace)  # type: ignore[arg-type]
    cache = Cache(workspace, plan)
    whole = cache.read("title")
    rows = np.random.default_rng(0).integers(0, 300, 50)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a whole object was read")

    monkeypatch.setattr(obstore, "get", refuse)
    np.testing.assert_array_equal(cache.read_random("title", rows), whole[rows])


@pytest.mark.parametrize("damage", ["flipped", "swapped", "cut", "gone"])
def test_a_damaged_object_is_found_and_mended(
    bucket: Callable[[str], Storage], template: Template, damage: str
) -> None:
    """S3 keeps bytes well; scripts that copy them do not."""
    workspace = bucket("w")
    copy_files(template.planned, workspace)
    embed_here(workspace, template.plan)
    file, other = "cache/image.zarr/c/1/0", "cache/image.zarr/c/0/0"
    data = bytearray(workspace.read(file))
    data[40] ^= 16
    if damage == "gone":
        workspace.remove(file)
    elif damage == "swapped":
        one, two = workspace.read(file), workspace.read(other)
        workspace.write(file, two)
        workspace.write(other, one)
    else:
        workspace.write(file, bytes(data) if damage == "flipped" else bytes(data[:-9]))
    found = verify(workspace, template.plan, range(3))
    assert found.broken == [0]
    assert f"{file} (rows 8 to 15)" in found.states[0].reason
    if damage in ("flipped", "swapped"):
        with pytest.raises(CacheCorruptError):
            Cache(workspace, template.plan).read("image")
    assert repair_here(workspace, template.plan).num_images == (16 if damage == "swapped" else 8)
    check_finished(workspace, template.plan, template.reference)
