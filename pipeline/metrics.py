"""How right a classifier is, and how near its mistakes are.

top1, top5       share of items whose label is the first of, or among, the five highest logits
neighbors@5      number of an item's top 5 labels in {y} union N(y), N(y) the 20 nearest labels;
                 its mean, and the share of items with 0..5. The paper's Table 2.

An item that could not be predicted (neither modality) counts as an error in each.

T held-out items, P predictions each, C classes, K neighbors. DESIGN.md section 8.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.label_graph import LabelGraph

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures of one run on one split."""

    num_items: int
    """T."""
    top1: float
    """Share, 0..1."""
    top5: float
    """Share, 0..1."""
    neighbors_at_5: float
    """Mean number, 0..5."""
    neighbors_at_5_shares: tuple[float, ...]
    """Share of items with 0, 1, .. 5."""
    nll: float
    """Mean -log p of the true class in nats, over the items that could be predicted."""


def measure(
    top_labels: Int[np.ndarray, "T P"],
    labels: Int[np.ndarray, " T"],
    predicted: Bool[np.ndarray, " T"],
    graph: LabelGraph,
    *,
    nll: Float[np.ndarray, " T"],
    exclude_true: bool = False,
) -> Metrics:
    """Compute the metrics of a split.

    Args:
        top_labels: best first; P is 5, more, or C where that is less.
        labels: the truth.
        predicted: False where an item had nothing to predict from.
        graph: the label graph.
        nll: -log p of the true class, read where `predicted`.
        exclude_true: do not count the true label itself in neighbors@5.
    """
    hits = (top_labels[:, :TOP] == labels[:, None]) & predicted[:, None]
    counts = neighbors_at_5(top_labels, labels, graph, exclude_true=exclude_true)
    counts = np.where(predicted, counts, 0)
    shares = np.bincount(counts, minlength=TOP + 1) / max(len(labels), 1)
    return Metrics(
        num_items=len(labels),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        neighbors_at_5=float(counts.mean()),
        neighbors_at_5_shares=tuple(map(float, shares)),
        nll=float(nll[predicted].mean()) if predicted.any() else float("nan"),
    )


def neighbors_at_5(
    top_labels: Int[np.ndarray, "T P"],
    labels: Int[np.ndarray, " T"],
    graph: LabelGraph,
    *,
    exclude_true: bool = False,
) -> Int[np.ndarray, " T"]:
    """Return, per item, how many of its top 5 labels are the true one or its neighbors."""
    top = top_labels[:, :TOP, None]
    in_range = (top == graph.neighbors[labels][:, None, :]).any(axis=2)
    if not exclude_true:
        in_range |= top[..., 0] == labels[:, None]
    return in_range.sum(axis=1)
