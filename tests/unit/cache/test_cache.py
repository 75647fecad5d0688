"""Layout, writer, reader and verify: whatever the cache says is true."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from cache.layout import (
    array_path,
    chunk_num_bytes,
    chunk_path,
    commit_path,
    items_path,
    labels_commit_path,
    labels_path,
    open_arrays,
    rows_path,
)
from cache.reader import Cache, read_all_items, read_label_emb, read_labels
from cache.verify import shard_state
from cache.writer import ShardWriter, write_labels
from schemas.errors import CacheCorruptError, CacheIncompleteError, SpecMismatchError
from schemas.plan import Plan
from tests.fakes import fake_embeddings, fake_plan, fake_spec, fake_workspace, write_shard


def filled(workspace: Path, num_items: int = 300) -> tuple[Plan, dict[str, np.ndarray]]:
    plan = fake_plan(workspace, num_items=num_items)
    embeddings = fake_embeddings(plan)
    embeddings["image"][7] = np.nan
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    return plan, embeddings


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Bit for bit, with the missing picture as NaN in its own row."""
    plan, embeddings = filled(tmp_path)
    cache = Cache(tmp_path, plan)
    for name, expected in embeddings.items():
        np.testing.assert_array_equal(cache.read(name), expected)
    rows = cache.read_rows()
    assert rows["image_ok"].to_pylist().index(False) == 7
    assert rows["item_id"].to_pylist() == [f"item-{row:06d}" for row in range(300)]


def test_any_zarr_reader_gets_the_same_rows(tmp_path: Path) -> None:
    """The cache is a Zarr v3 array first, and only then our own fast files."""
    plan, embeddings = filled(tmp_path)
    for name, expected in embeddings.items():
        array = zarr.open(array_path(tmp_path, name), mode="r")
        assert (array.shape, array.dtype, array.chunks) == ((300, 16), np.float16, (64, 16))
        np.testing.assert_array_equal(array[:], expected)
        assert array.attrs["spec_id"] == plan.spec_id
    write_labels(tmp_path, plan, np.eye(3, 16), compute_dtype="float32", seconds=0.0)
    labels = zarr.open(array_path(tmp_path, "label"), mode="r")
    np.testing.assert_array_equal(labels[:], np.eye(3, 16, dtype=np.float32))


def test_a_chunk_file_is_the_matrix_and_four_bytes(tmp_path: Path) -> None:
    """The promise that lets others read a shard with NumPy alone."""
    plan, embeddings = filled(tmp_path)
    data = chunk_path(tmp_path, "title", 1).read_bytes()
    assert len(data) == chunk_num_bytes(plan) == 64 * 16 * 2 + 4
    matrix = np.frombuffer(data[:-4], np.float16).reshape(64, 16)
    np.testing.assert_array_equal(matrix, embeddings["title"][64:128])


def test_zarr_refuses_a_flipped_bit_too(tmp_path: Path) -> None:
    """The checksum is the standard codec's, so foreign readers are protected as well."""
    filled(tmp_path)
    flip(chunk_path(tmp_path, "image", 0), 100)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open(array_path(tmp_path, "image"), mode="r")[:]


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the batch size; commits may differ in seconds and host only."""
    plan = fake_plan(tmp_path / "a", num_items=300)
    embeddings = fake_embeddings(plan)
    for name, batch_size in (("a", 50), ("b", 7)):
        fake_plan(tmp_path / name, num_items=300)
        for shard in range(3):
            write_shard(tmp_path / name, plan, shard, embeddings, batch_size=batch_size)
    files = [path for path in (tmp_path / "a" / "cache").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        if path.parent.name != "commits":
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes(), path


def read_all(workspace: Path, plan: Plan) -> None:
    cache = Cache(workspace, plan)
    cache.read("image")
    cache.read_rows()


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def damage_bit(workspace: Path) -> None:
    flip(chunk_path(workspace, "image", 0), 100)


def damage_footer(workspace: Path) -> None:
    flip(chunk_path(workspace, "image", 0), -1)


def damage_swap(workspace: Path) -> None:
    first, second = chunk_path(workspace, "image", 0), chunk_path(workspace, "image", 1)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def damage_truncate(workspace: Path) -> None:
    path = chunk_path(workspace, "image", 0)
    path.write_bytes(path.read_bytes()[:-100])


def damage_missing(workspace: Path) -> None:
    chunk_path(workspace, "image", 0).unlink()


def damage_rows(workspace: Path) -> None:
    flip(rows_path(workspace, 0), 200)


def damage_commit(workspace: Path) -> None:
    path = commit_path(workspace, 0)
    path.write_text(path.read_text().replace('"image_ok": 127', '"image_ok": 128'))


@pytest.mark.parametrize(
    "damage",
    [
        damage_bit,
        damage_footer,
        damage_swap,
        damage_truncate,
        damage_missing,
        damage_rows,
        damage_commit,
    ],
)
def test_no_damage_reads_as_done(tmp_path: Path, damage) -> None:  # noqa: ANN001
    """Each way a file can go wrong is seen by verify and never reaches a reader's tensor."""
    plan, _ = filled(tmp_path)
    assert shard_state(tmp_path, plan, 0, checksums=True).state == "done"
    damage(tmp_path)
    found = shard_state(tmp_path, plan, 0, checksums=True)
    assert found.state == "broken"
    assert found.reason
    with pytest.raises((CacheCorruptError, CacheIncompleteError)) as caught:
        read_all(tmp_path, plan)
    assert "embed" in caught.value.fix


