"""Layout, writer, reader and verify: whatever the cache says is true."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from cache.layout import check_array, chunk_num_bytes, open_arrays
from cache.lease import read_holder
from cache.reader import Cache, labels_state, read_all_items, read_label_emb, read_labels
from cache.storage import LocalStorage, Storage
from cache.verify import shard_state, shard_states
from cache.writer import ShardWriter, write_labels
from schemas.configs import digest
from schemas.errors import CacheCorruptError, CacheIncompleteError, SpecMismatchError
from schemas.plan import Plan
from tests.fakes import (
    array_path,
    chunk_path,
    commit_path,
    fake_embeddings,
    fake_plan,
    fake_spec,
    fake_workspace,
    items_path,
    labels_commit_path,
    labels_path,
    rows_path,
    rows_table,
    write_shard,
)


def writer_of(workspace: LocalStorage, plan: Plan, shard: int) -> ShardWriter:
    return ShardWriter(workspace, plan, shard, compute_dtype="float32", batch_size=50)


def fill(writer: ShardWriter, embeddings: dict[str, np.ndarray]) -> None:
    """Write the chunks that are missing."""
    for chunk in writer.missing:
        rows = slice(*writer.chunk_range(chunk))
        image, title = embeddings["image"][rows], embeddings["title"][rows]
        ok = np.ones(len(image), bool)
        writer.write(chunk, image=image, title=title, rows=rows_table(rows.start, ok, ok))


def filled(workspace: LocalStorage, num_items: int = 300) -> tuple[Plan, dict[str, np.ndarray]]:
    plan = fake_plan(workspace, num_items=num_items)
    embeddings = fake_embeddings(plan)
    embeddings["image"][7] = np.nan
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    return plan, embeddings


def test_what_was_written_is_read(workspace: LocalStorage) -> None:
    """Bit for bit, with the missing picture as NaN in its own row."""
    plan, embeddings = filled(workspace)
    cache = Cache(workspace, plan)
    for name, expected in embeddings.items():
        np.testing.assert_array_equal(cache.read(name), expected)
    rows = cache.read_rows()
    assert rows["image_ok"].to_pylist().index(False) == 7
    assert rows["item_id"].to_pylist() == [f"item-{row:06d}" for row in range(300)]


def test_any_zarr_reader_gets_the_same_rows(workspace: LocalStorage) -> None:
    """The cache is a Zarr v3 array first, and only then our own fast files."""
    plan, embeddings = filled(workspace)
    for name, expected in embeddings.items():
        array = zarr.open(array_path(workspace, name), mode="r")
        assert (array.shape, array.dtype, array.chunks) == ((300, 16), np.float16, (64, 16))
        np.testing.assert_array_equal(array[:], expected)
        assert array.attrs["spec_id"] == plan.spec_id
    write_labels(workspace, plan, np.eye(3, 16), compute_dtype="float32", seconds=0.0)
    labels = zarr.open(array_path(workspace, "label"), mode="r")
    np.testing.assert_array_equal(labels[:], np.eye(3, 16, dtype=np.float32))


def test_a_chunk_file_is_the_matrix_and_four_bytes(workspace: LocalStorage) -> None:
    """The promise that lets others read a shard with NumPy alone."""
    plan, embeddings = filled(workspace)
    data = chunk_path(workspace, "title", 1).read_bytes()
    assert len(data) == chunk_num_bytes(plan) == 64 * 16 * 2 + 4
    matrix = np.frombuffer(data[:-4], np.float16).reshape(64, 16)
    np.testing.assert_array_equal(matrix, embeddings["title"][64:128])


def test_zarr_refuses_a_flipped_bit_too(workspace: LocalStorage) -> None:
    """The checksum is the standard codec's, so foreign readers are protected as well."""
    filled(workspace)
    flip(chunk_path(workspace, "image", 0), 100)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open(array_path(workspace, "image"), mode="r")[:]


def test_two_runs_write_the_same_bytes(workspace: LocalStorage) -> None:
    """Commits may differ in seconds and host only."""
    first, second = LocalStorage(workspace.root / "a"), LocalStorage(workspace.root / "b")
    plan = fake_plan(first, num_items=300)
    embeddings = fake_embeddings(plan)
    for place in (first, second):
        fake_plan(place, num_items=300)
        for shard in range(3):
            write_shard(place, plan, shard, embeddings)
    files = first.sizes("cache")
    assert len(files) > 10
    for name in files:
        if "/commits/" not in name:
            assert first.read(name) == second.read(name), name


