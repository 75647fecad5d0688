"""What a workspace holds: every shard's state, the label embeddings, the graph and the runs."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cache.reader import labels_state, read_retired
from cache.storage import Storage
from cache.verify import ShardState, shard_states
from pipeline.label_codes import codes_names, read_codes
from pipeline.label_graph import read_graph
from pipeline.progress import duration
from pipeline.text_table import TextTable
from schemas.errors import CacheIncompleteError, PipelineError
from schemas.plan import Plan

_MOST_ROWS = 40

RUN_COMMIT = "commit.json"


@dataclass(frozen=True, kw_only=True)
class Status:
    """A workspace as found."""

    shards: tuple[ShardState, ...]
    """In plan order."""
    labels: str
    """`done`, or what is wrong."""
    graph: str
    """`done`, or what is wrong."""
    codes: dict[str, str]
    """Of each that there are, `done` or what is wrong."""
    runs: tuple[str, ...]
    """Names of the finished runs."""
    num_rows: tuple[int, ...]
    """Items of each shard."""
    num_retired: int
    """Items that are no longer in the catalog."""

    def counts(self) -> dict[str, int]:
        """Return the number of shards by state."""
        return dict(Counter(shard.state for shard in self.shards))

    def bad_rows(self) -> dict[str, int]:
        """Return how often each kind of error occurs, over the shards that are done."""
        total: Counter[str] = Counter()
        for each in self.shards:
            if each.commit is not None:
                total.update(each.commit.reasons)
        return dict(total.most_common())

    def missing(self) -> list[int]:
        """Return the shards that nobody has made or is making."""
        return [each.shard for each in self.shards if each.state in ("missing", "broken")]

    def items_per_second(self) -> float | None:
        """Return the mean rate at which one process made the shards that are done."""
        commits = [each.commit for each in self.shards if each.commit is not None]
        seconds = sum(commit.seconds for commit in commits)
        items = sum(commit.stop - commit.start for commit in commits)
        return items / seconds if seconds > 0 else None

    def seconds_left(self) -> float | None:
        """Return the time to go at the mean rate, as many processes at work as hold a lease.

        What a running shard has done already is not counted as done, so it may take less.
        """
        rate, counts = self.items_per_second(), self.counts()
        if rate is None or counts.get("done") == len(self.shards):
            return None if rate is None else 0.0
        open_items = sum(
            num
            for each, num in zip(self.shards, self.num_rows, strict=True)
            if each.state != "done"
        )
        return open_items / rate / max(counts.get("running", 0), 1)

    def as_dict(self) -> dict[str, Any]:
        """Return for `--json`."""
        return {
            "counts": self.counts(),
            "items_per_second": self.items_per_second(),
            "seconds_left": self.seconds_left(),
            "bad_rows": self.bad_rows(),
            "missing": self.missing(),
            "shards": [
                {
                    "shard": each.shard,
                    "state": each.state,
                    "reasons": list(each.reasons),
                    "holder": str(each.holder) if each.holder else None,
                    "held_seconds": _age(each),
                    "chunks_done": each.chunks_done,
                }
                for each in self.shards
            ],
            "labels": self.labels,
            "graph": self.graph,
            "codes": self.codes,
            "runs": list(self.runs),
            "retired": self.num_retired,
        }

    def table(self) -> TextTable:
        """Return one row a shard; of many shards only those that are not done."""
        shown = [
            (each, num_rows)
            for each, num_rows in zip(self.shards, self.num_rows, strict=True)
            if len(self.shards) <= _MOST_ROWS or each.state != "done"
        ]
        counts = ", ".join(f"{num} {state}" for state, num in sorted(self.counts().items()))
        notes = [f"shards: {counts}"]
        if (rate := self.items_per_second()) is not None:
            left = self.seconds_left() or 0.0
            running = max(self.counts().get("running", 0), 1)
            ahead = f"; about {duration(left)} left for {running} processes" if left else ""
            notes.append(f"rate: {rate:,.0f} items/s a process{ahead}")
        bad = ", ".join(f"{num:,} {reason}" for reason, num in self.bad_rows().items())
        if self.num_retired:
            notes.append(f"retired items: {self.num_retired:,} of {sum(self.num_rows):,}")
        notes += [
            f"bad rows: {bad or 'none'}",
            f"label embeddings: {self.labels}",
            f"label graph: {self.graph}",
            *(f"label codes {name}: {state}" for name, state in self.codes.items()),
            f"finished runs: {', '.join(self.runs) or 'none'}",
        ]
        return TextTable(
            title="Shards",
            columns=("shard", "state", "items", "images", "titles", "bad", "items/s", "host"),
            rows=tuple(_row(*each) for each in shown),
            note="\n".join(notes),
        )


def read_status(workspace: Storage, plan: Plan) -> Status:
    """Look at every commit, lease and file size; no data is read."""
    ranges = map(plan.shard_range, range(plan.num_shards))
    return Status(
        shards=tuple(shard_states(workspace, plan, range(plan.num_shards))),
        labels=_problem(labels_state, workspace, plan),
        graph=_problem(read_graph, workspace, plan),
        codes={
            name: _problem(partial(read_codes, name=name), workspace, plan)
            for name in codes_names(workspace)
        },
        runs=finished_runs(workspace),
        num_rows=tuple(stop - start for start, stop in ranges),
        num_retired=len(read_retired(workspace, plan)),
    )


def finished_runs(workspace: Storage) -> tuple[str, ...]:
    """Return the names of the runs that are finished, in order."""
    files = workspace.sizes("runs")
    return tuple(sorted(name.split("/")[-2] for name in files if name.endswith(f"/{RUN_COMMIT}")))


def index_string(shards: Sequence[int]) -> str:
    """Write numbers as a job array takes them: 0-3,7,9-10."""
    parts: list[list[int]] = []
    for shard in shards:
        if parts and parts[-1][1] == shard - 1:
            parts[-1][1] = shard
        else:
            parts.append([shard, shard])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def array_blocks(shards: Sequence[int], size: int) -> list[tuple[int, list[int]]]:
    """Divide shards among job arrays whose indices are below a size: offsets and indices."""
    blocks: dict[int, list[int]] = {}
    for shard in shards:
        blocks.setdefault(shard // size * size, []).append(shard % size)
    return list(blocks.items())


def _problem(check: Any, workspace: Storage, plan: Plan) -> str:
    try:
        check(workspace, plan)
    except CacheIncompleteError as error:
        return f"missing or stale ({error.what})"
    except PipelineError as error:
        return error.what
    return "done"


def _age(state: ShardState) -> float | None:
    """Return for how long a running shard's lease has been held, by the holder's clock."""
    return max(0.0, time.time() - state.holder.taken) if state.holder else None


def _row(state: ShardState, num_rows: int) -> tuple[str, ...]:
    commit = state.commit
    if commit is None:
        what = f"{state.state}: {state.reason}" if state.reasons else state.state
        if state.holder:
            what = f"running for {duration(_age(state) or 0.0)}"
        if state.chunks_done:
            what += f" ({state.chunks_done} chunks done)"
        host = f"{state.holder.host} ({state.holder.pid})" if state.holder else ""
        return (f"{state.shard:05d}", what, f"{num_rows:,}", "", "", "", "", host)
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
