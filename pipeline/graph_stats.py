"""What a label graph looks like: how near neighbors are, who is listed often, who stands alone.

Takes a graph and the labels table; writes nothing. Cost: a second at 100,000 labels.

C labels, K neighbors, E edges.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64, Shaped

from pipeline.taxonomy import SEPARATOR
from pipeline.text_table import TextTable
from schemas.graph import NeighborGraph

QUANTILES = (0.05, 0.5, 0.95)
_QUANTILE_NAMES = tuple(f"{quantile:.0%}" for quantile in QUANTILES)
_NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class LabelValue:
    """A label and a figure of it."""

    label_id: str
    """As in the catalog."""
    name: str
    """For people."""
    value: float
    """By how many labels it is listed, or the similarity of its nearest neighbor."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the graph agrees with the category tree."""

    share: float
    """Of the edges that stay within a group."""
    by_chance: float
    """The same if each label's neighbors were drawn from all others alike."""


@dataclass(frozen=True, kw_only=True)
class GraphStats:
    """A label graph in figures."""

    num_labels: int
    """C."""
    num_edges: int
    """E."""
    min_neighbors: int
    """Of the label with the fewest."""
    max_neighbors: int
    """Of the label with the most."""
    nearest: tuple[float, ...] | None
    """QUANTILES over labels of the similarity of the nearest neighbor; None without any."""
    last: tuple[float, ...] | None
    """The same of the last neighbor."""
    same_parent: Agreement | None
    """Edges between children of one parent; None if a label has no path."""
    same_branch: Agreement | None
    """Edges below one top-level category; None if a label has no path."""
    hubs: tuple[LabelValue, ...]
    """Labels that the most others list as a neighbor."""
    num_unlisted: int
    """Labels that no other lists."""
    isolated: tuple[LabelValue, ...]
    """Labels whose nearest neighbor is the least similar."""

    def as_dict(self) -> dict[str, Any]:
        """Return for `--json`."""
        found = asdict(self)
        for name in ("nearest", "last"):
            if found[name] is not None:
                found[name] = dict(zip(_QUANTILE_NAMES, found[name], strict=True))
        return found

    def table(self) -> TextTable:
        """Return what a person wants to know before training on the graph."""
        least, most = self.min_neighbors, self.max_neighbors
        rows = [
            ("labels", f"{self.num_labels:,}"),
            ("neighbors a label", f"{least}" if least == most else f"{least} to {most}"),
            ("similarity of the nearest", _quantiles(self.nearest)),
            ("similarity of the last", _quantiles(self.last)),
        ]
        trees = {"same parent": self.same_parent, "same top-level category": self.same_branch}
        rows += [
            (f"neighbors with the {what}", f"{each.share:.1%} (by chance {each.by_chance:.1%})")
            for what, each in trees.items()
            if each is not None
        ]
        unlisted = self.num_unlisted / self.num_labels
        rows += [
            ("listed most often", _listed(self.hubs, ",.0f")),
            ("listed by no other label", f"{self.num_unlisted:,} labels ({unlisted:.1%})"),
            ("most isolated", _listed(self.isolated, ".3f")),
        ]
        return TextTable(
            title="Label graph",
            columns=("", "found"),
            rows=tuple(rows),
            note="in brackets: by how many labels it is listed; the similarity of its nearest",
            align="left",
        )


def graph_stats(graph: NeighborGraph, labels: pa.Table) -> GraphStats:
    """Describe a label graph.

    Args:
        graph: rows may differ in length; edges without a similarity count in all but similarities.
        labels: with label_id, name and path, in order.
    """
    counts, listed = graph.num_neighbors, in_degrees(graph)
    # fmax and fmin look past NaN, and give NaN only where a row has nothing else.
    nearest = np.fmax.reduce(graph.similarities, axis=1, initial=np.nan).astype(np.float64)
    last = np.fmin.reduce(graph.similarities, axis=1, initial=np.nan).astype(np.float64)
    paths = None if labels["path"].null_count else labels["path"].to_pylist()
    by_hub, by_distance = np.argsort(-listed, kind="stable"), np.argsort(nearest, kind="stable")
    num_known = int(np.isfinite(nearest).sum())
    return GraphStats(
        num_labels=graph.num_labels,
        num_edges=int(counts.sum()),
        min_neighbors=int(counts.min()),
        max_neighbors=int(counts.max()),
        nearest=_at_quantiles(nearest),
        last=_at_quantiles(last),
        same_parent=paths and _agreement(graph, [each.rpartition(SEPARATOR)[0] for each in paths]),
        same_branch=paths and _agreement(graph, [each.partition(SEPARATOR)[0] for each in paths]),
        hubs=_named(labels, listed, by_hub[:_NUM_SHOWN]),
        num_unlisted=int((listed == 0).sum()),
        isolated=_named(labels, nearest, by_distance[: min(_NUM_SHOWN, num_known)]),
    )


def in_degrees(graph: NeighborGraph) -> Int64[np.ndarray, " C"]:
    """Return how many labels list each label as a neighbor."""
    return np.bincount(graph.neighbors[graph.neighbors >= 0], minlength=graph.num_labels)


def _agreement(graph: NeighborGraph, groups: Sequence[str]) -> Agreement | None:
    """Compare edges within groups with those that chance would put there."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    label, place = np.nonzero(graph.neighbors >= 0)
    if not len(label):
        return None
    is_within = group[label] == group[graph.neighbors[label, place]]
    by_chance = (sizes[group[label]] - 1) / (graph.num_labels - 1)
    return Agreement(share=float(is_within.mean()), by_chance=float(by_chance.mean()))


def _at_quantiles(values: Float64[np.ndarray, " C"]) -> tuple[float, ...] | None:
    known = values[np.isfinite(values)]
    return tuple(np.quantile(known, QUANTILES).round(6).tolist()) if len(known) else None


def _named(
    labels: pa.Table, values: Shaped[np.ndarray, " C"], chosen: Int64[np.ndarray, " n"]
) -> tuple[LabelValue, ...]:
    rows = labels.select(["label_id", "name"]).take(pa.array(chosen)).to_pylist()
    return tuple(
        LabelValue(label_id=row["label_id"], name=row["name"], value=round(value, 6))
        for row, value in zip(rows, values[chosen].tolist(), strict=True)
    )


def _quantiles(values: tuple[float, ...] | None) -> str:
    if values is None:
        return "not known"
    shown = zip(_QUANTILE_NAMES, values, strict=True)
    return ", ".join(f"{name}: {value:.3f}" for name, value in shown)


def _listed(labels: Sequence[LabelValue], form: str) -> str:
    return ", ".join(f"{each.name} ({each.value:{form}})" for each in labels) or "none"
