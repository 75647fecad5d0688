"""Whatever is damaged is found, named, and mended with no more work than it needs."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cache.lease import Lease
from cache.reader import Cache
from cache.storage import LocalStorage
from cache.verify import load_commit
from pipeline.status import read_status
from pipeline.verify import remove_orphans, verify
from schemas.commit import sealed_json
from schemas.errors import (
    CacheBrokenError,
    CacheCorruptError,
    CacheIncompleteError,
    PipelineError,
)
from schemas.plan import Plan
from tests.faults import (
    check_finished,
    copy_files,
    embed_here,
    files_of,
    flip_bit,
    forge_lease,
    plan_catalog,
    repair_here,
)


@dataclass(frozen=True)
class Template:
    """A workspace that is done: 40 items in three shards of two, two and one chunks."""

    done: LocalStorage
    plan: Plan
    reference: dict[str, Any]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Embed a catalog once."""
    folder = tmp_path_factory.mktemp("template")
    done = LocalStorage(folder / "done")
    plan = plan_catalog(done, folder / "catalog")
    embed_here(done, plan)
    return Template(done, plan, files_of(done))


@pytest.fixture
def done(template: Template, tmp_path: Path) -> LocalStorage:
    """Return a finished workspace to damage."""
    workspace = LocalStorage(tmp_path / "done")
    copy_files(template.done, workspace)
    return workspace


def all_reasons(workspace: LocalStorage, plan: Plan) -> dict[int, str]:
    """Return what verify says of the broken shards; the others must be done."""
    found = verify(workspace, plan, range(plan.num_shards))
    assert {state.state for state in found.states} <= {"done", "broken"}
    if found.broken:
        with pytest.raises(CacheBrokenError, match="verify --repair"):
            found.check()
    return {state.shard: state.reason for state in found.states if state.state == "broken"}


def read_everything(workspace: LocalStorage, plan: Plan) -> None:
    """Read as `fit` does."""
    cache = Cache(workspace, plan)
    cache.read_rows()
    cache.read("image")
    cache.read("title")


CHUNKS = [(name, chunk) for name in ("image", "title") for chunk in range(5)]


def rows_of(chunk: int) -> str:
    return f"rows {8 * chunk} to {8 * chunk + 7}"


