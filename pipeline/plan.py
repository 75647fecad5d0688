"""Stage zero: freeze what stage one will do.

Takes a catalog and its labels, writes plan.json, labels.parquet and one items table per shard.
Row order is the catalog's; row i of every later array is item i of the plan, for ever. Cost at
12M items: one pass over ids, titles and paths, some minutes; pictures are not read.

N items, C labels.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from cache.layout import LABELS_TABLE, chunk_num_bytes, items_name, parquet_bytes
from cache.reader import PLAN, read_items, read_plan
from cache.reader import read_labels as read_planned_labels
from cache.storage import Storage
from pipeline.encoder import load_encoder, resolve
from pipeline.items import PictureFile, find_items, read_rows, scan
from pipeline.labels import duplicates, label_prompts, labels_sha256, read_labels
from pipeline.locations import absolute
from pipeline.progress import Progress, duration
from pipeline.splits import assign_splits
from pipeline.text_table import TextTable
from schemas.configs import differing_fields, to_dict, to_json
from schemas.errors import (
    CacheCorruptError,
    CatalogError,
    ConfigError,
    PlanMismatchError,
    PlanNotFoundError,
)
from schemas.plan import ItemsSource, Plan
from schemas.tables import ITEMS, LABELS, SPLITS

logger = logging.getLogger(__name__)

_LOOKED_AT = 8


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """What plan found, for a person to read."""

    plan: Plan
    """The plan, new or as it was."""
    is_new: bool
    """False if the same plan was there already."""
    class_counts: Int[np.ndarray, " C"]
    """Items per label."""
    split_counts: dict[str, int]
    """Items per split."""
    disk_bytes: int
    """Size of the finished cache."""
    free_bytes: int | None
    """Free space where the workspace is; None where nobody knows."""
    items_per_second: float
    """Of the encoder on this machine, without reading and decoding."""

    def table(self) -> TextTable:
        """Return what a person wants to know before spending GPU hours."""
        plan, counts = self.plan, np.sort(self.class_counts)[::-1]
        head = counts[: max(1, len(counts) // 10)].sum() / max(counts.sum(), 1)
        seconds = plan.num_items / self.items_per_second
        splits = ", ".join(f"{name} {num:,}" for name, num in self.split_counts.items())
        spread = (
            f"{counts[-1]:,} to {counts[0]:,}, median {int(np.median(counts)):,}; "
            f"the largest tenth of the labels has {head:.0%} of the items"
        )
        rows = (
            ("items", f"{plan.num_items:,} in {len(plan.items.files)} files ({splits})"),
            ("labels", f"{plan.num_labels:,}, {int((counts == 0).sum())} without items"),
            ("items a label", spread),
            ("encoder", f"{plan.encoder.model} {plan.encoder.pretrained}".strip()),
            ("embedding", f"D = {plan.encoder.embed_dim}, spec_id {plan.spec_id}"),
            ("shards", f"{plan.num_shards} of up to {plan.shard_rows:,} items"),
            (
                "disk",
                _gigabytes(self.disk_bytes)
                + (f", free {_gigabytes(self.free_bytes)}" if self.free_bytes else ""),
            ),
            (
                "time",
                f"about {duration(seconds)} at {self.items_per_second:,.0f} items/s, "
                "the encoder's rate on this machine",
            ),
        )
        title = "Plan" if self.is_new else "Plan (unchanged)"
        return TextTable(title=title, columns=("", "found"), rows=rows, align="left")


@dataclass(frozen=True, kw_only=True)
class _Scanned:
    """The catalog's columns, checked."""

    item_ids: pa.Array
    labels: Int[np.ndarray, " N"]
    source_file: Int[np.ndarray, " N"]
    source_row: Int[np.ndarray, " N"]
    given_split: pa.Array | None
    shards: tuple[str, ...]


