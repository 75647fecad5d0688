"""Let a planned catalog change: items come, change and go; the cache of the others stays.

Takes the plan and a catalog of new and changed items, or a list of ids; writes new shards of items,
the list of retired rows and the plan. A committed shard is never touched: an item whose picture or
title changed gets a new row and its old row is retired. Cost at 12M items: a pass over their ids
(1.2 GB), and over the pictures of items that are given again. Memory grows with the number of items
that are given, not with the plan's.

n items given, C labels.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Int64, Shaped

from cache.reader import read_items, read_labels, read_plan, read_retired
from cache.storage import Storage
from pipeline.item_lists import read_item_list, refuse_unknown
from pipeline.items import find_items
from pipeline.plan_tables import (
    Scanned,
    chosen_hashes,
    items_table,
    look_at_pictures,
    scan_catalog,
)
from pipeline.plan_update import PlanChange, PlanUpdate, changing_plan
from pipeline.progress import Progress
from pipeline.same_content import have_same_content
from pipeline.splits import TRAIN, extend_splits
from schemas.errors import CatalogError
from schemas.plan import ItemsSource, Plan, even_shards
from schemas.tables import SPLITS

logger = logging.getLogger(__name__)


def append_items(
    workspace: Storage, items: str | Path, items_root: str | Path | None = None
) -> PlanChange:
    """Add new items, and new versions of changed ones, as new shards.

    An item that is given again as it was stays where it is, with the label given now. New items go
    to val and test in the shares that these have of the catalog, others stay in their split; a
    column `split` has the last word. Ids, labels and places of the items given are in memory.

    Args:
        workspace: a planned one.
        items: catalog file or folder.
        items_root: folder of relative image paths; None for the items' folder.
    Raises: PlanNotFoundError, CatalogError, CacheCorruptError, LeaseError, WorkspaceError.
    """
    with changing_plan(workspace) as update:
        return _append(workspace, update, find_items(items, items_root))


def _append(workspace: Storage, update: PlanUpdate, source: ItemsSource) -> PlanChange:
    plan = read_plan(workspace)
    labels = read_labels(workspace, plan)
    look_at_pictures(source)
    new = scan_catalog(source, labels)
    known = _look_up(workspace, plan, new.item_ids)
    is_known = known.row >= 0
    is_same = is_known.copy()
    is_same[is_known] = have_same_content(
        workspace, plan, source, _places(new, is_known), known.row[is_known]
    )
    is_changed = is_known & ~is_same
    is_relabeled = is_same & (known.label != new.labels)
    splits, is_given = _splits(plan, new, known)
    is_moved = is_same & is_given & (known.split != splits)
    # Where a file was replaced in place, nobody could mend a damaged row of it any more.
    is_replaced = is_same & np.isin(known.source_file, _replaced_files(plan, source))
    first = plan.num_shards
    plan, file = _with_files(plan, source, new.source_file[~is_same | is_replaced])
    plan = _with_shards(plan, update, source, new, ~is_same, file, splits)
    plan = _with_retired(workspace, plan, update, known.row[is_changed])
    is_other = is_relabeled | is_moved | is_replaced
    columns = {
        "label": new.labels,
        "split": np.array(SPLITS, object)[np.where(is_moved, splits, known.split)],
        "source_file": np.where(is_replaced, file[new.source_file], known.source_file),
        "source_row": np.where(is_replaced, new.source_row, known.source_row),
    }
    plan = _with_columns(
        workspace,
        plan,
        update,
        known.row[is_other],
        {name: values[is_other] for name, values in columns.items()},
    )
    is_any = ~is_same | is_other
    if is_any.any():
        _commit(plan, update, labels, come=new.labels[is_any], gone=known.label[is_any])
    return PlanChange(
        plan=plan,
        is_changed=bool(is_any.any()),
        counts={
            "new items": int((~is_known).sum()),
            "changed items, their old rows retired": int(is_changed.sum()),
            "items with another label": int(is_relabeled.sum()),
            "items in another split": int(is_moved.sum()),
            "items as they were": int((is_same & ~is_relabeled & ~is_moved).sum()),
        },
        shards=range(first, plan.num_shards),
    )


def delete_items(workspace: Storage, path: str | Path) -> PlanChange:
    """Retire items: their rows stay in the cache, and no reader takes them any more.

    Args:
        workspace: a planned one.
        path: .csv or .parquet with a column item_id, or .txt with one a line.
    Raises: CatalogError if an id is unknown; PlanNotFoundError, CacheCorruptError, LeaseError,
        WorkspaceError.
    """
    with changing_plan(workspace) as update:
        plan = read_plan(workspace)
        ids = read_item_list(path, "--delete", ["item_id"])["item_id"].combine_chunks()
        known = _look_up(workspace, plan, ids)
        is_here = known.row >= 0
        refuse_unknown(ids.filter(pa.array(~is_here & ~known.was_retired)), path)
        if is_here.any():
            _warn_of_empty_splits(known)
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
        LeaseError, WorkspaceError.
    """
    with changing_plan(workspace) as update:
        plan = read_plan(workspace)
        labels = read_labels(workspace, plan)
        given = read_item_list(path, "--relabel", ["item_id", "label_id"])
        num_blank = given["label_id"].null_count
        given = given.filter(given["label_id"].is_valid())
        label = pc.index_in(given["label_id"], value_set=labels["label_id"].combine_chunks())
        if label.null_count:
            unknown = pc.unique(given["label_id"].filter(label.is_null())).to_pylist()
            raise CatalogError(
                f"{len(unknown)} label ids are not in the labels: "
                + ", ".join(map(repr, unknown[:3])),
                where=str(path),
                fix="correct these rows, or add the labels with "
                "`python cli.py plan --update-labels`",
            )
        ids, wanted = given["item_id"].combine_chunks(), label.to_numpy().astype(np.int64)
        known = _look_up(workspace, plan, ids)
        refuse_unknown(ids.filter(pa.array(known.row < 0)), path)
        is_other = known.label != wanted
        if is_other.any():
            columns = {"label": wanted[is_other]}
            plan = _with_columns(workspace, plan, update, known.row[is_other], columns)
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
    source_file: Int64[np.ndarray, " n"]
    """Position in the plan's files."""
    source_row: Int64[np.ndarray, " n"]
    """Within that file."""
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
        source_file=np.full(len(ids), -1),
        source_row=np.full(len(ids), -1),
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
            known.source_file[place[hit]] = table["source_file"].to_numpy()[hit]
            known.source_row[place[hit]] = table["source_row"].to_numpy()[hit]
            progress.update(len(table))
    return known


