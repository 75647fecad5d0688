"""Let a planned catalog change: items come, change and go; the cache of the others stays.

Takes the plan and a catalog of new and changed items, or a list of ids; writes new shards of items,
the list of retired rows and the plan. A committed shard is never touched: an item whose picture or
title changed gets a new row and its old row is retired. Cost at 12M items: a pass over their ids
(1.2 GB), and over the pictures of items that are given again.

n items given, C labels.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Int64, UInt64

from cache.layout import parquet_table, rows_name
from cache.reader import read_items, read_labels, read_plan, read_retired
from cache.storage import Storage
from cache.verify import is_imported, load_commit
from pipeline.item_contents import NUM_READERS, map_ahead, read_item
from pipeline.item_lists import read_item_list, refuse_unknown
from pipeline.items import RawItem, check_unchanged, find_items, read_places
from pipeline.plan_tables import (
    Scanned,
    chosen_hashes,
    items_table,
    look_at_pictures,
    scan_catalog,
)
from pipeline.plan_update import PlanChange, PlanUpdate, finish
from pipeline.progress import Progress
from pipeline.splits import TRAIN, extend_splits
from schemas.errors import CatalogError, PipelineError
from schemas.plan import ItemsSource, Plan, even_shards
from schemas.tables import SPLITS


def append_items(
    workspace: Storage, items: str | Path, items_root: str | Path | None = None
) -> PlanChange:
    """Add new items, and new versions of changed ones, as new shards.

    An item that is given again as it was stays where it is, with the label given now. New items go
    to val and test in the shares that these have of the catalog, changed ones stay in their split;
    a column `split` has the last word for both.

    Args:
        workspace: a planned one.
        items: catalog file or folder.
        items_root: folder of relative image paths; None for the items' folder.
    Raises: PlanNotFoundError, CatalogError, CacheCorruptError, WorkspaceError.
    """
    finish(workspace)
    plan, update = read_plan(workspace), PlanUpdate(workspace)
    labels = read_labels(workspace, plan)
    source = find_items(items, items_root)
    look_at_pictures(source)
    new = scan_catalog(source, labels, plan.shard_rows)
    known = _look_up(workspace, plan, new.item_ids)
    is_known = known.row >= 0
    is_same = is_known.copy()
    is_same[is_known] = _have_same_content(
        workspace, plan, source, _places(new, is_known), known.row[is_known]
    )
    is_changed = is_known & ~is_same
    is_relabeled = is_same & (known.label != new.labels)
    first = plan.num_shards
    splits = _splits(plan, new, known)
    plan = _with_shards(plan, update, source, new, ~is_same, splits)
    plan = _with_retired(workspace, plan, update, known.row[is_changed])
    plan = _with_labels(workspace, plan, update, known.row[is_relabeled], new.labels[is_relabeled])
    is_other = ~is_same | is_relabeled
    if is_other.any():
        _commit(plan, update, labels, come=new.labels[is_other], gone=known.label[is_other])
    return PlanChange(
        plan=plan,
        is_changed=bool(is_other.any()),
        counts={
            "new items": int((~is_known).sum()),
            "changed items, their old rows retired": int(is_changed.sum()),
            "items with another label": int(is_relabeled.sum()),
            "items as they were": int((is_same & ~is_relabeled).sum()),
        },
        shards=range(first, plan.num_shards),
    )


def delete_items(workspace: Storage, path: str | Path) -> PlanChange:
    """Retire items: their rows stay in the cache, and no reader takes them any more.

    Args:
        workspace: a planned one.
        path: .csv or .parquet with a column item_id, or .txt with one a line.
    Raises: CatalogError if an id is unknown; PlanNotFoundError, CacheCorruptError, WorkspaceError.
    """
    finish(workspace)
    plan, update = read_plan(workspace), PlanUpdate(workspace)
    ids = read_item_list(path, "--delete", ["item_id"])["item_id"].combine_chunks()
    known = _look_up(workspace, plan, ids)
    is_here = known.row >= 0
    refuse_unknown(ids.filter(pa.array(~is_here & ~known.was_retired)), path)
    if is_here.any():
        plan = _with_retired(workspace, plan, update, known.row[is_here])
        _commit(plan, update, read_labels(workspace, plan), gone=known.label[is_here])
    return PlanChange(
        plan=plan,
        is_changed=bool(is_here.any()),
        counts={"retired items": int(is_here.sum()), "retired before": int((~is_here).sum())},
    )


def relabel_items(workspace: Storage, path: str | Path) -> PlanChange:
    """Give items other labels; nothing is embedded again.

    Args:
        workspace: a planned one.
        path: .csv or .parquet with item_id and label_id; a row without label_id is passed over.
    Raises: CatalogError if an id or a label is unknown; PlanNotFoundError, CacheCorruptError,
        WorkspaceError.
    """
    finish(workspace)
    plan, update = read_plan(workspace), PlanUpdate(workspace)
    labels = read_labels(workspace, plan)
    given = read_item_list(path, "--relabel", ["item_id", "label_id"])
    num_blank = given["label_id"].null_count
    given = given.filter(given["label_id"].is_valid())
    label = pc.index_in(given["label_id"], value_set=labels["label_id"].combine_chunks())
    if label.null_count:
        unknown = pc.unique(given["label_id"].filter(label.is_null())).to_pylist()
        raise CatalogError(
            f"{len(unknown)} label ids are not in the labels: " + ", ".join(map(repr, unknown[:3])),
            where=str(path),
            fix="correct these rows, or add the labels with `python cli.py plan --update-labels`",
        )
    ids, wanted = given["item_id"].combine_chunks(), label.to_numpy().astype(np.int64)
    known = _look_up(workspace, plan, ids)
    refuse_unknown(ids.filter(pa.array(known.row < 0)), path)
    is_other = known.label != wanted
    if is_other.any():
        plan = _with_labels(workspace, plan, update, known.row[is_other], wanted[is_other])
        _commit(plan, update, labels, come=wanted[is_other], gone=known.label[is_other])
    return PlanChange(
        plan=plan,
        is_changed=bool(is_other.any()),
        counts={
            "items with another label": int(is_other.sum()),
            "items as they were": int((~is_other).sum()),
            "rows without a label_id": num_blank,
        },
    )


@dataclass(frozen=True)
class _Known:
    """What the plan says of some item ids, and of all its items together."""

    row: Int64[np.ndarray, " n"]
    """Of the item; -1 if it is not in the catalog."""
    label: Int64[np.ndarray, " n"]
    """Class id; -1 without one."""
    split: Int64[np.ndarray, " n"]
    """Position in SPLITS."""
    was_retired: Bool[np.ndarray, " n"]
    """Whether a row of this id was retired."""
    split_counts: Int64[np.ndarray, " 3"]
    """Items of each split."""
    train_counts: Int64[np.ndarray, " C"]
    """Train items of each label."""


def _look_up(workspace: Storage, plan: Plan, ids: pa.Array) -> _Known:
    """Find items by their ids; a pass over all items tables."""
    known = _Known(
        row=np.full(len(ids), -1),
        label=np.full(len(ids), -1),
        split=np.full(len(ids), -1),
        was_retired=np.zeros(len(ids), bool),
        split_counts=np.zeros(len(SPLITS), np.int64),
        train_counts=np.zeros(plan.num_labels, np.int64),
    )
    retired = read_retired(workspace, plan)
    with Progress("look up ids", plan.num_items) as progress:
        for shard in range(plan.num_shards):
            table = read_items(workspace, plan, shard)
            rows, label = (table[name].to_numpy() for name in ("row", "label"))
            split = pc.index_in(table["split"], value_set=pa.array(SPLITS)).to_numpy()
            is_live = ~np.isin(rows, retired)
            known.split_counts[:] += np.bincount(split[is_live], minlength=len(SPLITS))
            in_train = is_live & (split == TRAIN) & (label >= 0)
            known.train_counts[:] += np.bincount(label[in_train], minlength=plan.num_labels)
            place = pc.index_in(table["item_id"], value_set=ids).fill_null(-1).to_numpy()
            known.was_retired[place[(place >= 0) & ~is_live]] = True
            hit = np.flatnonzero((place >= 0) & is_live)
            known.row[place[hit]] = rows[hit]
            known.label[place[hit]] = label[hit]
            known.split[place[hit]] = split[hit]
            progress.update(len(table))
    return known


def _places(
    new: Scanned, mask: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    return new.source_file[mask], new.source_row[mask]


def _have_same_content(
    workspace: Storage,
    plan: Plan,
    source: ItemsSource,
    places: tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]],
    rows: Int64[np.ndarray, " m"],
) -> Bool[np.ndarray, " m"]:
    """Say whether items have the picture and the title that rows of the plan have.

    Of a row that is embedded the cache knows; of another the catalog is read, and what cannot be
    read any more counts as changed.
    """
    found = np.zeros((len(rows), 2), np.uint64)
    with Progress("compare with what is planned", len(rows)) as progress:
        for number, key in enumerate(_keys(read_places(source, *places))):
            found[number] = key
            progress.update(1)
    before = np.zeros_like(found)
    shards = rows // plan.shard_rows
    for shard in np.unique(shards).tolist():
        mine = shards == shard
        local = rows[mine] - plan.shard_range(shard)[0]
        keys = _cached_keys(workspace, plan, shard, local)
        before[mine] = _source_keys(workspace, plan, shard, local) if keys is None else keys
    return (found == before).all(axis=1)


def _cached_keys(
    workspace: Storage, plan: Plan, shard: int, local: Int64[np.ndarray, " m"]
) -> UInt64[np.ndarray, "m 2"] | None:
    """Return what the cache says of rows of a shard; None if it does not know."""
    try:
        commit = load_commit(workspace, shard)
        data = workspace.read(rows_name(shard))
    except (PipelineError, FileNotFoundError):
        return None
    if commit is None or is_imported(commit) or commit.items_sha256 != plan.shards[shard]:
        return None
    if hashlib.sha256(data).hexdigest() != commit.rows_sha256:
        return None
    table = parquet_table(data, ["title_sha256", "image_sha256"]).take(pa.array(local))
    pairs = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return _table_of(_key(title, image) for title, image in pairs)


def _source_keys(
    workspace: Storage, plan: Plan, shard: int, local: Int64[np.ndarray, " m"]
) -> UInt64[np.ndarray, "m 2"]:
    """Return what the catalog says of rows of a shard; zeros if it cannot be read any more."""
    items = read_items(workspace, plan, shard).take(pa.array(local))
    files, rows = (items[name].to_numpy() for name in ("source_file", "source_row"))
    order = np.lexsort((rows, files))
    found = np.zeros((len(local), 2), np.uint64)
    try:
        check_unchanged(plan.items, np.unique(files).tolist())
        found[order] = _table_of(_keys(read_places(plan.items, files[order], rows[order])))
    except (PipelineError, OSError):
        found[:] = 0
    return found


def _keys(items: Iterable[RawItem]) -> Iterator[UInt64[np.ndarray, " 2"]]:
    """Read and hash items, some ahead."""
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for item in map_ahead(readers, read_item, items):
            yield _key(item.title_sha256, item.image_sha256)


def _key(title_sha256: str | None, image_sha256: str | None) -> UInt64[np.ndarray, " 2"]:
    """Return 16 bytes for a title and a picture, either of which may be missing."""
    text = f"{title_sha256} {image_sha256}".encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), np.uint64)


def _table_of(keys: Iterable[UInt64[np.ndarray, " 2"]]) -> UInt64[np.ndarray, "m 2"]:
    found = list(keys)
    return np.stack(found) if found else np.empty((0, 2), np.uint64)


def _splits(plan: Plan, new: Scanned, known: _Known) -> Int64[np.ndarray, " n"]:
    """Return where each item goes: to its old split, unless something else is given."""
    codes = extend_splits(
        new.item_ids,
        new.labels,
        seed=plan.seed,
        given=new.given_split,
        split_counts=known.split_counts,
        train_counts=known.train_counts,
    ).astype(np.int64)
    is_given = np.zeros(len(new), bool)
    if new.given_split is not None:
        is_given = new.given_split.is_valid().to_numpy(zero_copy_only=False)
    return np.where((known.row >= 0) & ~is_given, known.split, codes)


def _with_shards(
    plan: Plan,
    update: PlanUpdate,
    source: ItemsSource,
    new: Scanned,
    is_chosen: Bool[np.ndarray, " n"],
    splits: Int64[np.ndarray, " n"],
) -> Plan:
    """Write the chosen items as new shards, behind those that are there."""
    chosen = np.flatnonzero(is_chosen)
    if not len(chosen):
        return plan
    used, file = np.unique(new.source_file[chosen], return_inverse=True)
    num_items = even_shards(len(chosen), plan.shard_rows)
    tables, start = [], 0
    for shard, num in enumerate(num_items, plan.num_shards):
        part = chosen[start : start + num]
        table = items_table(
            shard * plan.shard_rows + np.arange(num),
            item_ids=new.item_ids.take(pa.array(part)),
            source_file=len(plan.items.files) + file[start : start + num],
            source_row=new.source_row[part],
            labels=new.labels[part],
            splits=splits[part],
        )
        tables.append(update.items(shard, table))
        start += num
    files = (*plan.items.files, *(source.files[number] for number in used.tolist()))
    return replace(
        plan,
        items=ItemsSource(files=files),
        shard_items=plan.shard_items + num_items,
        shards=plan.shards + chosen_hashes(source, is_chosen, plan.shard_rows),
        items_tables=plan.items_tables + tuple(tables),
    )


def _with_retired(
    workspace: Storage, plan: Plan, update: PlanUpdate, rows: Int64[np.ndarray, " m"]
) -> Plan:
    if not len(rows):
        return plan
    retired = np.union1d(read_retired(workspace, plan), rows)
    return replace(plan, retired_table=update.retired(retired))


def _with_labels(
    workspace: Storage,
    plan: Plan,
    update: PlanUpdate,
    rows: Int64[np.ndarray, " m"],
    labels: Int[np.ndarray, " m"],
) -> Plan:
    """Write the items tables in which items get another label."""
    tables = list(plan.items_tables)
    shards = rows // plan.shard_rows
    for shard in np.unique(shards).tolist():
        mine = shards == shard
        table = read_items(workspace, plan, shard)
        label = table["label"].to_numpy().copy()
        label[rows[mine] - plan.shard_range(shard)[0]] = labels[mine]
        place = table.column_names.index("label")
        tables[shard] = update.items(shard, table.set_column(place, "label", pa.array(label)))
    return replace(plan, items_tables=tuple(tables))


def _commit(
    plan: Plan,
    update: PlanUpdate,
    labels: pa.Table,
    *,
    come: Int[np.ndarray, " m"] | None = None,
    gone: Int[np.ndarray, " m"],
) -> None:
    """Write the labels with their new counts, and the plan.

    Args:
        plan: the new one, but for the labels.
        update: with its other tables.
        labels: in the schema LABELS.
        come: labels that items have now.
        gone: labels that items had; -1 where there was none.
    """
    counts = labels["count"].to_numpy() - np.bincount(gone[gone >= 0], minlength=len(labels))
    if come is not None:
        counts += np.bincount(come, minlength=len(labels))
    update.commit(replace(plan, labels_table=update.labels(labels, counts)))
