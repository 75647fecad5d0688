"""Put a changed plan and its tables in place of the old ones, whole or not at all.

All that changes is written beside first, under pending/, the new plan last. From that moment the
change is decided: whatever interrupts the copying, `finish` ends it. Cost: the changed tables
twice.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Int64

from cache.layout import LABELS_TABLE, RETIRED_TABLE, items_name, parquet_bytes
from cache.reader import PLAN
from cache.storage import Storage
from pipeline.plan_tables import labels_file
from pipeline.text_table import TextTable
from schemas.configs import to_json
from schemas.plan import Plan
from schemas.tables import ITEMS, RETIRED

_PENDING = "pending/"


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


class PlanUpdate:
    """Tables that are about to change; each is written as it comes."""

    def __init__(self, workspace: Storage) -> None:
        """Begin; what an earlier one left undecided is dropped.

        Raises: WorkspaceError if the workspace cannot be written.
        """
        workspace.check_writable()
        self._workspace = workspace
        for name in workspace.sizes(_PENDING):
            workspace.remove(name)

    def items(self, shard: int, table: pa.Table) -> str:
        """Write a shard's items table; return its sha256."""
        return self._write(items_name(shard), parquet_bytes(table.cast(ITEMS)))

    def labels(self, labels: pa.Table, counts: Int[np.ndarray, " C"]) -> str:
        """Write the labels table; return its sha256."""
        return self._write(LABELS_TABLE, labels_file(labels, counts))

    def retired(self, rows: Int64[np.ndarray, " n"]) -> str:
        """Write which rows are retired; return the table's sha256."""
        return self._write(RETIRED_TABLE, parquet_bytes(pa.table({"row": rows}).cast(RETIRED)))

    def commit(self, plan: Plan) -> None:
        """Decide for the new plan, and put everything in its place."""
        self._write(PLAN, to_json(plan).encode())
        finish(self._workspace)

    def _write(self, name: str, data: bytes) -> str:
        self._workspace.write(_PENDING + name, data)
        return hashlib.sha256(data).hexdigest()


def finish(workspace: Storage) -> None:
    """End a change of the plan that was decided and then interrupted, if there is one."""
    if workspace.size(_PENDING + PLAN) is None:
        return
    waiting = [name for name in workspace.sizes(_PENDING) if name != _PENDING + PLAN]
    for name in [*waiting, _PENDING + PLAN]:
        workspace.write(name.removeprefix(_PENDING), workspace.read(name))
    for name in [_PENDING + PLAN, *waiting]:
        workspace.remove(name)
