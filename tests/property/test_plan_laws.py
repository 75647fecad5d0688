"""Laws of the plan: what is made part by part equals what is made at once."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.layout import parquet_bytes
from pipeline.items import find_items
from pipeline.labels import read_labels
from pipeline.plan_draft import drafted_items
from pipeline.plan_tables import ShardHashes, items_table, scan_catalog
from pipeline.repeated_ids import find_repeated
from pipeline.splits import TRAIN, assign_splits, choose_held_out, divide
from schemas.tables import SPLITS

NUM_LABELS = 6
ITEMS = st.tuples(
    st.integers(0, NUM_LABELS - 1), st.sampled_from([0, 1, 5, 2**63, 2**64 - 1]), st.integers(0, 2)
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    items=st.lists(ITEMS, min_size=1, max_size=200),
    kept=st.sampled_from([{TRAIN}, {TRAIN, 1}, {TRAIN, 2}, {0, 1, 2}]),
    part_rows=st.integers(1, 60),
    room=st.integers(0, 20),
)
def test_held_out_items_of_parts_are_those_of_the_whole(
    items: list[tuple[int, int, int]], kept: set[int], part_rows: int, room: int
) -> None:
    """A billion items are divided as a hundred are, equal hashes and given splits too."""
    labels, drawn = (np.array([item[place] for item in items]) for place in (0, 2))
    hashes = np.array([item[1] for item in items], np.uint64)
    codes = np.where(np.isin(drawn, list(kept)), drawn, TRAIN).astype(np.int8)
    counts = np.bincount(labels * len(SPLITS) + codes, minlength=NUM_LABELS * len(SPLITS))
    starts = range(0, len(items), part_rows)
    parts = (
        (each[start : start + part_rows] for each in (labels, hashes, codes)) for start in starts
    )
    rows, splits = choose_held_out(map(tuple, parts), counts.reshape(NUM_LABELS, -1), room=room)
    assert (np.diff(rows) > 0).all()
    expected = divide(labels, hashes, codes)
    assert (codes[rows] == TRAIN).all()
    codes[rows] = splits
    assert codes.tolist() == expected.tolist()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(
            st.text(max_size=3),
            st.none() | st.binary(max_size=12),
            st.none() | st.text(max_size=3),
        ),
        max_size=40,
    ),
    shard_rows=st.integers(1, 12),
    part_rows=st.integers(1, 12),
)
def test_shard_hashes_are_those_of_one_item_after_another(
    rows: list[tuple[str, bytes | None, str | None]], shard_rows: int, part_rows: int
) -> None:
    """Whatever the parts in which a catalog is read, and the bytes of its titles."""
    expected = []
    for start in range(0, len(rows), shard_rows):
        sha256 = hashlib.sha256()
        for item_id, title, path in rows[start : start + shard_rows]:
            for part in (item_id.encode(), title, None if path is None else path.encode()):
                sha256.update(b"-" if part is None else b"%d:%b" % (len(part), part))
        expected.append(sha256.hexdigest())
    schema = pa.schema(
        [("item_id", pa.string()), ("title", pa.large_binary()), ("image_path", pa.string())]
    )
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    table, hashes = pa.table(columns, schema=schema), ShardHashes(shard_rows)
    for batch in table.to_batches(max_chunksize=part_rows):
        hashes.update(batch, "", np.arange(len(batch)))
    assert list(hashes.digests()) == expected


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    ids=st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=40),
    part_rows=st.integers(1, 15),
    num_hashes=st.sampled_from([1, 3, 2**20]),
)
def test_repeated_ids_of_parts_are_those_of_the_whole(
    ids: list[str], part_rows: int, num_hashes: int
) -> None:
    """However often they occur, and however many different ids share a hash."""
    digests = [hashlib.sha256(item_id.encode()).digest() for item_id in ids]
    numbers = [int.from_bytes(digest[:8], "little") % num_hashes for digest in digests]
    hashes = np.array([number * (2**64 // num_hashes) for number in numbers], np.uint64)
    starts = range(0, len(ids), part_rows)
    parts = [
        (pa.array(ids[start : start + part_rows]), hashes[start : start + part_rows])
        for start in starts
    ]
    repeated = [item_id for item_id in dict.fromkeys(ids) if ids.count(item_id) > 1]
    with tempfile.TemporaryDirectory() as folder:
        assert find_repeated(parts, Path(folder)) == (len(repeated), repeated[:3])


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    labels=st.lists(st.integers(0, NUM_LABELS - 1), min_size=1, max_size=60),
    names=st.sampled_from([None, [None], ["test", None, "train"], [*SPLITS, None, None]]),
    file_rows=st.integers(1, 60),
    shard_rows=st.integers(1, 40),
    seed=st.integers(0, 3),
    limit=st.none() | st.integers(1, 60),
)
def test_a_draft_has_the_tables_of_a_catalog_in_memory(
    labels: list[int],
    names: list[str | None] | None,
    file_rows: int,
    shard_rows: int,
    seed: int,
    limit: int | None,
) -> None:
    """The same bytes for any files and shards: the same plan again has to be a no-op."""
    num_items = len(labels)
    columns = {
        "item_id": [f"item-{i}" for i in range(num_items)],
        "title": [f"Thing {i}" for i in range(num_items)],
        "label_id": [f"L{label}" for label in labels],
        "image_path": [f"{i}.png" for i in range(num_items)],
    }
    if names is not None:
        columns["split"] = pa.array([names[i % len(names)] for i in range(num_items)], pa.string())
    table = pa.table(columns)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for start in range(0, num_items, file_rows):
            pq.write_table(table.slice(start, file_rows), folder / f"{start:05d}.parquet")
        label_ids = [f"L{label}" for label in range(NUM_LABELS)]
        pa.csv.write_csv(
            pa.table({"label_id": label_ids, "name": label_ids}), folder / "labels.csv"
        )
        source, label_table = find_items(folder, None), read_labels(folder / "labels.csv")
        items = scan_catalog(source, label_table)
        num_taken = min(num_items, limit or num_items)
        given_split = items.given_split[:num_taken]
        splits = assign_splits(
            items.item_ids[:num_taken], items.labels[:num_taken], seed=seed, given=given_split
        )
        with drafted_items(
            source, label_table, shard_rows=shard_rows, seed=seed, limit=limit
        ) as draft:
            files = [draft.items_file(shard) for shard in range(len(draft.shards))]
        assert not draft.folder.exists()
    expected = []
    for start in range(0, num_taken, shard_rows):
        part = slice(start, min(start + shard_rows, num_taken))
        shard = items_table(
            np.arange(part.start, part.stop),
            item_ids=items.item_ids[part],
            source_file=items.source_file[part],
            source_row=items.source_row[part],
            labels=items.labels[part],
            splits=splits[part],
        )
        expected.append(parquet_bytes(shard))
    assert files == expected
    assert draft.items_tables == tuple(hashlib.sha256(file).hexdigest() for file in files)
    assert draft.shard_items == tuple(pq.read_metadata(pa.BufferReader(f)).num_rows for f in files)
    taken = labels[:num_taken]
    assert draft.class_counts.tolist() == np.bincount(taken, minlength=NUM_LABELS).tolist()
    assert draft.split_counts.tolist() == np.bincount(splits, minlength=len(SPLITS)).tolist()
