"""Let the taxonomy of a planned catalog change: labels come, are renamed, split up or go.

Takes the plan and a new labels file; writes labels, items tables with their labels' new numbers and
the plan. Labels are told by their label_id. The cache of items is not touched; `embed` embeds the
texts that are new, and `neighbors` and `fit` are run again. Cost at 12M items: 1.2 GB read and
written.

C labels before, L labels after.
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from jaxtyping import Int64

from cache.reader import read_items, read_plan, read_retired
from cache.reader import read_labels as read_planned_labels
from cache.storage import Storage
from pipeline.labels import labels_sha256, read_labels
from pipeline.locations import absolute
from pipeline.plan_tables import check_texts
from pipeline.plan_update import PlanChange, PlanUpdate, finish
from pipeline.progress import Progress
from schemas.plan import Plan

UNLABELED = "report/unlabeled.csv"
_OLD = ("old_label_id", "old_name", "old_path")


def update_labels(
    workspace: Storage, path: str | Path, *, allow_duplicate_names: bool = False
) -> PlanChange:
    """Plan with another labels file; items of labels that are gone have none until relabeled.

    They take part in nothing. `report/unlabeled.csv` lists them with what they were, ready to be
    filled in and given to `plan --relabel`.

    Args:
        workspace: a planned one.
        path: the new labels: .csv or .parquet with label_id, name, path.
        allow_duplicate_names: accept labels that share their text.
    Raises: CatalogError if the labels cannot be used; PlanNotFoundError, CacheCorruptError,
        WorkspaceError.
    """
    finish(workspace)
    plan, update = read_plan(workspace), PlanUpdate(workspace)
    old, new = read_planned_labels(workspace, plan), read_labels(path)
    check_texts(new, plan.label_text, allow_duplicate_names=allow_duplicate_names, path=path)
    old_ids, new_ids = (each["label_id"].combine_chunks() for each in (old, new))
    number = pc.index_in(old_ids, value_set=new_ids).fill_null(-1).to_numpy().astype(np.int64)
    is_new = pc.index_in(new_ids, value_set=old_ids).is_null()
    kept = np.flatnonzero(number >= 0)
    counts = np.zeros(len(new), np.int64)
    counts[number[kept]] = old["count"].to_numpy()[kept]
    before, after = (
        old.take(pa.array(kept)).to_pylist(),
        new.take(pa.array(number[kept])).to_pylist(),
    )
    pairs = list(zip(before, after, strict=True))
    num_renamed = sum(one["name"] != other["name"] for one, other in pairs)
    num_moved = sum(
        one["name"] == other["name"] and one["path"] != other["path"] for one, other in pairs
    )
    is_changed = labels_sha256(new) != plan.labels_sha256
    num_unlabeled = 0
    note = ""
    if is_changed:
        tables, unlabeled = _renumbered(workspace, plan, update, old, number)
        num_unlabeled = len(unlabeled)
        update.commit(
            replace(
                plan,
                labels_path=absolute(path),
                labels_sha256=labels_sha256(new),
                num_labels=len(new),
                items_tables=tables,
                labels_table=update.labels(new, counts),
            )
        )
        note = _write_unlabeled(workspace, unlabeled)
    return PlanChange(
        plan=read_plan(workspace),
        is_changed=is_changed,
        counts={
            "new labels": pc.sum(is_new).as_py() or 0,
            "renamed labels": num_renamed,
            "labels at another path": num_moved,
            "removed labels": len(old) - len(kept),
            "labels as they were": len(kept) - num_renamed - num_moved,
            "items that need a new label": num_unlabeled,
        },
        note=note,
    )


def _renumbered(
    workspace: Storage,
    plan: Plan,
    update: PlanUpdate,
    old: pa.Table,
    number: Int64[np.ndarray, " C"],
) -> tuple[tuple[str, ...], pa.Table]:
    """Write items tables with their labels' new numbers.

    Returns: their hashes; the items in the catalog that have no label now, with what they had.
    """
    retired = read_retired(workspace, plan)
    to_new = np.append(number, -1)  # what had none has none
    is_moved = bool((number != np.arange(len(number))).any())
    tables, unlabeled = list(plan.items_tables), []
    with Progress("labels of the items", plan.num_items) as progress:
        for shard in range(plan.num_shards):
            items = read_items(workspace, plan, shard)
            before = items["label"].to_numpy()
            label = to_new[before]
            if is_moved:
                place = items.column_names.index("label")
                changed = items.set_column(place, "label", pa.array(label))
                tables[shard] = update.items(shard, changed)
            lost = np.flatnonzero((label < 0) & ~np.isin(items["row"].to_numpy(), retired))
            was = pa.array(before[lost], mask=before[lost] < 0)
            unlabeled.append(
                pa.table(
                    {
                        "item_id": items["item_id"].take(pa.array(lost)),
                        "label_id": pa.nulls(len(lost), pa.string()),
                        **{
                            name: old[name.removeprefix("old_")].take(was).cast(pa.string())
                            for name in _OLD
                        },
                    }
                )
            )
            progress.update(len(items))
    return tuple(tables), pa.concat_tables(unlabeled)


def _write_unlabeled(workspace: Storage, unlabeled: pa.Table) -> str:
    """Write the list for people to fill in; of items on an older list keep what that says."""
    if not len(unlabeled):
        workspace.remove(UNLABELED)
        return ""
    try:
        options = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in unlabeled.column_names},
            strings_can_be_null=True,
        )
        earlier = pa.csv.read_csv(
            io.BytesIO(workspace.read(UNLABELED)), convert_options=options
        ).select(unlabeled.column_names)
    except (FileNotFoundError, pa.ArrowException, KeyError):
        earlier = unlabeled.slice(0, 0)
    place = pc.index_in(unlabeled["item_id"], value_set=earlier["item_id"].combine_chunks())
    for name in ("label_id", *_OLD):
        filled = pc.coalesce(unlabeled[name], earlier[name].take(place))
        unlabeled = unlabeled.set_column(unlabeled.column_names.index(name), name, filled)
    buffer = io.BytesIO()
    pa.csv.write_csv(unlabeled, buffer)
    workspace.write(UNLABELED, buffer.getvalue())
    return f"fill in the column label_id of {workspace.where(UNLABELED)} and give it to --relabel"
