"""Make a plan's items tables in a temporary folder, whatever the number of items.

Three passes: one over the catalog writes what the others need of each shard to a file; one over
its hashes chooses the items that are held out; the last turns the files into items tables. Memory
is that of some shards and does not grow with their number. Measured at 100M items, on two busy
cores: five minutes, a quarter of them for hashes of ids, and 2.1 GB of temporary files.

N items, n some of them, C labels.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int8, Int64

from cache.layout import parquet_bytes
from pipeline.plan_tables import CatalogScan, ShardHashes, items_table, refuse_repeated
from pipeline.progress import Progress
from pipeline.repeated_ids import HashFiles, find_repeated
from pipeline.splits import (
    TRAIN,
    choose_held_out,
    refuse_unknown_splits,
    split_codes,
    split_hashes,
    unknown_splits,
)
from schemas.errors import WorkspaceError
from schemas.plan import ItemsSource, even_shards
from schemas.tables import SPLITS

_NUM_THREADS = 4
_ROW_BYTES = 24  # of temporary files, with short ids
_MAX_NAMES = 10_000
_SPILLED = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("split", pa.int8()),
        pa.field("source_file", pa.int32()),
        pa.field("source_row", pa.int64()),
        pa.field("hash", pa.uint64()),
    ]
)
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The items tables of a plan, not yet in its workspace."""

    folder: Path
    """Where they are for now."""
    shard_items: tuple[int, ...]
    """Per shard, how many items it has."""
    shards: tuple[str, ...]
    """Per shard, the hash of what it is made from."""
    items_tables: tuple[str, ...]
    """Per shard, the sha256 of its items table."""
    class_counts: Int64[np.ndarray, " C"]
    """Items per label."""
    split_counts: Int64[np.ndarray, " 3"]
    """Items per split."""

    def items_file(self, shard: int) -> bytes:
        """Return the items table of a shard as a Parquet file."""
        return _table_path(self.folder, shard).read_bytes()


@contextlib.contextmanager
def drafted_items(
    source: ItemsSource, labels: pa.Table, *, shard_rows: int, seed: int, limit: int | None = None
) -> Iterator[Draft]:
    """Give the items tables of a catalog; they are gone afterwards.

    Args:
        source: the catalog.
        labels: with the column label_id.
        shard_rows: items per shard.
        seed: salt of the split hash.
        limit: take the first so many items only.
    Raises: CatalogError on labels or splits that are not known, ids that are missing or repeat, no
        items; WorkspaceError if the temporary folder has no room.
    """
    scan = CatalogScan(source, labels, limit)
    with _temporary_folder(scan.num_expected) as folder:
        spill = _Spill(folder, len(labels), seed)
        hashes = ShardHashes(shard_rows)
        for items in _in_shards(_hashed(scan, source, hashes), shard_rows):
            spill.write(items)
        scan.check()
        refuse_repeated(source, *spill.repeated())
        refuse_unknown_splits(spill.unknown_splits)
        shard_items = even_shards(scan.num_items, shard_rows)
        rows, splits = _held_out(spill, shard_items)
        tables = _write_tables(spill, shard_items, rows, splits)
        split_counts = spill.counts.sum(0) + np.bincount(splits, minlength=len(SPLITS))
        split_counts[TRAIN] -= len(rows)
        yield Draft(
            folder=folder,
            shard_items=shard_items,
            shards=hashes.digests(),
            items_tables=tables,
            class_counts=spill.counts.sum(1),
            split_counts=split_counts,
        )


@contextlib.contextmanager
def _temporary_folder(num_items: int) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        with _writing("the folder of temporary files"):
            folder = tempfile.TemporaryDirectory(prefix="shelfwise-plan-")
            path = Path(stack.enter_context(folder))
        free, needed = shutil.disk_usage(path).free, _ROW_BYTES * num_items
        if free < needed:
            raise _no_room(
                f"{num_items:,} items need {needed / 1e6:,.1f} MB of temporary files, "
                f"{free / 1e6:,.1f} MB are free",
                str(path.parent),
            )
        yield path


