"""Put a changed plan and its tables in place of the old ones, whole or not at all.

All that changes is written beside first, under pending/, the new plan last. From that moment the
change is decided: whatever interrupts the copying, `finish` ends it. Cost: the changed tables
twice.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Int64

from cache.layout import LABELS_TABLE, RETIRED_TABLE, THE_PLAN, items_name, parquet_bytes
from cache.lease import Lease
from cache.reader import PENDING, PENDING_PLAN, PLAN, read_plan
from cache.storage import Storage
from pipeline.plan_tables import labels_file
from pipeline.text_table import TextTable
from schemas.configs import to_json
from schemas.plan import Plan
from schemas.tables import ITEMS, RETIRED


@dataclass(frozen=True, kw_only=True)
class PlanChange:
    """What became of a plan."""

    plan: Plan
    """As it is now."""
    is_changed: bool
    counts: dict[str, int]
    """Items, or labels, by what happened to them."""
    shards: range = range(0)
    """New ones, to be embedded."""
    note: str = ""

    def table(self) -> TextTable:
        """Return the counts."""
        return TextTable(
            title="Plan changed" if self.is_changed else "Plan (unchanged)",
            columns=("", "number"),
            rows=tuple((what, f"{num:,}") for what, num in self.counts.items()),
            note=self.note,
        )


@contextlib.contextmanager
def changing_plan(workspace: Storage) -> Iterator["PlanUpdate"]:
    """Hold the plan's lease and give what collects a change; end an interrupted one first.

    Raises: LeaseError if somebody else changes the plan; WorkspaceError if the workspace cannot be
        written; PlanNotFoundError if it has no plan.
    """
    if workspace.size(PENDING_PLAN) is None:
        read_plan(workspace)  # a folder that is none is left as it is
    workspace.check_writable()
    with Lease(workspace, THE_PLAN) as lease:
        finish(workspace)
        for name in workspace.sizes(PENDING):
            workspace.remove(name)
        yield PlanUpdate(workspace, lease)


class PlanUpdate:
    """Tables that are about to change, each written as it comes; see `changing_plan`."""

    def __init__(self, workspace: Storage, lease: Lease) -> None:
        """Name the workspace and the lease of its plan, which is held."""
        self._workspace, self._lease = workspace, lease

    def items(self, shard: int, table: pa.Table) -> str:
        """Write a shard's items table; return its sha256."""
        return self.write(items_name(shard), parquet_bytes(table.cast(ITEMS)))

    def labels(self, labels: pa.Table, counts: Int[np.ndarray, " C"]) -> str:
        """Write the labels table; return its sha256."""
        return self.write(LABELS_TABLE, labels_file(labels, counts))

    def retired(self, rows: Int64[np.ndarray, " n"]) -> str:
        """Write which rows are retired; return the table's sha256."""
        return self.write(RETIRED_TABLE, parquet_bytes(pa.table({"row": rows}).cast(RETIRED)))

    def commit(self, plan: Plan) -> None:
        """Decide for the new plan, and put everything in its place."""
        self.write(PLAN, to_json(plan).encode())
        finish(self._workspace)

    def write(self, name: str, data: bytes) -> str:
        """Write any other file that is to change with the plan; return its sha256."""
        self._workspace.write(PENDING + name, data, check=self._lease.check)
        return hashlib.sha256(data).hexdigest()


def finish(workspace: Storage) -> None:
    """End a change of the plan that was decided and then interrupted, if there is one."""
    if workspace.size(PENDING_PLAN) is None:
        return
    waiting = [name for name in workspace.sizes(PENDING) if name != PENDING_PLAN]
    for name in [*waiting, PENDING_PLAN]:
        workspace.write(name.removeprefix(PENDING), workspace.read(name))
    for name in [PENDING_PLAN, *waiting]:
        workspace.remove(name)
