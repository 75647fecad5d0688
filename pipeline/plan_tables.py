"""What a plan consists of: the catalog's columns, checked; tables of items and of labels; hashes.

N items of a catalog, n some of them, C labels.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Int64

from cache.layout import parquet_bytes
from pipeline.items import PictureFile, read_rows, scan
from pipeline.labels import duplicates, label_prompts
from pipeline.progress import Progress
from schemas.errors import CatalogError
from schemas.plan import ItemsSource
from schemas.tables import ITEMS, LABELS, SPLITS

logger = logging.getLogger(__name__)

_LOOKED_AT = 8


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """Items of a catalog, in order: the columns that a plan needs."""

    item_ids: pa.Array
    labels: Int[np.ndarray, " n"]
    source_file: Int[np.ndarray, " n"]
    source_row: Int[np.ndarray, " n"]
    given_split: pa.Array
    """Null where nothing is said."""

    def __len__(self) -> int:
        """Return n."""
        return len(self.labels)


def look_at_pictures(source: ItemsSource) -> None:
    """Warn at once if not even the first pictures are there: a wrong root costs a night."""
    if source.files[0].has_image_bytes:
        return
    first = next(read_rows(source, 0, 0, min(_LOOKED_AT, source.files[0].num_rows)), [])
    pictures = [item.image for item in first if isinstance(item.image, PictureFile)]
    for picture in pictures:
        with contextlib.suppress(OSError):
            picture.read()
            return
    if pictures:
        logger.warning(
            "none of the first %d pictures can be read, such as %s below %s; see --items-root",
            len(pictures),
            pictures[0].path,
            source.files[0].root,
        )


def check_texts(
    labels: pa.Table, label_text: str, *, allow_duplicate_names: bool, path: str | Path
) -> None:
    """Refuse labels that share their text, and a template that does not fit them.

    Raises: CatalogError.
    """
    prompts = label_prompts(labels, label_text)
    repeated = duplicates(prompts)  # labels that share all their texts share their embedding
    if repeated and not allow_duplicate_names:
        raise CatalogError(
            f"{len(repeated)} label texts occur more than once: "
            + ", ".join(repr(texts[0]) for texts in repeated[:3]),
            where=str(path),
            fix="tell them apart with --label-text path, or pass --allow-duplicate-names",
        )


class CatalogScan:
    """A pass over a catalog: its items part by part, with what is wrong with them counted."""

    def __init__(
        self, source: ItemsSource, label_table: pa.Table, limit: int | None = None
    ) -> None:
        """Look at nothing yet.

        Args:
            source: the catalog.
            label_table: with the column label_id.
            limit: look at the first so many items only.
        """
        total = sum(file.num_rows for file in source.files)
        self.num_expected = total if limit is None else min(total, limit)
        """Items, by what the files say."""
        self.num_items = 0
        """Seen so far."""
        self._source, self._limit = source, limit
        self._label_ids = label_table["label_id"].combine_chunks()
        self._num_no_id = self._num_unknown = 0
        self._unknown: list[str] = []

    def parts(self) -> Iterator[tuple[Scanned, pa.RecordBatch]]:
        """Yield the items, each part with its rows as `items.scan` gives them; label 0 if unknown.

        Raises: CatalogError as `items.scan`.
        """
        with Progress("read items", self.num_expected) as progress:
            for number, first_row, batch in _numbered(self._source, self._limit):
                labels = pc.index_in(batch["label_id"], value_set=self._label_ids)
                bad = batch["label_id"].filter(pc.is_null(labels))
                self._num_unknown += len(bad)
                self._unknown += [repr(value.as_py()) for value in bad[: 3 - len(self._unknown)]]
                ids = batch["item_id"]
                self._num_no_id += pc.sum(pc.equal(pc.binary_length(ids), 0)).as_py() or 0
                self._num_no_id += ids.null_count
                self.num_items += len(batch)
                items = Scanned(
                    item_ids=ids,
                    labels=labels.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32),
                    source_file=np.full(len(batch), number, np.int32),
                    source_row=np.arange(first_row, first_row + len(batch), dtype=np.int64),
                    given_split=batch["split"],
                )
                yield items, batch
                progress.update(len(batch))

    def check(self) -> None:
        """Refuse a catalog without items, or with ids that are missing or labels not known.

        Raises: CatalogError with the count and the first three.
        """
        where = _place(self._source)
        if self.num_items == 0:
            raise CatalogError("the catalog has no items", where=where, fix="give it at least one")
        if self._num_no_id:
            raise CatalogError(
                f"{self._num_no_id} items have no item_id",
                where=where,
                fix="give each a unique item_id",
            )
        if self._num_unknown:
            raise CatalogError(
                f"{self._num_unknown} items have a label_id that is not in the labels: "
                + ", ".join(self._unknown),
                where=where,
                fix="add these labels, or leave these items out",
            )


def refuse_repeated(source: ItemsSource, num_repeated: int, first: list[str]) -> None:
    """Raise a CatalogError that counts ids which occur more than once, if there are some.

    Args:
        source: the catalog.
        num_repeated: how many these are.
        first: the first three.
    """
    if num_repeated:
        raise CatalogError(
            f"{num_repeated} item ids occur more than once: {', '.join(map(repr, first))}",
            where=_place(source),
            fix="give each item its own item_id",
        )


def _place(source: ItemsSource) -> str:
    return ", ".join(file.path for file in source.files[:3])


def scan_catalog(source: ItemsSource, label_table: pa.Table) -> Scanned:
    """Read ids (up to 2 GB), labels and splits of all items into memory.

    Args:
        source: the catalog.
        label_table: with the column label_id.
    Raises: CatalogError on unknown or null labels, ids that are missing or repeat, no items.
    """
    scan = CatalogScan(source, label_table)
    parts = [items for items, _ in scan.parts()]
    scan.check()
    ids = pa.concat_arrays([part.item_ids for part in parts])
    counts = pc.value_counts(ids)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    refuse_repeated(source, len(repeated), repeated[:3].to_pylist())
    return Scanned(
        item_ids=ids,
        labels=np.concatenate([part.labels for part in parts]),
        source_file=np.concatenate([part.source_file for part in parts]),
        source_row=np.concatenate([part.source_row for part in parts]),
        given_split=pa.concat_arrays([part.given_split for part in parts]),
    )


def _numbered(source: ItemsSource, limit: int | None) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Yield file number, first row within the file and rows, up to the limit."""
    file_now, row, num_left = 0, 0, limit
    for number, batch in scan(source):
        if number != file_now:
            file_now, row = number, 0
        if num_left is not None:
            batch = batch.slice(0, num_left)
            num_left -= len(batch)
        if len(batch):
            yield number, row, batch
        row += len(batch)
        if num_left == 0:
            return


