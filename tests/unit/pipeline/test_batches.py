"""Batches from memory and from disk."""

import numpy as np
import pytest
import torch

from cache.reader import Cache
from cache.storage import LocalStorage
from pipeline.batches import Part, ResidentBatches, StreamedBatches
from pipeline.neighbors import write_neighbors
from pipeline.ranks import Ranks
from pipeline.tensors import FitData
from schemas.errors import CacheCorruptError, FitError
from schemas.plan import Plan
from tests.fakes import chunk_path, commit_path, fake_embeddings, fake_workspace

NUM_ITEMS, BATCH = 1000, 30
# Blocks of 64 rows: windows of 1, 2 or all of them.
WINDOWS = [1, 2, 100]


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace, num_items=NUM_ITEMS)
    write_neighbors(workspace, plan, k=3)
    return plan


def loaded(
    workspace: LocalStorage, plan: Plan, residency: str = "host", ranks: Ranks | None = None
) -> FitData:
    data = FitData(workspace, plan, torch.device("cpu"), allow_partial=True)
    data.load(residency, ranks or Ranks())
    return data


def sources(workspace: LocalStorage, plan: Plan, seed: int = 0):
    """Yield every kind of source."""
    yield ResidentBatches(loaded(workspace, plan), BATCH, seed)
    streamed = loaded(workspace, plan, "stream")
    for window_blocks in WINDOWS:
        yield StreamedBatches(streamed, BATCH, seed, window_blocks=window_blocks)


def rows_of(parts: list[Part]) -> np.ndarray:
    return torch.cat([part.batch.rows for part in parts]).numpy()