def read_all(workspace: LocalStorage, plan: Plan) -> None:
    cache = Cache(workspace, plan)
    cache.read("image")
    cache.read_rows()


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def damage_bit(workspace: LocalStorage) -> None:
    flip(chunk_path(workspace, "image", 0), 100)


def damage_footer(workspace: LocalStorage) -> None:
    flip(chunk_path(workspace, "image", 0), -1)


def damage_swap(workspace: LocalStorage) -> None:
    first, second = chunk_path(workspace, "image", 0), chunk_path(workspace, "image", 1)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def damage_truncate(workspace: LocalStorage) -> None:
    path = chunk_path(workspace, "image", 0)
    path.write_bytes(path.read_bytes()[:-100])


def damage_missing(workspace: LocalStorage) -> None:
    chunk_path(workspace, "image", 0).unlink()


def damage_rows(workspace: LocalStorage) -> None:
    flip(rows_path(workspace, 0), 200)


def damage_commit(workspace: LocalStorage) -> None:
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
def test_no_damage_reads_as_done(workspace: LocalStorage, damage) -> None:  # noqa: ANN001
    """Each way a file can go wrong is seen by verify and never reaches a reader's tensor."""
    plan, _ = filled(workspace)
    assert shard_state(workspace, plan, 0, checksums=True).state == "done"
    damage(workspace)
    found = shard_state(workspace, plan, 0, checksums=True)
    assert found.state == "broken"
    assert found.reason
    with pytest.raises((CacheCorruptError, CacheIncompleteError)) as caught:
        read_all(workspace, plan)
    assert "verify --repair" in caught.value.fix or "embed --all" in caught.value.fix


def test_a_shard_without_its_commit_is_not_done(workspace: LocalStorage) -> None:
    """Chunks without a commit are what a killed process leaves behind."""
    plan, embeddings = filled(workspace)
    with writer_of(workspace, plan, 1) as writer:
        writer.discard(2)
        for chunk in (2, 3):
            rows = slice(64 * chunk, 64 * chunk + 64)
            ok = np.ones(64, bool)
            writer.write(
                chunk,
                image=embeddings["image"][rows],
                title=embeddings["title"][rows],
                rows=rows_table(rows.start, ok, ok),
            )
            assert shard_state(workspace, plan, 1).state == "running"
    found = shard_state(workspace, plan, 1)
    assert (found.state, found.chunks_done) == ("missing", 2)
    with pytest.raises(CacheIncompleteError, match="1 of 3 shards") as caught:
        Cache(workspace, plan)
    assert "--allow-partial" in caught.value.fix


@pytest.mark.parametrize("is_committed", [False, True])
@pytest.mark.parametrize(
    "other", [{"compute_dtype": "bfloat16"}, {"batch_size": 5}, {"decoder": "nvjpeg"}]
)
def test_a_run_keeps_only_chunks_that_were_made_as_it_makes_them(
    workspace: LocalStorage, other: dict[str, Any], is_committed: bool
) -> None:
    """A resumed shard is what one uninterrupted run writes, and its commit says how."""
    plan = fake_plan(workspace, num_items=300)
    embeddings = fake_embeddings(plan)
    usual = {"compute_dtype": "float32", "batch_size": 50, "decoder": "pillow"}
    made = usual | other
    with ShardWriter(workspace, plan, 1, **made) as writer:
        fill(writer, embeddings)
        if is_committed:
            commit = writer.commit()
            assert {name: getattr(commit, name) for name in made} == made
    with ShardWriter(workspace, plan, 1, **made) as writer:
        assert writer.missing == []
    with writer_of(workspace, plan, 1) as writer:
        assert writer.missing == [2, 3]
        fill(writer, embeddings)
        commit = writer.commit()
    assert {name: getattr(commit, name) for name in usual} == usual