def _places(
    new: Scanned, mask: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    return new.source_file[mask], new.source_row[mask]


def _splits(
    plan: Plan, new: Scanned, known: _Known
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return where each item goes, to its old split unless another is given; and if it is."""
    codes = extend_splits(
        new.item_ids,
        new.labels,
        seed=plan.seed,
        given=new.given_split,
        split_counts=known.split_counts,
        train_counts=known.train_counts,
    ).astype(np.int64)
    is_given = new.given_split.is_valid().to_numpy(zero_copy_only=False)
    return np.where((known.row >= 0) & ~is_given, known.split, codes), is_given


def _warn_of_empty_splits(known: _Known) -> None:
    """Say so if the items that go are all of a split."""
    going = np.bincount(known.split[known.row >= 0], minlength=len(SPLITS))
    for name, num, num_going in zip(SPLITS, known.split_counts, going, strict=True):
        if num == num_going > 0:
            logger.warning("no %s items are left: `fit` will refuse this plan", name)


def _replaced_files(plan: Plan, source: ItemsSource) -> list[int]:
    """Return the plan's files that are no more: another stands under the same name."""
    given = {file.path: file.sha256 for file in source.files}
    return [
        number
        for number, file in enumerate(plan.items.files)
        if given.get(file.path, file.sha256) != file.sha256
    ]


def _with_files(
    plan: Plan, source: ItemsSource, used: Int[np.ndarray, " m"]
) -> tuple[Plan, Int64[np.ndarray, " F"]]:
    """Add the files that are used; return where each file of the source is among the plan's."""
    numbers = np.unique(used)
    file = np.full(len(source.files), -1)
    file[numbers] = len(plan.items.files) + np.arange(len(numbers))
    files = (*plan.items.files, *(source.files[number] for number in numbers.tolist()))
    return replace(plan, items=ItemsSource(files=files)), file


def _with_shards(
    plan: Plan,
    update: PlanUpdate,
    source: ItemsSource,
    new: Scanned,
    is_chosen: Bool[np.ndarray, " n"],
    file: Int64[np.ndarray, " F"],
    splits: Int64[np.ndarray, " n"],
) -> Plan:
    """Write the chosen items as new shards, behind those that are there."""
    chosen = np.flatnonzero(is_chosen)
    if not len(chosen):
        return plan
    num_items = even_shards(len(chosen), plan.shard_rows)
    tables, start = [], 0
    for shard, num in enumerate(num_items, plan.num_shards):
        part = chosen[start : start + num]
        table = items_table(
            shard * plan.shard_rows + np.arange(num),
            item_ids=new.item_ids.take(pa.array(part)),
            source_file=file[new.source_file[part]],
            source_row=new.source_row[part],
            labels=new.labels[part],
            splits=splits[part],
        )
        tables.append(update.items(shard, table))
        start += num
    return replace(
        plan,
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


def _with_columns(
    workspace: Storage,
    plan: Plan,
    update: PlanUpdate,
    rows: Int64[np.ndarray, " m"],
    columns: dict[str, Shaped[np.ndarray, " m"]],
) -> Plan:
    """Write the items tables in which some rows get other values."""
    tables = list(plan.items_tables)
    shards = rows // plan.shard_rows
    for shard in np.unique(shards).tolist():
        mine = shards == shard
        table = read_items(workspace, plan, shard)
        for name, values in columns.items():
            column = table[name].to_numpy().copy()
            column[rows[mine] - plan.shard_range(shard)[0]] = values[mine]
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.array(column, table.schema.field(name).type))
        tables[shard] = update.items(shard, table)
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