def test_a_shard_without_its_commit_is_not_done(tmp_path: Path) -> None:
    """Chunks without a commit are what a killed process leaves behind."""
    plan, embeddings = filled(tmp_path)
    writer = ShardWriter(tmp_path, plan, 1)
    writer.append(image=embeddings["image"][128:256], title=embeddings["title"][128:256])
    assert shard_state(tmp_path, plan, 1).state == "missing"
    with pytest.raises(CacheIncompleteError, match="1 of 3 shards") as caught:
        Cache(tmp_path, plan)
    assert "--allow-partial" in caught.value.fix


def test_a_partial_cache_reads_missing_shards_as_absent(tmp_path: Path) -> None:
    """Asked for, and then without inventing embeddings: zarr alone would hand out zeros or NaN."""
    plan, embeddings = filled(tmp_path)
    commit_path(tmp_path, 1).unlink()
    cache = Cache(tmp_path, plan, allow_partial=True)
    image_emb, rows = cache.read("image"), cache.read_rows()
    assert np.isnan(image_emb[128:256]).all()
    np.testing.assert_array_equal(image_emb[256:], embeddings["image"][256:])
    ok = np.array(rows["title_ok"].to_pylist())
    assert not ok[128:256].any()
    assert ok[:128].all()
    assert rows["item_id"].to_pylist()[200] == "item-000200"


def test_a_cache_of_another_encoder_names_the_field(tmp_path: Path) -> None:
    """Mixing two encoders' embeddings would train without complaint and be worthless."""
    plan, embeddings = filled(tmp_path)
    spec = fake_spec(weights="other")
    other = replace(plan, encoder=spec, spec_id=spec.spec_id())
    with pytest.raises(SpecMismatchError, match="weights_sha256"):
        ShardWriter(tmp_path, other, 0)
    np.testing.assert_array_equal(Cache(tmp_path, plan).read("image"), embeddings["image"])
    assert shard_state(tmp_path, other, 0).state == "broken"


def test_changed_items_make_their_shard_stale(tmp_path: Path) -> None:
    """And only theirs: the other shards' embeddings are still what the plan says."""
    plan, _ = filled(tmp_path)
    changed = replace(plan, shards=(plan.shards[0], "f" * 64, plan.shards[2]))
    states = [shard_state(tmp_path, changed, shard).state for shard in range(3)]
    assert states == ["done", "broken", "done"]


def test_opening_the_arrays_twice_changes_nothing(tmp_path: Path) -> None:
    """Every shard process opens them, in any order."""
    plan = fake_plan(tmp_path, num_items=300)
    open_arrays(tmp_path, plan)
    before = (array_path(tmp_path, "image") / "zarr.json").read_bytes()
    open_arrays(tmp_path, plan)
    assert (array_path(tmp_path, "image") / "zarr.json").read_bytes() == before
    assert json.loads(before)["zarr_format"] == 3


def test_unreadable_array_metadata_is_corrupt(tmp_path: Path) -> None:
    """Not a stack trace from a JSON parser."""
    plan, _ = filled(tmp_path)
    (array_path(tmp_path, "image") / "zarr.json").write_text("{")
    with pytest.raises(CacheCorruptError, match="metadata"):
        Cache(tmp_path, plan)


def test_label_embeddings_go_stale_with_the_labels(tmp_path: Path) -> None:
    """A renamed category must not keep its old embedding."""
    plan = fake_workspace(tmp_path)
    assert read_label_emb(tmp_path, plan).shape == (6, 16)
    with pytest.raises(CacheIncompleteError, match="stale: labels_sha256"):
        read_label_emb(tmp_path, replace(plan, labels_sha256="1" * 64))
    with pytest.raises(CacheIncompleteError, match="label_text"):
        read_label_emb(tmp_path, replace(plan, label_text="path"))
    labels_commit_path(tmp_path).unlink()
    with pytest.raises(CacheIncompleteError, match="missing") as caught:
        read_label_emb(tmp_path, plan)
    assert "embed --labels" in caught.value.fix


