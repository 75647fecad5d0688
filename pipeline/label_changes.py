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
from pipeline.plan_update import PlanChange, PlanUpdate, changing_plan
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
    with changing_plan(workspace) as update:
        plan = read_plan(workspace)
        new = read_labels(path)
        check_texts(new, plan.label_text, allow_duplicate_names=allow_duplicate_names, path=path)
        return _update(workspace, update, plan, new, absolute(path))


def _update(
    workspace: Storage, update: PlanUpdate, plan: Plan, new: pa.Table, path: str
) -> PlanChange:
    old = read_planned_labels(workspace, plan)
    old_ids, new_ids = (each["label_id"].combine_chunks() for each in (old, new))
    number = pc.index_in(old_ids, value_set=new_ids).fill_null(-1).to_numpy().astype(np.int64)
    kept = np.flatnonzero(number >= 0)
    counts = np.zeros(len(new), np.int64)
    counts[number[kept]] = old["count"].to_numpy()[kept]
    before, after = old.take(pa.array(kept)), new.take(pa.array(number[kept]))
    pairs = list(zip(before.to_pylist(), after.to_pylist(), strict=True))
    num_renamed = sum(one["name"] != other["name"] for one, other in pairs)
    num_moved = sum(
        one["name"] == other["name"] and one["path"] != other["path"] for one, other in pairs
    )
    is_changed = labels_sha256(new) != plan.labels_sha256
    tables, unlabeled = _renumbered(workspace, plan, update, old, number)
    data = _unlabeled_csv(workspace, unlabeled, new_ids)
    if is_changed:
        if len(unlabeled) or workspace.size(UNLABELED) is not None:
            update.write(UNLABELED, data)  # with the plan: nobody could make it afterwards
        plan = replace(
            plan,
            labels_path=path,
            labels_sha256=labels_sha256(new),
            num_labels=len(new),
            items_tables=tables,
            labels_table=update.labels(new, counts),
        )
        update.commit(plan)
    note = f"fill in the column label_id of {workspace.where(UNLABELED)} and give it to --relabel"
    return PlanChange(
        plan=plan,
        is_changed=is_changed,
        counts={
            "new labels": len(new) - len(kept),
            "renamed labels": num_renamed,
            "labels at another path": num_moved,
            "removed labels": len(old) - len(kept),
            "labels as they were": len(kept) - num_renamed - num_moved,
            "labels with another number": int((number[kept] != kept).sum()),
            "items that need a new label": len(unlabeled),
        },
        note=note if len(unlabeled) else "",
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


def _unlabeled_csv(workspace: Storage, unlabeled: pa.Table, label_ids: pa.Array) -> bytes:
    """Return the list for people to fill in.

    Of items that had no label before, it keeps what an earlier list says: what they were once, and
    answers that are still labels.
    """
    try:
        options = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in unlabeled.column_names},
            strings_can_be_null=True,
            null_values=[""],
        )
        data = io.BytesIO(workspace.read(UNLABELED))
        earlier = pa.csv.read_csv(data, convert_options=options).select(unlabeled.column_names)
    except (FileNotFoundError, pa.ArrowException, KeyError):
        earlier = unlabeled.slice(0, 0)
    place = pc.index_in(unlabeled["item_id"], value_set=earlier["item_id"].combine_chunks())
    place = pc.if_else(unlabeled["old_label_id"].is_null(), place, None)  # unlabeled before
    for name in ("label_id", *_OLD):
        said = earlier[name].take(place)
        if name == "label_id":
            said = pc.if_else(pc.is_in(said, value_set=label_ids), said, None)
        filled = pc.coalesce(unlabeled[name], said)
        unlabeled = unlabeled.set_column(unlabeled.column_names.index(name), name, filled)
    buffer = io.BytesIO()
    pa.csv.write_csv(unlabeled, buffer)
    return buffer.getvalue()