@contextlib.contextmanager
def _writing(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _no_room(f"cannot write: {error.strerror or error}", where) from error


def _no_room(what: str, where: str) -> WorkspaceError:
    return WorkspaceError(
        what,
        where=where,
        fix="free space there, or name a folder on a larger disk in the environment variable "
        "TMPDIR, then run the same command again",
    )


def _hashed(scan: CatalogScan, source: ItemsSource, hashes: ShardHashes) -> Iterator[pa.Table]:
    for items, batch in scan.parts():
        hashes.update(batch, source.files[int(items.source_file[0])].sha256, items.source_row)
        yield pa.table(
            {
                "item_id": items.item_ids,
                "label": items.labels,
                "given": items.given_split,
                "source_file": items.source_file,
                "source_row": items.source_row,
            }
        )


def _in_shards(parts: Iterable[pa.Table], shard_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of the parts, shard by shard."""
    held: list[pa.Table] = []
    num_held = 0
    for part in parts:
        start = 0
        while start < len(part):
            held.append(part.slice(start, shard_rows - num_held))
            num_held += len(held[-1])
            start += len(held[-1])
            if num_held == shard_rows:
                yield pa.concat_tables(held)
                held, num_held = [], 0
    if held:
        yield pa.concat_tables(held)


class _Spill:
    """What the later passes need of each item, in a file per shard, and counts of all of them."""

    def __init__(self, folder: Path, num_labels: int, seed: int) -> None:
        self.folder, self.num_shards = folder, 0
        self.counts = np.zeros((num_labels, len(SPLITS)), np.int64)
        self.unknown_splits: set[str] = set()
        self._seed, self._hash_files = seed, HashFiles(folder)

    def write(self, items: pa.Table) -> None:
        """Add the next shard."""
        items = items.combine_chunks()
        ids, given = (items[name].combine_chunks() for name in ("item_id", "given"))
        hashes, splits = split_hashes(ids, self._seed), split_codes(given)
        self.unknown_splits |= unknown_splits(given)
        if len(self.unknown_splits) > _MAX_NAMES:  # no splits at all: too many to hold
            refuse_unknown_splits(self.unknown_splits)
        places = items["label"].to_numpy() * len(SPLITS) + splits
        counts = np.bincount(places, minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)
        columns = [ids, items["label"], splits, items["source_file"], items["source_row"], hashes]
        table = pa.table(columns, schema=_SPILLED)
        with _writing(str(self.folder)):
            path = self._path(self.num_shards)
            with pa.ipc.new_file(path, _SPILLED, options=_COMPRESSED) as file:
                file.write_table(table)
            self._hash_files.add(hashes)
        self.num_shards += 1

    def _path(self, shard: int) -> str:
        return str(self.folder / f"{shard:05d}.arrow")

    def read(self, shard: int, names: Sequence[str] = _SPILLED.names) -> pa.Table:
        """Read columns of a shard."""
        numbers = [_SPILLED.get_field_index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=numbers)
        with pa.OSFile(self._path(shard)) as file:
            return pa.ipc.open_file(file, options=options).read_all().select(names)

    def remove(self, shard: int) -> None:
        """Delete a shard's file."""
        Path(self._path(shard)).unlink()

    def repeated(self) -> tuple[int, list[str]]:
        """Return how many ids occur more than once, and the first three."""
        with _writing(str(self.folder)):
            if not self._hash_files.one_repeats():
                return 0, []
            tables = (self.read(shard, ["item_id", "hash"]) for shard in range(self.num_shards))
            parts = ((each["item_id"].combine_chunks(), each["hash"].to_numpy()) for each in tables)
            return find_repeated(parts, self.folder)


def _held_out(
    spill: _Spill, shard_items: tuple[int, ...]
) -> tuple[Int64[np.ndarray, " m"], Int8[np.ndarray, " m"]]:
    """Choose the rows that go to val and test."""
    with Progress("divide items", sum(shard_items)) as progress:

        def parts() -> Iterator[tuple[Any, ...]]:
            for shard, num in enumerate(shard_items):
                table = spill.read(shard, ["label", "hash", "split"])
                yield tuple(column.to_numpy() for column in table.columns)
                progress.update(num)

        return choose_held_out(parts(), spill.counts)


def _write_tables(
    spill: _Spill,
    shard_items: tuple[int, ...],
    rows: Int64[np.ndarray, " m"],
    splits: Int8[np.ndarray, " m"],
) -> tuple[str, ...]:
    """Make each shard's file into its items table; return their sha256s."""

    def write(shard: int) -> str:
        items = spill.read(shard)
        start = starts[shard]
        stop = start + len(items)
        mine = slice(*np.searchsorted(rows, [start, stop]))
        codes = items["split"].to_numpy().copy()
        codes[rows[mine] - start] = splits[mine]
        table = items_table(
            np.arange(start, stop),
            item_ids=items["item_id"],
            source_file=items["source_file"],
            source_row=items["source_row"],
            labels=items["label"],
            splits=codes,
        )
        data = parquet_bytes(table)
        with _writing(str(spill.folder)):
            _table_path(spill.folder, shard).write_bytes(data)
        spill.remove(shard)
        return hashlib.sha256(data).hexdigest()

    starts = np.cumsum([0, *shard_items]).tolist()
    tables = []
    with (
        Progress("make items tables", sum(shard_items)) as progress,
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        for num, sha256 in zip(shard_items, pool.map(write, range(len(shard_items))), strict=True):
            tables.append(sha256)
            progress.update(num)
    return tuple(tables)


def _table_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.parquet"
