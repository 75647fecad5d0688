"""Make a planned workspace of any size without a catalog: plan, items and labels tables."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.layout import LABELS_TABLE, items_name, parquet_bytes
from cache.reader import PLAN
from cache.storage import LocalStorage
from pipeline.splits import assign_splits
from schemas.configs import to_json
from schemas.plan import EncoderSpec, ItemsSource, Plan, Preprocess, even_shards
from schemas.tables import ITEMS, LABELS, ROWS, SPLITS

NUM_LABELS = 100


def make_workspace(
    workspace: LocalStorage,
    num_items: int,
    embed_dim: int = 512,
    *,
    labels: pa.Table | None = None,
    item_labels: np.ndarray | None = None,
) -> Plan:
    """Write a plan with its items and labels tables, without a catalog behind it.

    Args:
        workspace: an empty one.
        num_items: N.
        embed_dim: D.
        labels: label_id, name and path; 100 made-up ones if None.
        item_labels: of the items, which are then split; label row % 100, all train, if None.
    """
    if labels is None:
        names = [f"Thing {label}" for label in range(NUM_LABELS)]
        labels = pa.table({"label_id": names, "name": names, "path": names})
    splits = np.zeros(num_items, np.int8)
    if item_labels is None:
        item_labels = np.arange(num_items) % len(labels)
    else:
        splits = assign_splits(pa.array(item_ids(np.arange(num_items))), item_labels, seed=0)
    spec = EncoderSpec(
        model="benchmark",
        pretrained="",
        weights_path="",
        weights_sha256="0" * 64,
        architecture={"embed_dim": embed_dim},
        preprocess=Preprocess(
            size=(224, 224),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            resize_mode="shortest",
            fill_color=0,
        ),
        tokenizer="none",
        embed_dim=embed_dim,
    )
    num_shards = -(-num_items // Plan.shard_rows)
    plan = Plan(
        items=ItemsSource(files=()),
        labels_path="labels.csv",
        labels_sha256="0" * 64,
        label_text="name",
        num_labels=len(labels),
        limit=None,
        encoder=spec,
        spec_id=spec.spec_id(),
        shard_items=even_shards(num_items, Plan.shard_rows),
        shards=tuple(hashlib.sha256(b"%d" % shard).hexdigest() for shard in range(num_shards)),
        items_tables=("",) * num_shards,
        labels_table="",
    )
    files = {
        items_name(shard): _items(plan, shard, item_labels, splits) for shard in range(num_shards)
    }
    counts = np.bincount(item_labels, minlength=len(labels))
    columns = {name: labels[name] for name in ("label_id", "name", "path")}
    table = pa.table({"label": np.arange(len(labels)), **columns, "count": counts})
    files[LABELS_TABLE] = parquet_bytes(table.cast(LABELS))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    tables = tuple(digests[items_name(shard)] for shard in range(num_shards))
    plan = replace(plan, items_tables=tables, labels_table=digests[LABELS_TABLE])
    for name, data in {**files, PLAN: to_json(plan).encode()}.items():
        workspace.write(name, data)
    return plan


def _items(plan: Plan, shard: int, item_labels: np.ndarray, splits: np.ndarray) -> bytes:
    rows = np.arange(*plan.shard_range(shard))
    columns = {
        "row": rows,
        "item_id": item_ids(rows),
        "source_file": np.zeros(len(rows), int),
        "source_row": rows,
        "label": item_labels[rows],
        "split": np.array(SPLITS)[splits[rows]],
    }
    return parquet_bytes(pa.table(columns).cast(ITEMS))


def embedded_rows(start: int, stop: int) -> pa.Table:
    """Return the rows table of items that have both embeddings."""
    num_rows, rows = stop - start, np.arange(start, stop)
    columns = {
        "row": rows,
        "item_id": item_ids(rows),
        "image_ok": np.ones(num_rows, bool),
        "title_ok": np.ones(num_rows, bool),
        **{name: pa.nulls(num_rows, ROWS.field(name).type) for name in ROWS.names[4:]},
    }
    return pa.table(columns, schema=ROWS)


def item_ids(rows: np.ndarray) -> list[str]:
    """Return ids of one length, which stand in any order of files as they do in the plan."""
    return [f"item-{row:012d}" for row in rows]