def chosen_hashes(
    source: ItemsSource, is_chosen: Bool[np.ndarray, " N"], shard_rows: int
) -> tuple[str, ...]:
    """Hash what shards are made from that hold some of a catalog's items, in order."""
    hashes, start = ShardHashes(shard_rows), 0
    for number, first_row, batch in _numbered(source, None):
        mask = is_chosen[start : start + len(batch)]
        start += len(batch)
        rows = first_row + np.flatnonzero(mask)
        hashes.update(batch.filter(pa.array(mask)), source.files[number].sha256, rows)
    return hashes.digests()


class ShardHashes:
    """One sha256 per shard over its items' ids, titles and picture sources."""

    def __init__(self, shard_rows: int) -> None:
        """Begin with the first shard."""
        self._shard_rows, self._num_rows = shard_rows, 0
        self._hash = hashlib.sha256()
        self._digests: list[str] = []

    def update(
        self, batch: pa.RecordBatch, file_sha256: str, rows: Int64[np.ndarray, " n"]
    ) -> None:
        """Add the next items of the plan, by their rows in a file."""
        if "image_path" in batch.schema.names:
            pictures = batch["image_path"]
        else:
            numbers = pa.array(rows).cast(pa.string())
            pictures = pc.binary_join_element_wise(file_sha256, numbers, " ")
        texts = _hashed(batch["item_id"], batch["title"], pictures)
        ends = np.frombuffer(texts.buffers()[1], np.int64)
        data = memoryview(texts.buffers()[2] or b"")
        start = 0
        while start < len(texts):
            num_left = self._shard_rows - self._num_rows % self._shard_rows
            stop = min(start + num_left, len(texts))
            self._hash.update(data[ends[start] : ends[stop]])
            self._num_rows += stop - start
            start = stop
            if self._num_rows % self._shard_rows == 0:
                self._digests.append(self._hash.hexdigest())
                self._hash = hashlib.sha256()

    def digests(self) -> tuple[str, ...]:
        """Return the shards' hashes in hex."""
        is_under_way = self._num_rows % self._shard_rows > 0
        return (*self._digests, *([self._hash.hexdigest()] if is_under_way else []))


def _hashed(*columns: pa.Array) -> pa.Array:
    """Return what is hashed of each item: each text with its length in front, "-" for null."""
    kind, parts = pa.large_binary(), []
    for column in columns:
        texts = column.cast(kind)
        # The length in front keeps ("ab", "c") and ("a", "bc") apart.
        lengths = pc.binary_length(texts).dictionary_encode()
        heads = pa.array([b"%d:" % length for length in lengths.dictionary.to_pylist()], kind)
        parts += [heads.take(lengths.indices).fill_null(b"-"), texts.fill_null(b"")]
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", kind))


def items_table(
    rows: Int64[np.ndarray, " n"],
    *,
    item_ids: pa.Array,
    source_file: Int[np.ndarray, " n"],
    source_row: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    splits: Int[np.ndarray, " n"],
) -> pa.Table:
    """Return a shard's items in the schema ITEMS.

    Args:
        rows: of the plan.
        item_ids: strings.
        source_file: positions in the plan's files.
        source_row: within the file.
        labels: class ids.
        splits: positions in SPLITS.
    """
    columns = {
        "row": rows,
        "item_id": item_ids,
        "source_file": source_file,
        "source_row": source_row,
        "label": labels,
        "split": pa.array(SPLITS).take(pa.array(splits)),
    }
    return pa.table(columns).cast(ITEMS)


def labels_file(label_table: pa.Table, counts: Int[np.ndarray, " C"]) -> bytes:
    """Return the labels table as a Parquet file.

    Args:
        label_table: with label_id, name and path.
        counts: items of each.
    """
    numbers = pa.array(np.arange(len(label_table)), pa.int32())
    labels = label_table.select(["label_id", "name", "path"]).add_column(0, "label", numbers)
    return parquet_bytes(labels.append_column("count", pa.array(counts)).cast(LABELS))