def test_the_cache_hash_follows_content_not_time(tmp_path: Path) -> None:
    """A run is reused while the embeddings stay the same, whoever wrote them and when."""
    plan, embeddings = filled(tmp_path)
    before = Cache(tmp_path, plan).sha256()
    write_shard(tmp_path, plan, 0, embeddings, batch_size=13)
    assert Cache(tmp_path, plan).sha256() == before
    embeddings["title"][5] *= -1
    write_shard(tmp_path, plan, 0, embeddings)
    assert Cache(tmp_path, plan).sha256() != before


def test_rows_tables_keep_their_schema(tmp_path: Path) -> None:
    """Others read them with Parquet tools: names and types are a promise."""
    filled(tmp_path)
    names = pq.read_schema(rows_path(tmp_path, 0)).names
    assert names[:5] == ["row", "item_id", "image_ok", "title_ok", "error"]


def test_a_commit_vouches_for_its_own_shard_only(tmp_path: Path) -> None:
    """A copied commit file must not make another shard read as done."""
    plan, _ = filled(tmp_path)
    commit_path(tmp_path, 1).write_bytes(commit_path(tmp_path, 0).read_bytes())
    found = shard_state(tmp_path, plan, 1)
    assert (found.state, found.reason) == ("broken", "shard is 0, plan says 1")


def test_other_chunk_sizes_make_every_shard_stale(tmp_path: Path) -> None:
    """Planned with smaller chunks, the old files hold other rows under the same names."""
    plan, _ = filled(tmp_path)
    found = shard_state(tmp_path, replace(plan, chunk_rows=32), 0, checksums=True)
    assert found.state == "broken"
    with pytest.raises(SpecMismatchError, match="chunks"):
        open_arrays(tmp_path, replace(plan, chunk_rows=32))


def test_a_longer_plan_keeps_the_shards_that_stay(tmp_path: Path) -> None:
    """A catalog grows by new shards; the committed ones are not embedded again."""
    _, embeddings = filled(tmp_path, num_items=256)
    longer = fake_plan(tmp_path, num_items=300)
    assert [shard_state(tmp_path, longer, i).state for i in range(3)] == ["done", "done", "missing"]
    with pytest.raises(SpecMismatchError, match="256 rows, the plan 300"):
        Cache(tmp_path, longer, allow_partial=True)
    open_arrays(tmp_path, longer)
    image_emb = Cache(tmp_path, longer, allow_partial=True).read("image")
    np.testing.assert_array_equal(image_emb[:256], embeddings["image"])
    assert zarr.open(array_path(tmp_path, "image"), mode="r").shape == (300, 16)


def test_missing_array_metadata_comes_back_without_embedding_again(tmp_path: Path) -> None:
    """One small file, not hours of GPU time."""
    plan, embeddings = filled(tmp_path)
    (array_path(tmp_path, "image") / "zarr.json").unlink()
    with pytest.raises(CacheCorruptError, match="metadata is missing") as caught:
        Cache(tmp_path, plan)
    assert "keeps what is done" in caught.value.fix
    open_arrays(tmp_path, plan)
    np.testing.assert_array_equal(Cache(tmp_path, plan).read("image"), embeddings["image"])


def test_a_missing_label_chunk_is_corrupt_not_a_stack_trace(tmp_path: Path) -> None:
    """The command that repairs it has to get past it."""
    plan = fake_workspace(tmp_path)
    chunk_path(tmp_path, "label", 0).unlink()
    with pytest.raises(CacheCorruptError) as caught:
        read_label_emb(tmp_path, plan)
    assert "embed --all --labels" in caught.value.fix


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_planned_tables_are_checked_against_the_plan(tmp_path: Path, damage: str) -> None:
    """Labels or splits of another plan under the same ids would train without complaint."""
    plan = fake_plan(tmp_path, num_items=300)
    path = items_path(tmp_path, 1)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-10])
    else:
        path.write_bytes(items_path(tmp_path, 0).read_bytes())
    with pytest.raises(CacheCorruptError) as caught:
        read_all_items(tmp_path, plan)
    assert "cli.py plan" in caught.value.fix
    labels_path(tmp_path).write_bytes(b"")
    with pytest.raises(CacheCorruptError, match="missing"):
        read_labels(tmp_path, plan)
