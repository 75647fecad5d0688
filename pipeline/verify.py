"""Check every byte of a cache against its commits and the plan, and name what is wrong.

Cost at 12M items: one read of everything, at the speed of the disk. `python cli.py verify
--repair` then embeds again what is broken, chunk by chunk.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cache.layout import MODALITIES, check_array
from cache.reader import read_items, read_label_emb, read_labels
from cache.storage import Storage
from cache.verify import ShardState, find_orphans, shard_states
from pipeline.progress import Progress
from pipeline.status import index_string
from pipeline.text_table import TextTable
from schemas.errors import CacheBrokenError, CacheIncompleteError, PipelineError
from schemas.plan import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found."""

    states: tuple[ShardState, ...]
    """Of the shards that were looked at."""
    other: tuple[str, ...]
    """What is wrong beside the shards: arrays, plan tables, label embeddings."""
    labels: str
    """`done`, `missing`, or what is wrong with the label embeddings."""
    orphans: tuple[str, ...]
    """Files that killed processes left behind; harmless."""

    @property
    def broken(self) -> list[int]:
        """The shards that claim to be done and are not."""
        return [each.shard for each in self.states if each.state == "broken"]

    @property
    def imported(self) -> list[int]:
        """The broken shards whose embeddings were made elsewhere: embedding cannot mend them."""
        is_any = any(each.is_imported for each in self.states)
        # One whose commit cannot be read may have been imported too.
        return [
            each.shard
            for each in self.states
            if each.state == "broken" and (each.is_imported or (is_any and each.commit is None))
        ]

    @property
    def labels_broken(self) -> bool:
        """Whether the label embeddings claim to be done and are not."""
        return self.labels not in ("done", "missing")

    def _others(self) -> list[str]:
        return [*self.other, *([self.labels] if self.labels_broken else [])]

    def table(self) -> TextTable:
        """Return one row for each finding."""
        rows = [
            (f"shard {s.shard:05d}", "broken", reason) for s in self.states for reason in s.reasons
        ]
        rows += [("workspace", "broken", what) for what in self._others()]
        rows += [("workspace", "left over", name) for name in self.orphans]
        unfinished = [s.shard for s in self.states if s.state in ("missing", "running")]
        num_done = sum(s.state == "done" for s in self.states)
        notes = [f"{num_done} of {len(self.states)} shards are done and whole"]
        if unfinished:
            notes.append(f"not done: {index_string(unfinished)}")
        if self.labels == "missing":
            notes.append("label embeddings are not done")
        return TextTable(
            title="Verify",
            columns=("where", "what", "found"),
            rows=tuple(rows),
            note="\n".join(notes),
            align="left",
        )

    def check(self) -> None:
        """Raise if something is broken.

        Raises: CacheBrokenError.
        """
        found = [f"shard {s.shard}: {s.reason}" for s in self.states if s.state == "broken"]
        found += self._others()
        if found:
            fix = "run `python cli.py verify --repair`: it makes only this again"
            if self.imported:
                fix += f"; shards {index_string(self.imported)} were imported: run the same "
                fix += "`python cli.py import ...` again, which mends just them"
            raise CacheBrokenError(
                f"{len(found)} things are broken: " + "; ".join(found[:3]),
                where="the table above",
                fix=fix,
            )


def verify(workspace: Storage, plan: Plan, shards: Sequence[int]) -> Verification:
    """Read everything and compare it with the commits and the plan.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        shards: positions in the plan.
    Raises: ShardError if the plan has no such shard.
    """
    other = []
    has_arrays = any(name.endswith("zarr.json") for name in workspace.sizes("cache"))
    checks: list[Callable[[], object]] = [lambda: read_labels(workspace, plan)]
    if has_arrays:
        checks += [functools.partial(check_array, workspace, plan, name) for name in MODALITIES]
    for check in checks:
        try:
            check()
        except PipelineError as error:
            other.append(f"{error.where}: {error.what}")
    states = []
    with Progress("verify", len(shards), unit="shard") as progress:
        for state in shard_states(workspace, plan, shards, checksums=True):
            states.append(state)
            try:
                read_items(workspace, plan, state.shard)
            except PipelineError as error:
                other.append(f"{error.where}: {error.what}")
            progress.update(1)
    return Verification(
        states=tuple(states),
        other=tuple(other),
        labels=_labels(workspace, plan),
        orphans=tuple(find_orphans(workspace, plan)),
    )


def _labels(workspace: Storage, plan: Plan) -> str:
    try:
        read_label_emb(workspace, plan)
    except CacheIncompleteError:
        return "missing"
    except PipelineError as error:
        return f"{error.where}: {error.what}"
    return "done"


def remove_orphans(workspace: Storage, found: Verification) -> None:
    """Delete what killed processes left behind."""
    for name in found.orphans:
        workspace.remove(name)
        logger.info("removed %s", workspace.where(name))
