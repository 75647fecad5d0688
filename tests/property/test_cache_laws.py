"""Laws of the cache: whatever the sizes, what goes in comes out."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.layout import chunk_range
from cache.reader import Cache
from cache.storage import LocalStorage
from pipeline.splits import SPLITS, TRAIN, assign_splits
from tests.fakes import array_path, fake_embeddings, fake_plan, write_shard


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    num_items=st.integers(1, 200),
    chunk_rows=st.integers(1, 40),
    chunks_a_shard=st.integers(1, 4),
    embed_dim=st.sampled_from([1, 3, 16]),
)
def test_a_round_trip_keeps_every_bit(
    num_items: int, chunk_rows: int, chunks_a_shard: int, embed_dim: int
) -> None:
    """For any number of items, shard and chunk size, through our reader and through zarr."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = LocalStorage(Path(folder))
        plan = fake_plan(
            workspace,
            num_items=num_items,
            embed_dim=embed_dim,
            chunk_rows=chunk_rows,
            shard_rows=chunk_rows * chunks_a_shard,
        )
        embeddings = fake_embeddings(plan)
        embeddings["image"][num_items // 2] = np.nan
        for shard in reversed(range(plan.num_shards)):
            write_shard(workspace, plan, shard, embeddings)
        cache = Cache(workspace, plan)
        for name, expected in embeddings.items():
            np.testing.assert_array_equal(cache.read(name), expected)
            foreign = zarr.open(array_path(workspace, name), mode="r")[:]
            np.testing.assert_array_equal(foreign, expected)
        assert cache.read_rows()["row"].to_pylist() == list(range(num_items))
        owned = [chunk for shard in range(plan.num_shards) for chunk in chunk_range(plan, shard)]
        assert owned == list(range(len(owned)))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    labels=st.lists(st.integers(0, 6), min_size=3, max_size=120),
    seed=st.integers(0, 3),
    randomness=st.randoms(use_true_random=False),
)
def test_a_split_is_a_function_of_each_items_id(
    labels: list[int], seed: int, randomness: object
) -> None:
    """Any order of the catalog gives the same split, and no label loses its last train item."""
    ids = [f"id-{i}" for i in range(len(labels))]
    order = list(range(len(labels)))
    randomness.shuffle(order)  # type: ignore[attr-defined]
    codes = assign_splits(pa.array(ids), np.array(labels), seed=seed)
    shuffled = assign_splits(
        pa.array([ids[i] for i in order]), np.array([labels[i] for i in order]), seed=seed
    )
    assert shuffled.tolist() == [codes[i] for i in order]
    assert {labels[i] for i in np.flatnonzero(codes == TRAIN)} == set(labels)
    sizes = np.bincount(codes, minlength=len(SPLITS))
    wanted = max(1, len(labels) // 10)
    assert (sizes[1:] <= wanted).all()
