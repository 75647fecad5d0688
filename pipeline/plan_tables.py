"""What a plan consists of: the catalog's columns, checked; tables of items and of labels; hashes.

N items of a catalog, n chosen ones, C labels.
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
    """The catalog's columns, checked."""

    item_ids: pa.Array
    labels: Int[np.ndarray, " N"]
    source_file: Int[np.ndarray, " N"]
    source_row: Int[np.ndarray, " N"]
    given_split: pa.Array | None
    """None if nothing says anything."""
    shards: tuple[str, ...]
    """Hashes of what each shard is made from, if all items are taken."""

    def __len__(self) -> int:
        """Return N."""
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


def scan_catalog(
    source: ItemsSource, label_table: pa.Table, shard_rows: int, limit: int | None = None
) -> Scanned:
    """Read ids, labels and splits of all items, and hash what each shard is made from.

    Args:
        source: the catalog.
        label_table: with the column label_id.
        shard_rows: items per shard.
        limit: look at the first so many items only.
    Raises: CatalogError on unknown or null labels, ids that are missing or repeat, no items.
    """
    label_ids = label_table["label_id"].combine_chunks()
    item_ids, label_parts, given, files, rows, hashes = [], [], [], [], [], _ShardHashes(shard_rows)
    unknown: list[str] = []
    num_unknown = num_no_id = num_rows = 0
    total = sum(file.num_rows for file in source.files)
    with Progress("plan", min(total, limit or total)) as progress:
        for number, first_row, batch in _numbered(source, limit):
            labels = pc.index_in(batch["label_id"], value_set=label_ids)
            bad = batch["label_id"].filter(pc.is_null(labels)).to_pylist()
            num_unknown += len(bad)
            unknown += [repr(value) for value in bad[: 3 - len(unknown)]]
            num_no_id += pc.sum(pc.equal(pc.binary_length(batch["item_id"]), 0)).as_py() or 0
            num_no_id += batch["item_id"].null_count
            item_ids.append(batch["item_id"])
            label_parts.append(labels.fill_null(0).to_numpy(zero_copy_only=False))
            given.append(batch["split"] if "split" in batch.schema.names else None)
            files.append(np.full(len(batch), number, np.int32))
            rows.append(np.arange(first_row, first_row + len(batch), dtype=np.int64))
            hashes.update(batch, source.files[number].sha256, rows[-1])
            num_rows += len(batch)
            progress.update(len(batch))
    ids = pa.concat_arrays(item_ids) if item_ids else pa.array([], pa.string())
    where = ", ".join(file.path for file in source.files[:3])
    _check_items(num_rows, num_no_id, num_unknown, unknown, ids, where)
    has_split = all(part is not None for part in given)
    return Scanned(
        item_ids=ids,
        labels=np.concatenate(label_parts).astype(np.int32),
        source_file=np.concatenate(files),
        source_row=np.concatenate(rows),
        given_split=pa.concat_arrays(given) if has_split else None,
        shards=hashes.digests(),
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


def _check_items(
    num_rows: int, num_no_id: int, num_unknown: int, unknown: list[str], ids: pa.Array, where: str
) -> None:
    if num_rows == 0:
        raise CatalogError("the catalog has no items", where=where, fix="give it at least one")
    if num_no_id:
        raise CatalogError(
            f"{num_no_id} items have no item_id", where=where, fix="give each a unique item_id"
        )
    if num_unknown:
        raise CatalogError(
            f"{num_unknown} items have a label_id that is not in the labels: " + ", ".join(unknown),
            where=where,
            fix="add these labels, or leave these items out",
        )
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        shown = ", ".join(map(repr, repeated[:3].to_pylist()))
        raise CatalogError(
            f"{len(repeated)} item ids occur more than once: {shown}",
            where=where,
            fix="give each item its own item_id",
        )


def chosen_hashes(
    source: ItemsSource, is_chosen: Bool[np.ndarray, " N"], shard_rows: int
) -> tuple[str, ...]:
    """Hash what shards are made from that hold some of a catalog's items, in order."""
    hashes, start = _ShardHashes(shard_rows), 0
    for number, first_row, batch in _numbered(source, None):
        mask = is_chosen[start : start + len(batch)]
        start += len(batch)
        rows = first_row + np.flatnonzero(mask)
        hashes.update(batch.filter(pa.array(mask)), source.files[number].sha256, rows)
    return hashes.digests()


class _ShardHashes:
    """One sha256 per shard over its items' ids, titles and picture sources."""

    def __init__(self, shard_rows: int) -> None:
        self._shard_rows, self._num_rows = shard_rows, 0
        self._hashes: list[hashlib._Hash] = []

    def update(
        self, batch: pa.RecordBatch, file_sha256: str, rows: Int64[np.ndarray, " n"]
    ) -> None:
        """Add the next items of the plan, by their rows in a file."""
        ids = batch["item_id"].to_pylist()
        titles = batch["title"].to_pylist()
        if "image_path" in batch.schema.names:
            sources = batch["image_path"].to_pylist()
        else:
            sources = [f"{file_sha256} {row}" for row in rows.tolist()]
        for item_id, title, picture in zip(ids, titles, sources, strict=True):
            if self._num_rows % self._shard_rows == 0:
                self._hashes.append(hashlib.sha256())
            for part in (
                str(item_id).encode(),
                title,
                None if picture is None else picture.encode(),
            ):
                # The length in front keeps ("ab", "c") and ("a", "bc") apart.
                self._hashes[-1].update(b"-" if part is None else b"%d:%b" % (len(part), part))
            self._num_rows += 1

    def digests(self) -> tuple[str, ...]:
        """Return the shards' hashes in hex."""
        return tuple(each.hexdigest() for each in self._hashes)


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
