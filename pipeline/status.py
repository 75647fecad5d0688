"""What a workspace holds: every shard's state, the label embeddings, the graph and the runs."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.reader import labels_state
from cache.verify import ShardState, shard_state
from pipeline.label_graph import read_graph
from pipeline.text_table import TextTable
from schemas.errors import CacheIncompleteError, PipelineError
from schemas.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Status:
    """A workspace as found on disk."""

    shards: tuple[ShardState, ...]
    """In plan order."""
    labels: str
    """`done`, or what is wrong."""
    graph: str
    """`done`, or what is wrong."""
    runs: tuple[str, ...]
    """Names of the finished runs."""

    def counts(self) -> dict[str, int]:
        """Return the number of shards by state."""
        return dict(Counter(shard.state for shard in self.shards))

    def as_dict(self) -> dict[str, Any]:
        """Return for `--json`."""
        return {
            "shards": [
                {"shard": each.shard, "state": each.state, "reason": each.reason}
                for each in self.shards
            ],
            "labels": self.labels,
            "graph": self.graph,
            "runs": list(self.runs),
        }

    def table(self) -> TextTable:
        """Return one row a shard."""
        counts = ", ".join(f"{num} {state}" for state, num in sorted(self.counts().items()))
        notes = [
            f"shards: {counts}",
            f"label embeddings: {self.labels}",
            f"label graph: {self.graph}",
            f"finished runs: {', '.join(self.runs) or 'none'}",
        ]
        return TextTable(
            title="Shards",
            columns=("shard", "state", "items", "images", "titles", "bad", "items/s", "host"),
            rows=tuple(_row(shard) for shard in self.shards),
            note="\n".join(notes),
        )


def read_status(workspace: Path, plan: Plan) -> Status:
    """Look at every commit and file size; no data is read."""
    runs = sorted((workspace / "runs").glob("*/metrics.json"))
    return Status(
        shards=tuple(shard_state(workspace, plan, shard) for shard in range(plan.num_shards)),
        labels=_problem(labels_state, workspace, plan),
        graph=_problem(read_graph, workspace, plan),
        runs=tuple(path.parent.name for path in runs),
    )


def _problem(check: Any, workspace: Path, plan: Plan) -> str:
    try:
        check(workspace, plan)
    except CacheIncompleteError as error:
        return f"missing or stale ({error.what})"
    except PipelineError as error:
        return error.what
    return "done"


def _row(state: ShardState) -> tuple[str, ...]:
    commit = state.commit
    if commit is None:
        what = f"{state.state}: {state.reason}" if state.reason else state.state
        return (f"{state.shard:05d}", what, "", "", "", "", "", "")
    num_rows = commit.stop - commit.start
    return (
        f"{state.shard:05d}",
        state.state,
        f"{num_rows:,}",
        f"{commit.image_ok:,}",
        f"{commit.title_ok:,}",
        f"{commit.num_bad:,}",
        f"{num_rows / max(commit.seconds, 1e-9):,.0f}",
        commit.host,
    )