def make_plan(
    workspace: Storage,
    *,
    items: str | Path,
    labels: str | Path,
    model: str,
    pretrained: str,
    items_root: str | Path | None = None,
    label_text: str = "name",
    allow_duplicate_names: bool = False,
    shard_rows: int = 65536,
    chunk_rows: int = 16384,
    seed: int = 0,
    limit: int | None = None,
    force: bool = False,
    decode: str = "scaled",
    device: str = "auto",
) -> PlanReport:
    """Plan a workspace, or find that it is planned so already.

    Args:
        workspace: folder to write to.
        items: catalog file or folder.
        labels: labels file.
        model: as in `encoder.resolve`.
        pretrained: as in `encoder.resolve`.
        items_root: folder of relative image paths; None for the items' folder.
        label_text: `name`, `path`, a template, or several of these with " | " between.
        allow_duplicate_names: accept labels that share their text.
        shard_rows: items per shard.
        chunk_rows: rows per chunk file; divides shard_rows.
        seed: salt of the split hash.
        limit: plan only the first so many items.
        force: replace a different plan.
        decode: `scaled` or `full`, see `EncoderSpec.decode`.
        device: where to time the encoder.
    Raises: CatalogError, EncoderError, ConfigError; PlanMismatchError if another plan is there.
    """
    _check_sizes(shard_rows, chunk_rows)
    workspace.check_writable()
    label_table = read_labels(labels)
    _check_texts(label_prompts(label_table, label_text), allow_duplicate_names, labels)
    source = find_items(items, items_root)
    _look_at_pictures(source)
    encoder_spec = replace(resolve(model, pretrained), decode=decode)
    encoder = load_encoder(encoder_spec, device)
    scanned = _scan(source, label_table, shard_rows, limit)
    splits = assign_splits(scanned.item_ids, scanned.labels, seed=seed, given=scanned.given_split)
    counts = np.bincount(scanned.labels, minlength=len(label_table))
    labels_file = _labels_file(label_table, counts)
    plan = Plan(
        items=source,
        labels_path=absolute(labels),
        labels_sha256=labels_sha256(label_table),
        label_text=label_text,
        num_items=len(scanned.labels),
        num_labels=len(label_table),
        limit=limit,
        encoder=encoder_spec,
        spec_id=encoder_spec.spec_id(),
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        seed=seed,
        shards=scanned.shards,
        items_tables=tuple(
            hashlib.sha256(file).hexdigest() for file in _items_files(scanned, splits, shard_rows)
        ),
        labels_table=hashlib.sha256(labels_file).hexdigest(),
    )
    is_new = _differs(workspace, plan, force=force)
    if is_new:
        _write(workspace, plan, _items_files(scanned, splits, shard_rows), labels_file)
    if num_empty := int((counts == 0).sum()):
        logger.warning("%d of %d labels have no items", num_empty, plan.num_labels)
    for code, name in enumerate(SPLITS):
        if not (splits == code).any():
            logger.warning("there are no %s items: `fit` will refuse this plan", name)
    num_chunks = -(-plan.num_items // chunk_rows)
    return PlanReport(
        plan=plan,
        is_new=is_new,
        class_counts=counts,
        split_counts={name: int((splits == code).sum()) for code, name in enumerate(SPLITS)},
        disk_bytes=2 * num_chunks * chunk_num_bytes(plan) + 200 * plan.num_items,
        free_bytes=workspace.free_bytes(),
        items_per_second=encoder.items_per_second(),
    )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB"


def _look_at_pictures(source: ItemsSource) -> None:
    """Warn at once if not even the first pictures are there: a wrong root costs a night."""
    if source.has_image_bytes:
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
            source.root,
        )


def _check_sizes(shard_rows: int, chunk_rows: int) -> None:
    if chunk_rows < 1 or shard_rows < 1 or shard_rows % chunk_rows:
        raise ConfigError(
            f"shard_rows={shard_rows} is not a multiple of chunk_rows={chunk_rows}",
            where="--shard-rows, --chunk-rows",
            fix="choose --shard-rows as a multiple of --chunk-rows: a shard owns whole chunks",
        )


def _check_texts(
    prompts: list[tuple[str, ...]], allow_duplicate_names: bool, path: str | Path
) -> None:
    repeated = duplicates(prompts)  # labels that share all their texts share their embedding
    if repeated and not allow_duplicate_names:
        raise CatalogError(
            f"{len(repeated)} label texts occur more than once: "
            + ", ".join(repr(texts[0]) for texts in repeated[:3]),
            where=str(path),
            fix="tell them apart with --label-text path, or pass --allow-duplicate-names",
        )