@pytest.mark.parametrize("is_committed", [False, True])
@pytest.mark.parametrize("change", ["items", "encoder"])
def test_a_run_keeps_no_chunks_of_other_items_or_another_encoder(
    workspace: LocalStorage, change: str, is_committed: bool
) -> None:
    """Also where the arrays' metadata, which would refuse another encoder, is lost."""
    plan = fake_plan(workspace, num_items=300)
    with writer_of(workspace, plan, 1) as writer:
        fill(writer, fake_embeddings(plan))
        if is_committed:
            writer.commit()
    if change == "items":
        other = replace(plan, shards=(plan.shards[0], "f" * 64, plan.shards[2]))
    else:
        spec = fake_spec(weights="other")
        other = replace(plan, encoder=spec, spec_id=spec.spec_id())
        for name in ("image", "title"):
            (array_path(workspace, name) / "zarr.json").unlink()
    with writer_of(workspace, other, 1) as writer:
        assert writer.missing == [2, 3]


def test_a_writer_gives_the_embeddings_of_finished_chunks_by_row_of_the_shard(
    workspace: LocalStorage,
) -> None:
    """A picture that occurs again is copied from its first row, in a later shard as in shard 0."""
    plan, embeddings = filled(workspace)
    with writer_of(workspace, plan, 1) as writer:
        for name, row in (("image", 0), ("title", 63), ("image", 64), ("title", 127)):
            np.testing.assert_array_equal(writer.embedding(name, row), embeddings[name][128 + row])
        writer.discard(writer.chunks.start)
        fill(writer, {name: -matrix for name, matrix in embeddings.items()})
        np.testing.assert_array_equal(writer.embedding("title", 70), -embeddings["title"][198])


def test_a_commit_counts_what_is_there_and_what_is_not(workspace: LocalStorage) -> None:
    """Status and the share of bad items are read from commits, not from rows."""
    plan = fake_plan(workspace, num_items=300)
    embeddings = fake_embeddings(plan)
    embeddings["image"][130] = embeddings["title"][140:143] = np.nan
    write_shard(workspace, plan, 1, embeddings)
    commit = shard_state(workspace, plan, 1).commit
    assert commit is not None
    assert (commit.image_ok, commit.title_ok, commit.num_bad) == (127, 125, 4)
    assert commit.reasons == {"image: absent": 4}


def test_the_labels_commit_says_what_was_embedded_and_how(workspace: LocalStorage) -> None:
    """It is what tells stale label embeddings, and a graph made from them."""
    plan = replace(fake_plan(workspace, num_items=300), label_text="path")
    write_labels(workspace, plan, np.eye(3, 16), compute_dtype="bfloat16", seconds=1.25)
    commit = labels_state(workspace, plan)
    assert (commit.label_text, commit.compute_dtype, commit.seconds) == ("path", "bfloat16", 1.25)


def test_a_partial_cache_reads_missing_shards_as_absent(workspace: LocalStorage) -> None:
    """Asked for, and then without inventing embeddings: zarr alone would hand out zeros or NaN."""
    plan, embeddings = filled(workspace)
    commit_path(workspace, 1).unlink()
    cache = Cache(workspace, plan, allow_partial=True)
    image_emb, rows = cache.read("image"), cache.read_rows()
    assert np.isnan(image_emb[128:256]).all()
    np.testing.assert_array_equal(image_emb[256:], embeddings["image"][256:])
    ok = np.array(rows["title_ok"].to_pylist())
    assert not ok[128:256].any()
    assert ok[:128].all()
    assert rows["item_id"].to_pylist()[200] == "item-000200"


def test_a_cache_of_another_encoder_names_the_field(workspace: LocalStorage) -> None:
    """Mixing two encoders' embeddings would train without complaint and be worthless."""
    plan, embeddings = filled(workspace)
    spec = fake_spec(weights="other")
    other = replace(plan, encoder=spec, spec_id=spec.spec_id())
    with pytest.raises(SpecMismatchError, match="weights_sha256"):
        writer_of(workspace, other, 0).__enter__()
    assert read_holder(workspace, 0) is None
    np.testing.assert_array_equal(Cache(workspace, plan).read("image"), embeddings["image"])
    assert shard_state(workspace, other, 0).state == "broken"


def test_changed_items_make_their_shard_stale(workspace: LocalStorage) -> None:
    """And only theirs: the other shards' embeddings are still what the plan says."""
    plan, _ = filled(workspace)
    changed = replace(plan, shards=(plan.shards[0], "f" * 64, plan.shards[2]))
    states = [shard_state(workspace, changed, shard).state for shard in range(3)]
    assert states == ["done", "broken", "done"]