def test_an_epoch_has_every_train_row_once_with_its_embeddings(
    workspace: LocalStorage, plan: Plan
) -> None:
    """In full batches but the last, whatever the windows are."""
    expected, train = fake_embeddings(plan), loaded(workspace, plan).train.numpy()
    for source in sources(workspace, plan):
        parts = list(source.epoch(1, 0))
        sizes = [len(part.batch.rows) for part in parts]
        assert sizes == [BATCH] * (len(train) // BATCH) + [len(train) % BATCH]
        assert [part.num_rows for part in parts] == sizes
        assert sorted(rows_of(parts)) == train.tolist()
        for rows, image_emb, title_emb in (part.batch for part in parts):
            np.testing.assert_array_equal(image_emb, expected["image"][rows])
            np.testing.assert_array_equal(title_emb, expected["title"][rows])


def test_the_order_depends_on_seed_and_epoch_alone(workspace: LocalStorage, plan: Plan) -> None:
    """And is another one in the next epoch and under the next seed."""
    again = sources(workspace, plan)
    for source, other in zip(sources(workspace, plan), sources(workspace, plan, 1), strict=True):
        first = rows_of(list(source.epoch(1, 0)))
        list(source.epoch(2, 0))
        assert rows_of(list(next(again).epoch(1, 0))).tolist() == first.tolist()
        assert rows_of(list(source.epoch(2, 0))).tolist() != first.tolist()
        assert rows_of(list(other.epoch(1, 0))).tolist() != first.tolist()
        assert np.abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.3


def test_an_epoch_can_be_taken_up_at_any_step(workspace: LocalStorage, plan: Plan) -> None:
    """A resumed run sees what is left, in the same batches."""
    for source in sources(workspace, plan):
        whole = list(source.epoch(3, 0))
        for first_step in (1, 2, len(whole) - 1, len(whole)):
            left = list(source.epoch(3, first_step))
            assert len(left) == len(whole) - first_step
            if left:
                assert rows_of(left).tolist() == rows_of(whole[first_step:]).tolist()
                torch.testing.assert_close(
                    left[0].batch.title_emb, whole[first_step].batch.title_emb
                )


def test_windows_mix_rows_of_distant_blocks(workspace: LocalStorage, plan: Plan) -> None:
    """A catalog sorted by category must not be learned category by category."""
    data = loaded(workspace, plan, "stream")
    for part in list(StreamedBatches(data, BATCH, 0, window_blocks=8).epoch(1, 0))[:-1]:
        assert len(np.unique(part.batch.rows.numpy() // data.block_rows)) >= 5


def test_every_window_has_its_share_of_every_stretch(workspace: LocalStorage, plan: Plan) -> None:
    """In a catalog that is sorted by label a window must not lack labels that fit it."""
    data = loaded(workspace, plan, "stream")
    source = StreamedBatches(data, BATCH, 0, window_blocks=8)
    for epoch in (1, 2):
        windows = source._order(epoch)[0]
        assert len(windows) >= 2
        blocks = np.sort(np.concatenate(windows))
        window = np.empty(len(blocks), int)
        for number, members in enumerate(windows):
            window[np.searchsorted(blocks, members)] = number
            assert len(members) <= 8
        for start in range(0, len(blocks), len(windows)):
            stretch = window[start : start + len(windows)]
            assert len(set(stretch)) == len(stretch)


@pytest.mark.parametrize("residency", ["host", "stream"])
def test_processes_share_every_batch(workspace: LocalStorage, plan: Plan, residency: str) -> None:
    """Together they see what one would, each at its places, and hold a part each."""
    streamed = {"window_blocks": 6} if residency == "stream" else {}
    kind = StreamedBatches if residency == "stream" else ResidentBatches
    alone = list(kind(loaded(workspace, plan, residency), BATCH, 0, **streamed).epoch(1, 0))
    size = 3
    shared = []
    for rank in range(size):
        ranks = Ranks(rank, size)
        data = loaded(workspace, plan, residency, ranks)
        if residency == "host":
            held = len(data.own_train(ranks)) + (len(data.val) + len(data.test)) * (rank == 0)
            assert len(data.whole["image"]) == held < NUM_ITEMS
        shared.append(list(kind(data, BATCH, 0, ranks, **streamed).epoch(1, 0)))
    for whole, *parts in zip(alone, *shared, strict=True):
        rows = torch.empty_like(whole.batch.rows)
        title_emb = torch.empty_like(whole.batch.title_emb)
        for part in parts:
            assert part.num_rows == whole.num_rows
            assert part.places is not None
            rows[part.places] = part.batch.rows
            title_emb[part.places] = part.batch.title_emb
        torch.testing.assert_close(rows, whole.batch.rows, rtol=0, atol=0)
        torch.testing.assert_close(title_emb, whole.batch.title_emb, rtol=0, atol=0)
        assert sum(len(part.batch.rows) for part in parts) == whole.num_rows


def test_the_first_process_holds_what_is_evaluated(workspace: LocalStorage, plan: Plan) -> None:
    """Held-out rows come from memory there, and are the right ones."""
    data, expected = loaded(workspace, plan, "host", Ranks(0, 4)), fake_embeddings(plan)
    for rows in (data.val, data.test, data.own_train(Ranks(0, 4))):
        found = data.embeddings("title", rows)
        np.testing.assert_array_equal(found, expected["title"][rows.numpy()])


def test_streaming_checks_every_chunk_first(workspace: LocalStorage, plan: Plan) -> None:
    """Blocks have no checksum of their own."""
    path = chunk_path(workspace, "title", 3)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheCorruptError, match="chunk 3") as caught:
        loaded(workspace, plan, "stream")
    assert caught.value.where == str(path)


def test_a_file_that_vanishes_while_it_is_streamed_is_one_clear_error(
    workspace: LocalStorage, plan: Plan
) -> None:
    """From the reading thread, with the file named."""
    source = StreamedBatches(loaded(workspace, plan, "stream"), BATCH, 0, window_blocks=1)
    for number in range(16):
        chunk_path(workspace, "image", number).unlink()
    with pytest.raises(CacheCorruptError, match="are missing from chunk"):
        list(source.epoch(1, 0))


def test_blocks_of_a_shard_that_is_not_done_are_empty(workspace: LocalStorage, plan: Plan) -> None:
    """With --allow-partial its items have no embeddings and are not trained on."""
    commit_path(workspace, 1).unlink()
    data = loaded(workspace, plan, "stream")
    shard_rows = plan.shard_rows
    assert not ((data.train >= shard_rows) & (data.train < 2 * shard_rows)).any()
    rows = rows_of(list(StreamedBatches(data, BATCH, 0, window_blocks=2).epoch(1, 0)))
    assert sorted(rows) == data.train.tolist()
    found = np.zeros((128, 16), np.float16)
    Cache(workspace, plan, allow_partial=True).read_blocks("image", np.array([2, 0]), 64, found)
    assert np.isnan(found[:64]).all()
    np.testing.assert_array_equal(found[64:], fake_embeddings(plan)["image"][:64])


def test_embeddings_are_loaded_to_one_place(workspace: LocalStorage, plan: Plan) -> None:
    """Another one that is asked for later must not be ignored."""
    data = loaded(workspace, plan, "host")
    for same in ("host", "device", "auto"):
        data.load(same)
    with pytest.raises(FitError, match="loaded to host already") as caught:
        data.load("stream")
    assert caught.value.where == "--residency stream"


def test_a_row_that_a_process_does_not_hold_is_no_other_row(
    workspace: LocalStorage, plan: Plan
) -> None:
    """An index that is off by some rows would train on other items' embeddings."""
    data = loaded(workspace, plan, "host", Ranks(1, 2))
    other = data.own_train(Ranks(0, 2))
    with pytest.raises(IndexError):
        data.embeddings("image", other)


def test_streaming_keeps_what_is_evaluated(workspace: LocalStorage, plan: Plan) -> None:
    """Held-out rows are read once, not singly after every epoch; others can still be read."""
    data, expected = loaded(workspace, plan, "stream"), fake_embeddings(plan)
    assert len(data.whole["image"]) == len(data.val) + len(data.test)
    for number in range(16):
        chunk_path(workspace, "image", number).rename(workspace.root / f"kept-{number}")
    for rows in (data.val, data.test):
        np.testing.assert_array_equal(data.embeddings("image", rows), expected["image"][rows])
    for number in range(16):
        (workspace.root / f"kept-{number}").rename(chunk_path(workspace, "image", number))
    some = torch.cat([data.train[:5], data.val[:5]])
    np.testing.assert_array_equal(data.embeddings("image", some), expected["image"][some])