def _scan(
    source: ItemsSource, label_table: pa.Table, shard_rows: int, limit: int | None
) -> _Scanned:
    """Read ids, labels and splits of all items, and hash what each shard is made from."""
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
            hashes.update(batch, source.files[number].sha256, first_row)
            num_rows += len(batch)
            progress.update(len(batch))
    ids = pa.concat_arrays(item_ids) if item_ids else pa.array([], pa.string())
    where = ", ".join(file.path for file in source.files[:3])
    _check_items(num_rows, num_no_id, num_unknown, unknown, ids, where)
    has_split = all(part is not None for part in given)
    return _Scanned(
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


class _ShardHashes:
    """One sha256 per shard over its items' ids, titles and picture sources."""

    def __init__(self, shard_rows: int) -> None:
        self._shard_rows, self._num_rows = shard_rows, 0
        self._hashes: list[hashlib._Hash] = []

    def update(self, batch: pa.RecordBatch, file_sha256: str, first_row: int) -> None:
        """Add the next items of the plan."""
        ids = batch["item_id"].to_pylist()
        titles = batch["title"].to_pylist()
        if "image_path" in batch.schema.names:
            sources = batch["image_path"].to_pylist()
        else:
            sources = [f"{file_sha256} {first_row + row}" for row in range(len(batch))]
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


def _differs(workspace: Storage, plan: Plan, *, force: bool) -> bool:
    """Say whether the plan has to be written; refuse to replace another without `force`."""
    try:
        old = read_plan(workspace)
    except PlanNotFoundError:
        return True
    differing = differing_fields(to_dict(old), to_dict(plan))
    if differing and not force:
        raise PlanMismatchError(
            "this workspace has a different plan (old -> new): " + "; ".join(differing[:8]),
            where=workspace.where(PLAN),
            fix="use another --workspace, or --force to replace the plan; shards whose items and "
            "encoder stay the same are kept",
        )
    return bool(differing) or not _tables_are_there(workspace, plan)


def _tables_are_there(workspace: Storage, plan: Plan) -> bool:
    try:
        read_planned_labels(workspace, plan)
        for shard in range(plan.num_shards):
            read_items(workspace, plan, shard)
    except CacheCorruptError as error:
        logger.warning("%s: %s; writing it again", error.where, error.what)
        return False
    return True


def _items_files(
    scanned: _Scanned, splits: Int[np.ndarray, " N"], shard_rows: int
) -> Iterator[bytes]:
    """Yield the items table of each shard as a Parquet file."""
    split_names = pa.array(SPLITS)
    for start in range(0, len(scanned.labels), shard_rows):
        rows = slice(start, min(start + shard_rows, len(scanned.labels)))
        columns = {
            "row": np.arange(rows.start, rows.stop),
            "item_id": scanned.item_ids[rows],
            "source_file": scanned.source_file[rows],
            "source_row": scanned.source_row[rows],
            "label": scanned.labels[rows],
            "split": split_names.take(pa.array(splits[rows])),
        }
        yield parquet_bytes(pa.table(columns).cast(ITEMS))


def _labels_file(label_table: pa.Table, counts: Int[np.ndarray, " C"]) -> bytes:
    numbers = pa.array(np.arange(len(label_table)), pa.int32())
    labels = label_table.add_column(0, "label", numbers)
    return parquet_bytes(labels.append_column("count", pa.array(counts)).cast(LABELS))


def _write(
    workspace: Storage, plan: Plan, items_files: Iterator[bytes], labels_file: bytes
) -> None:
    workspace.remove(PLAN)  # not planned until all of it is written
    for stale in workspace.sizes("items"):
        workspace.remove(stale)
    for shard, file in enumerate(items_files):
        workspace.write(items_name(shard), file)
    workspace.write(LABELS_TABLE, labels_file)
    workspace.write(PLAN, to_json(plan).encode())