def test_opening_the_arrays_twice_changes_nothing(workspace: LocalStorage) -> None:
    """Every shard process opens them, in any order."""
    plan = fake_plan(workspace, num_items=300)
    open_arrays(workspace, plan)
    before = (array_path(workspace, "image") / "zarr.json").read_bytes()
    open_arrays(workspace, plan)
    assert (array_path(workspace, "image") / "zarr.json").read_bytes() == before
    assert json.loads(before)["zarr_format"] == 3


def test_unreadable_array_metadata_is_corrupt(workspace: LocalStorage) -> None:
    """Not a stack trace from a JSON parser."""
    plan, _ = filled(workspace)
    (array_path(workspace, "image") / "zarr.json").write_text("{")
    with pytest.raises(CacheCorruptError, match="metadata"):
        Cache(workspace, plan)


def test_label_embeddings_go_stale_with_the_labels(workspace: LocalStorage) -> None:
    """A renamed category must not keep its old embedding."""
    plan = fake_workspace(workspace)
    assert read_label_emb(workspace, plan).shape == (6, 16)
    with pytest.raises(CacheIncompleteError, match="stale: labels_sha256"):
        read_label_emb(workspace, replace(plan, labels_sha256="1" * 64))
    with pytest.raises(CacheIncompleteError, match="label_text"):
        read_label_emb(workspace, replace(plan, label_text="path"))
    labels_commit_path(workspace).unlink()
    with pytest.raises(CacheIncompleteError, match="missing") as caught:
        read_label_emb(workspace, plan)
    assert "embed --labels" in caught.value.fix


def test_the_cache_hash_follows_content_not_time(workspace: LocalStorage) -> None:
    """A run is reused while the embeddings stay the same, whoever wrote them and when."""
    plan, embeddings = filled(workspace)
    before = Cache(workspace, plan).sha256()
    write_shard(workspace, plan, 0, embeddings)
    assert Cache(workspace, plan).sha256() == before
    embeddings["title"][5] *= -1
    write_shard(workspace, plan, 0, embeddings)
    assert Cache(workspace, plan).sha256() != before


def test_rows_tables_keep_their_schema(workspace: LocalStorage) -> None:
    """Others read them with Parquet tools: names and types are a promise."""
    filled(workspace)
    names = pq.read_schema(rows_path(workspace, 0)).names
    assert names[:5] == ["row", "item_id", "image_ok", "title_ok", "error"]


def test_a_commit_vouches_for_its_own_shard_only(workspace: LocalStorage) -> None:
    """A copied commit file must not make another shard read as done."""
    plan, _ = filled(workspace)
    commit_path(workspace, 1).write_bytes(commit_path(workspace, 0).read_bytes())
    found = shard_state(workspace, plan, 1)
    assert (found.state, found.reason) == (
        "broken",
        "cache/commits/00001.json is the commit of shard 0",
    )


def test_a_commit_of_before_a_field_was_added_still_vouches(workspace: LocalStorage) -> None:
    """A cache outlives versions of this program: the seal is of what was written."""
    plan, _ = filled(workspace)
    body = json.loads(commit_path(workspace, 0).read_text())
    assert body.pop("decoder") == "pillow"
    del body["body_sha256"]
    commit_path(workspace, 0).write_text(json.dumps(body | {"body_sha256": digest(body)}))
    found = shard_state(workspace, plan, 0, checksums=True)
    assert (found.state, found.commit and found.commit.decoder) == ("done", "pillow")
    commit_path(workspace, 0).write_text(json.dumps(body | {"body_sha256": digest({})}))
    assert shard_state(workspace, plan, 0).state == "broken"


