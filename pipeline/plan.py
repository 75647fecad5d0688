"""Stage zero: freeze what stage one will do.

Takes a catalog and its labels, writes plan.json, labels.parquet and one items table per shard.
Row order is the catalog's; row i of every later array is item i of the plan, for ever. Cost at
12M items: one pass over ids, titles and paths, half a minute; pictures are not read. Memory is the
same for any number of items (see `plan_draft`).

N items, C labels.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cache.layout import (
    LABELS_TABLE,
    RETIRED_TABLE,
    THE_PLAN,
    chunk_num_bytes,
    items_name,
)
from cache.lease import Lease
from cache.reader import PLAN, read_items, read_plan
from cache.reader import read_labels as read_planned_labels
from cache.storage import Storage
from pipeline.encoder import load_encoder, resolve
from pipeline.items import find_items
from pipeline.labels import labels_sha256, read_labels
from pipeline.locations import absolute
from pipeline.plan_draft import Draft, drafted_items
from pipeline.plan_tables import check_texts, labels_file, look_at_pictures
from pipeline.plan_update import finish
from pipeline.progress import Progress, duration
from pipeline.text_table import TextTable
from schemas.configs import differing_fields, to_dict, to_json
from schemas.errors import (
    CacheCorruptError,
    ConfigError,
    PlanMismatchError,
    PlanNotFoundError,
)
from schemas.plan import Plan
from schemas.tables import SPLITS

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
    check_texts(label_table, label_text, allow_duplicate_names=allow_duplicate_names, path=labels)
    source = find_items(items, items_root)
    look_at_pictures(source)
    encoder_spec = replace(resolve(model, pretrained), decode=decode)
    encoder = load_encoder(encoder_spec, device)
    with drafted_items(source, label_table, shard_rows=shard_rows, seed=seed, limit=limit) as draft:
        labels_bytes = labels_file(label_table, draft.class_counts)
        plan = Plan(
            items=source,
            labels_path=absolute(labels),
            labels_sha256=labels_sha256(label_table),
            label_text=label_text,
            num_labels=len(label_table),
            limit=limit,
            encoder=encoder_spec,
            spec_id=encoder_spec.spec_id(),
            shard_rows=shard_rows,
            chunk_rows=chunk_rows,
            seed=seed,
            shard_items=draft.shard_items,
            shards=draft.shards,
            items_tables=draft.items_tables,
            labels_table=hashlib.sha256(labels_bytes).hexdigest(),
        )
        with Lease(workspace, THE_PLAN):
            finish(workspace)
            is_new = _differs(workspace, plan, force=force)
            if is_new:
                _write(workspace, plan, draft, labels_bytes)
    if num_empty := int((draft.class_counts == 0).sum()):
        logger.warning("%d of %d labels have no items", num_empty, plan.num_labels)
    split_counts = dict(zip(SPLITS, draft.split_counts.tolist(), strict=True))
    for name, num in split_counts.items():
        if not num:
            logger.warning("there are no %s items: `fit` will refuse this plan", name)
    num_chunks = -(-plan.num_items // chunk_rows)
    return PlanReport(
        plan=plan,
        is_new=is_new,
        class_counts=draft.class_counts,
        split_counts=split_counts,
        disk_bytes=2 * num_chunks * chunk_num_bytes(plan) + 200 * plan.num_items,
        free_bytes=workspace.free_bytes(),
        items_per_second=encoder.items_per_second(),
    )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB"


def _check_sizes(shard_rows: int, chunk_rows: int) -> None:
    if chunk_rows < 1 or shard_rows < 1 or shard_rows % chunk_rows:
        raise ConfigError(
            f"shard_rows={shard_rows} is not a multiple of chunk_rows={chunk_rows}",
            where="--shard-rows, --chunk-rows",
            fix="choose --shard-rows as a multiple of --chunk-rows: a shard owns whole chunks",
        )


def _differs(workspace: Storage, plan: Plan, *, force: bool) -> bool:
    """Say whether the plan has to be written; refuse to replace another without `force`."""
    try:
        old = read_plan(workspace)
    except PlanNotFoundError:
        return True
    except ConfigError:  # damaged, or of another version
        if force:
            return True
        raise
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


def _write(workspace: Storage, plan: Plan, draft: Draft, labels_file: bytes) -> None:
    workspace.remove(PLAN)  # not planned until all of it is written
    for stale in [*workspace.sizes("items"), RETIRED_TABLE]:
        workspace.remove(stale)
    with Progress("write items tables", plan.num_items) as progress:
        for shard, num in enumerate(plan.shard_items):
            workspace.write(items_name(shard), draft.items_file(shard))
            progress.update(num)
    workspace.write(LABELS_TABLE, labels_file)
    workspace.write(PLAN, to_json(plan).encode())