@pytest.mark.parametrize(("name", "chunk"), CHUNKS)
def test_a_flipped_bit_anywhere_in_a_chunk_is_found(
    template: Template, done: LocalStorage, name: str, chunk: int
) -> None:
    """By verify and by the reader, with the file, the chunk and its rows."""
    file = f"cache/{name}.zarr/c/{chunk}/0"
    path = done.path(file)
    content = path.read_bytes()
    num_bits = 8 * len(content)
    dice = random.Random(chunk)
    for bit in [0, num_bits - 1, *(dice.randrange(num_bits) for _ in range(12))]:
        flip_bit(path, bit)
        reasons = all_reasons(done, template.plan)
        assert reasons.keys() == {chunk // 2}
        assert f"{file} ({rows_of(chunk)})" in reasons[chunk // 2]
        assert reasons[chunk // 2].count("cache/") == 1
        with pytest.raises(CacheCorruptError, match=rf"chunk {chunk} \({rows_of(chunk)}\)") as e:
            read_everything(done, template.plan)
        assert e.value.where == str(path)
        assert f"--repair --shard {chunk // 2}" in e.value.fix
        path.write_bytes(content)
    assert all_reasons(done, template.plan) == {}
    flip_bit(path, 99)
    encoder = repair_here(done, template.plan)
    # The title's neighbors in its chunk and no more; every picture of the catalog is another.
    assert (encoder.num_images, encoder.num_texts) == (8, 8)
    check_finished(done, template.plan, template.reference)


@pytest.mark.parametrize("file", ["cache/rows/00001.parquet", "cache/commits/00001.json"])
def test_a_flipped_bit_anywhere_beside_the_chunks_is_found(
    template: Template, done: LocalStorage, file: str
) -> None:
    """Rows say which items have an embedding, commits what all the rest must be."""
    path = done.path(file)
    content = path.read_bytes()
    dice = random.Random(5)
    for bit in [0, 8 * len(content) - 1, *(dice.randrange(8 * len(content)) for _ in range(100))]:
        flip_bit(path, bit)
        reasons = all_reasons(done, template.plan)
        assert reasons.keys() == {1}, bit
        assert file in reasons[1]
        with pytest.raises((CacheCorruptError, CacheIncompleteError)):
            read_everything(done, template.plan)
        path.write_bytes(content)
    flip_bit(path, 333)
    encoder = repair_here(done, template.plan)
    assert encoder.num_images == 16
    check_finished(done, template.plan, template.reference)


def test_the_labels_are_checked_too(template: Template, done: LocalStorage) -> None:
    """They are half of what training compares with."""
    dice = random.Random(6)
    for file in ("cache/label.zarr/c/0/0", "cache/commits/labels.json"):
        path = done.path(file)
        content = path.read_bytes()
        for _ in range(30):
            flip_bit(path, dice.randrange(8 * len(content)))
            found = verify(done, template.plan, range(3))
            assert found.labels_broken
            assert file in found.labels
            with pytest.raises(CacheBrokenError, match=file):
                found.check()
            path.write_bytes(content)
        flip_bit(path, 50)
        encoder = repair_here(done, template.plan)
        assert (encoder.num_images, encoder.num_texts) == (0, 4)
        check_finished(done, template.plan, template.reference)


SWAPS = [
    ("image", 0, "image", 1),
    ("image", 2, "title", 2),
    ("image", 1, "title", 3),
    ("image", 1, "image", 2),
    ("title", 0, "title", 4),
]


@pytest.mark.parametrize(("name", "chunk", "other_name", "other_chunk"), SWAPS)
def test_two_swapped_chunks_are_found_though_each_is_whole(
    template: Template, done: LocalStorage, name: str, chunk: int, other_name: str, other_chunk: int
) -> None:
    """Each file's own checksum is right: only the commit knows where it belongs."""
    first = done.path(f"cache/{name}.zarr/c/{chunk}/0")
    second = done.path(f"cache/{other_name}.zarr/c/{other_chunk}/0")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert {state.state for state in read_status(done, template.plan).shards} == {"done"}
    reasons = all_reasons(done, template.plan)
    assert reasons.keys() == {chunk // 2, other_chunk // 2}
    assert f"cache/{name}.zarr/c/{chunk}/0 ({rows_of(chunk)})" in reasons[chunk // 2]
    other = f"cache/{other_name}.zarr/c/{other_chunk}/0 ({rows_of(other_chunk)})"
    assert other in reasons[other_chunk // 2]
    with pytest.raises(CacheCorruptError, match="crc32c"):
        read_everything(done, template.plan)
    encoder = repair_here(done, template.plan)
    assert encoder.num_images == 8 * len({chunk, other_chunk})
    check_finished(done, template.plan, template.reference)


def test_swapped_rows_and_swapped_commits_are_found(template: Template, done: LocalStorage) -> None:
    """A restored backup may put any file anywhere."""
    for file in ("cache/rows/0000{}.parquet", "cache/commits/0000{}.json"):
        first, second = (done.path(file.format(shard)) for shard in (0, 1))
        one, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one)
        assert all_reasons(done, template.plan).keys() == {0, 1}
        with pytest.raises((CacheCorruptError, CacheIncompleteError)):
            read_everything(done, template.plan)
        assert repair_here(done, template.plan).num_images == 32
        check_finished(done, template.plan, template.reference)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(4))


@pytest.mark.parametrize("damage", [cut, empty, lengthen, Path.unlink])
@pytest.mark.parametrize(
    ("file", "num_images"),
    [
        ("cache/image.zarr/c/2/0", 8),
        ("cache/title.zarr/c/3/0", 8),
        ("cache/rows/00001.parquet", 16),
        ("cache/commits/00001.json", 16),
    ],
)
def test_a_file_of_another_length_is_found_and_mended(
    template: Template,
    done: LocalStorage,
    file: str,
    num_images: int,
    damage: Callable[[Path], None],
) -> None:
    """Cut by a full disk that somebody copied to, emptied by a power cut, or lost."""
    damage(done.path(file))
    reasons = all_reasons(done, template.plan)
    assert reasons.keys() == {1}
    assert file in reasons[1]
    if "zarr" in file:
        assert rows_of(int(file.split("/")[-2])) in reasons[1]
        assert read_status(done, template.plan).shards[1].state == "broken"
    with pytest.raises((CacheCorruptError, CacheIncompleteError)) as caught:
        read_everything(done, template.plan)
    assert file in str(caught.value)
    encoder = repair_here(done, template.plan)
    assert encoder.num_images == num_images
    check_finished(done, template.plan, template.reference)


def test_every_damage_at_once_is_named_and_mended(template: Template, done: LocalStorage) -> None:
    """A bad disk rarely stops at one file; what is whole is kept all the same."""
    flip_bit(done.path("cache/image.zarr/c/0/0"), 1000)
    done.remove("cache/title.zarr/c/0/0")
    cut(done.path("cache/title.zarr/c/2/0"))
    empty(done.path("cache/commits/00002.json"))
    flip_bit(done.path("cache/label.zarr/c/0/0"), 9)
    found = verify(done, template.plan, range(3))
    assert found.broken == [0, 1, 2]
    # A missing file is told by its size alone, so the flipped bit beside it may wait.
    assert "title.zarr/c/0/0" in found.states[0].reason
    text = str(found.table())
    for word in ("shard 00001", "cache/title.zarr/c/2/0", "commits/00002.json", "label.zarr"):
        assert word in text
    encoder = repair_here(done, template.plan)
    assert encoder.num_images == 8 + 8 + 8
    check_finished(done, template.plan, template.reference)


@pytest.mark.parametrize("name", ["image", "title", "label"])
def test_missing_array_metadata_is_named_and_mended(
    template: Template, done: LocalStorage, name: str
) -> None:
    """`--repair` says that it makes what is broken again: that too, and nothing else."""
    file = f"cache/{name}.zarr/zarr.json"
    done.remove(file)
    found = verify(done, template.plan, range(3))
    with pytest.raises(CacheBrokenError, match=file):
        found.check()
    encoder = repair_here(done, template.plan)
    assert encoder.num_images == 0
    check_finished(done, template.plan, template.reference)


def test_a_damaged_plan_table_is_named(template: Template, done: LocalStorage) -> None:
    """No embedding is wrong, but which item and label it belongs to is."""
    for file in ("items/00001.parquet", "labels.parquet"):
        flip_bit(done.path(file), 800)
        found = verify(done, template.plan, range(3))
        assert found.broken == []
        with pytest.raises(CacheBrokenError, match=file):
            found.check()
        done.write(file, template.done.read(file))
    verify(done, template.plan, range(3)).check()


def test_only_the_asked_shards_are_looked_at(template: Template, done: LocalStorage) -> None:
    """A job array verifies as it embeds: each its own part."""
    cut(done.path("cache/image.zarr/c/4/0"))
    verify(done, template.plan, [0, 1]).check()
    with pytest.raises(CacheBrokenError, match="shard 2"):
        verify(done, template.plan, [2]).check()


def test_a_commit_that_counts_wrong_is_mended(template: Template, done: LocalStorage) -> None:
    """Whatever wrote it: a repair that finds every chunk right must not stop at that."""
    name = "cache/commits/00001.json"
    commit = load_commit(done, 1)
    assert commit is not None
    done.write(name, sealed_json(replace(commit, image_ok=3)).encode())
    assert "16 image_ok, its commit says 3" in all_reasons(done, template.plan)[1]
    assert repair_here(done, template.plan).num_images == 0
    check_finished(done, template.plan, template.reference)


# Of a process that cannot be: numbers end at 4194304.
LEFT_OVER = [
    "cache/image.zarr/c/1/.0.4194305.0a1b2c3d.tmp",
    "cache/commits/.00000.json.4194305.0a1b2c3d.tmp",
    "cache/leases/.00002.json.4194305.0a1b2c3d.tmp",
    "runs/a4/.metrics.json.4194305.0a1b2c3d.tmp",
    ".plan.json.4194305.0a1b2c3d.tmp",
    "cache/parts/00001/2",
    "cache/parts/00001/3",
]


def test_what_killed_processes_left_is_listed_and_removed_and_nothing_else(
    template: Template, done: LocalStorage
) -> None:
    """It takes space and alarms people; a file that is needed must never be among it."""
    done.write("runs/a4/metrics.json", b"{}")
    done.write("neighbors.parquet", b"x")
    before = {name: done.read(name) for name in done.sizes("")}
    for name in LEFT_OVER:
        done.write(name, b"half")
    with Lease(done, 1) as held:
        dead = done.read("cache/leases/00001.json")
        held.check()
    done.write("cache/leases/00001.json", dead.replace(b'"pid": ', b'"pid": 999999'))
    found = verify(done, template.plan, range(3))
    found.check()
    assert sorted(found.orphans) == sorted([*LEFT_OVER, "cache/leases/00001.json"])
    assert "left over" in str(found.table())
    remove_orphans(done, found)
    assert {name: done.read(name) for name in done.sizes("")} == before
    assert verify(done, template.plan, range(3)).orphans == ()


def test_no_file_that_somebody_needs_is_an_orphan(template: Template, done: LocalStorage) -> None:
    """Whatever state its shards are in: done, under way here or elsewhere, killed, damaged."""
    needed = set(done.sizes(""))
    dice = random.Random(7)
    parts = [f"cache/parts/{chunk // 2:05d}/{chunk}" for chunk in range(5)]
    for _ in range(25):
        workspace = LocalStorage(done.root.parent / hashlib.sha256(dice.randbytes(8)).hexdigest())
        copy_files(template.done, workspace)
        unfinished = [shard for shard in range(3) if dice.random() < 0.5]
        kept = set()
        for shard in unfinished:
            workspace.remove(f"cache/commits/{shard:05d}.json")
            for part in parts:
                if f"/{shard:05d}/" in part:
                    workspace.write(part, b"a chunk's rows")
                    kept.add(part)
            if dice.random() < 0.5:
                forge_lease(workspace, shard)
                kept.add(f"cache/leases/{shard:05d}.json")
        found = verify(workspace, template.plan, range(3))
        assert not (needed | kept) & set(found.orphans)
        remove_orphans(workspace, found)
        assert kept <= set(workspace.sizes(""))


def test_what_a_living_process_is_writing_is_no_orphan(
    template: Template, done: LocalStorage
) -> None:
    """A `fit` holds no lease; without its temporary file it would end at its last step."""

    class Repaired(LocalStorage):
        def _step(self, step: str, name: str) -> None:
            if step == "has flushed":
                remove_orphans(done, verify(done, template.plan, range(3)))

    Repaired(done.root).write("runs/a4/model.safetensors", b"weights")
    assert done.read("runs/a4/model.safetensors") == b"weights"


def test_a_users_own_files_are_no_orphans(template: Template, done: LocalStorage) -> None:
    """A catalog may lie in the workspace, with names that only look like ours."""
    own = ["catalog/.cover.tmp", "catalog/.a.b.tmp", "notes/.todo.md.tmp", "catalog/x.1.0a1b.tmp"]
    for name in own:
        done.write(name, b"mine")
    assert verify(done, template.plan, range(3)).orphans == ()


def test_an_unreadable_file_is_one_error_with_its_place(
    template: Template, done: LocalStorage
) -> None:
    """A folder where a file should be stands for a sector that cannot be read."""
    done.remove("cache/rows/00001.parquet")
    done.path("cache/rows/00001.parquet").mkdir()
    with pytest.raises(PipelineError) as caught:
        verify(done, template.plan, range(3)).check()
    assert "cache/rows/00001.parquet" in str(caught.value)