def test_states_are_the_same_one_by_one_and_many_at_a_time(
    workspace: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads ask where a disk or network makes wait; their answers keep the plan's order."""
    plan = fake_plan(workspace, num_items=128 * 20)
    for shard in range(0, 20, 3):
        write_shard(workspace, plan, shard, fake_embeddings(plan))
    commit_path(workspace, 12).write_text("{")
    expected = [shard_state(workspace, plan, shard) for shard in range(20)]
    for seconds in (0.0, 1e9):
        monkeypatch.setattr("cache.verify._WAITING_SECONDS", seconds)
        assert list(shard_states(workspace, plan, range(20))) == expected
    monkeypatch.setattr(LocalStorage, "sizes_of_many", Storage.sizes_of_many)
    assert list(shard_states(workspace, plan, range(20))) == expected
    assert [each.state for each in expected].count("done") == 6


def test_other_chunk_sizes_make_every_shard_stale(workspace: LocalStorage) -> None:
    """Planned with smaller chunks, the old files hold other rows under the same names."""
    plan, _ = filled(workspace)
    found = shard_state(workspace, replace(plan, chunk_rows=32), 0, checksums=True)
    assert found.state == "broken"
    with pytest.raises(SpecMismatchError, match="chunk_grid"):
        open_arrays(workspace, replace(plan, chunk_rows=32))


def test_a_longer_plan_keeps_the_shards_that_stay(workspace: LocalStorage) -> None:
    """A catalog grows by new shards; the committed ones are not embedded again."""
    _, embeddings = filled(workspace, num_items=256)
    longer = fake_plan(workspace, num_items=300)
    assert [shard_state(workspace, longer, i).state for i in range(3)] == [
        "done",
        "done",
        "missing",
    ]
    for _ in range(2):
        image_emb = Cache(workspace, longer, allow_partial=True).read("image")
        np.testing.assert_array_equal(image_emb[:256], embeddings["image"])
        assert np.isnan(image_emb[256:]).all()
        open_arrays(workspace, longer)
    assert zarr.open(array_path(workspace, "image"), mode="r").shape == (300, 16)


def test_missing_array_metadata_comes_back_without_embedding_again(workspace: LocalStorage) -> None:
    """One small file, not hours of GPU time."""
    plan, embeddings = filled(workspace)
    (array_path(workspace, "image") / "zarr.json").unlink()
    with pytest.raises(CacheCorruptError, match="metadata is missing") as caught:
        Cache(workspace, plan)
    assert "keeps what is done" in caught.value.fix
    open_arrays(workspace, plan)
    np.testing.assert_array_equal(Cache(workspace, plan).read("image"), embeddings["image"])


def test_a_missing_label_chunk_is_corrupt_not_a_stack_trace(workspace: LocalStorage) -> None:
    """The command that repairs it has to get past it."""
    plan = fake_workspace(workspace)
    chunk_path(workspace, "label", 0).unlink()
    with pytest.raises(CacheCorruptError) as caught:
        read_label_emb(workspace, plan)
    assert "embed --labels" in caught.value.fix


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_planned_tables_are_checked_against_the_plan(workspace: LocalStorage, damage: str) -> None:
    """Labels or splits of another plan under the same ids would train without complaint."""
    plan = fake_plan(workspace, num_items=300)
    path = items_path(workspace, 1)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-10])
    else:
        path.write_bytes(items_path(workspace, 0).read_bytes())
    with pytest.raises(CacheCorruptError) as caught:
        read_all_items(workspace, plan)
    assert "cli.py plan" in caught.value.fix
    labels_path(workspace).write_bytes(b"")
    with pytest.raises(CacheCorruptError, match="missing"):
        read_labels(workspace, plan)


def test_an_array_that_somebody_wrote_again_is_read_through_zarr(workspace: LocalStorage) -> None:
    """Other chunks and a compressor keep the values, and the commits' checksums are of those."""
    plan, embeddings = filled(workspace)
    place = array_path(workspace, "image")
    old = zarr.open_array(place, mode="r")
    values, attributes = old[:], dict(old.attrs)

    def write_again(matrix: np.ndarray) -> None:
        shutil.rmtree(place)
        zarr.create_array(place, data=matrix, chunks=(50, 8), attributes=attributes)

    write_again(values)
    assert not check_array(workspace, plan, "image")
    cache = Cache(workspace, plan)
    np.testing.assert_array_equal(cache.read("image"), embeddings["image"])
    rows = np.array([299, 0, 128, 5])
    np.testing.assert_array_equal(cache.read_random("image", rows), embeddings["image"][rows])
    states = [shard_state(workspace, plan, shard, checksums=True).state for shard in range(3)]
    assert states == ["done"] * 3
    with pytest.raises(SpecMismatchError, match="chunk_grid"):  # only readers take what is foreign
        open_arrays(workspace, plan)
    values[200, 3] *= 2
    write_again(values)
    with pytest.raises(CacheCorruptError, match="rows 192 to 255"):
        Cache(workspace, plan).read("image")
    states = [shard_state(workspace, plan, shard, checksums=True).state for shard in range(3)]
    assert states == ["done", "broken", "done"]
