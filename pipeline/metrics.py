"""How right a classifier is, and how near its mistakes are.

top1, top5       share of items whose label is the first of, or among, the five highest logits
neighbors@5      number of an item's top 5 labels in {y} union N(y), N(y) the 20 nearest labels;
                 its mean, and the share of items with 0..5. The paper's Table 2.
severity         mean distance in the category tree between truth and answer, over the mistakes
hier. dist. @k   mean distance between the truth and the top k labels, over all items
macro-F1         unweighted mean of the classes' F1, over those that occur as truth or answer
head, mid, tail  top1 over the classes with most, medium and fewest train items, a third each of
                 those that have any
zero-shot        top1 and top5 over the classes without a train item
ECE              expected calibration error of the top probability, 15 equal bins, right-closed

An item that could not be predicted (neither modality) counts as an error in top1, top5,
neighbors@5, macro-F1, head, mid, tail and zero-shot; the others are about answers, and it has none.

T held-out items, P predictions each, C classes, K neighbors. DESIGN.md section 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from pipeline.taxonomy import Taxonomy
from schemas.graph import NeighborGraph

TOP = 5
NUM_BINS = 15
HIERARCHICAL_AT = (1, 5, 20)
_NO_ANSWER = -1


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures of one run on one split. None: the labels have no paths, or no train counts given."""

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
    severity: float | None
    """Mean distance of the mistakes, in levels; NaN without a mistake."""
    hierarchical_distances: tuple[float, ...] | None
    """At 1, 5 and 20, in levels."""
    macro_f1: float
    """0..1."""
    group_top1: tuple[float, ...] | None
    """Of head, mid and tail classes; NaN where no item is of such a class."""
    ece: float
    """0..1."""
    nll: float
    """Mean -log p of the true class in nats."""
    zero_shot_top1: float | None = None
    """Of the items of classes without train items; None where there are none."""
    zero_shot_top5: float | None = None
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What each item adds to the metrics, or its mean over seeds; 0 where it has no answer."""

    top1: Float64[np.ndarray, " T"]
    """1 if the label is first."""
    top5: Float64[np.ndarray, " T"]
    """1 if it is among the first five."""
    neighbors_at_5: Float64[np.ndarray, " T"]
    """0..5."""
    mistakes: Float64[np.ndarray, " T"]
    """1 if there is an answer and it is wrong."""
    mistake_distance: Float64[np.ndarray, " T"] | None
    """Of the mistake in the tree, in levels; 0 without one. None without paths."""


def outcomes(
    top_labels: Int[np.ndarray, "T P"],
    labels: Int[np.ndarray, " T"],
    predicted: Bool[np.ndarray, " T"],
    graph: NeighborGraph,
    *,
    taxonomy: Taxonomy | None = None,
    exclude_true: bool = False,
) -> Outcomes:
    """Return what each item adds; arguments as of `measure`."""
    hits = (top_labels[:, :TOP] == labels[:, None]) & predicted[:, None]
    counts = neighbors_at_5(top_labels, labels, graph, exclude_true=exclude_true)
    mistakes = predicted & ~hits[:, 0]
    distance = None if taxonomy is None else taxonomy.distance(top_labels[:, 0], labels) * mistakes
    return Outcomes(
        top1=hits[:, 0].astype(np.float64),
        top5=hits.any(axis=1).astype(np.float64),
        neighbors_at_5=np.where(predicted, counts, 0).astype(np.float64),
        mistakes=mistakes.astype(np.float64),
        mistake_distance=None if distance is None else distance.astype(np.float64),
    )


def measure(
    top_labels: Int[np.ndarray, "T P"],
    labels: Int[np.ndarray, " T"],
    predicted: Bool[np.ndarray, " T"],
    graph: NeighborGraph,
    *,
    confidence: Float[np.ndarray, " T"],
    nll: Float[np.ndarray, " T"],
    taxonomy: Taxonomy | None = None,
    train_counts: Int[np.ndarray, " C"] | None = None,
    exclude_true: bool = False,
) -> Metrics:
    """Compute the metrics of a split.

    Args:
        top_labels: best first; P is 5, more, or C where that is less.
        labels: the truth.
        predicted: False where an item had nothing to predict from.
        graph: the label graph.
        confidence: probability of the first label, read where `predicted`.
        nll: -log p of the true class, read where `predicted`.
        taxonomy: the tree above the labels.
        train_counts: train items of each class.
        exclude_true: do not count the true label itself in neighbors@5.
    """
    found = outcomes(
        top_labels, labels, predicted, graph, taxonomy=taxonomy, exclude_true=exclude_true
    )
    counts = found.neighbors_at_5.astype(np.int64)
    shares = np.bincount(counts, minlength=TOP + 1) / max(len(labels), 1)
    is_right = found.top1 > 0
    answered, truth = top_labels[predicted], labels[predicted]
    is_unseen = np.zeros(len(labels), bool) if train_counts is None else train_counts[labels] == 0
    return Metrics(
        num_items=len(labels),
        top1=float(found.top1.mean()),
        top5=float(found.top5.mean()),
        neighbors_at_5=float(found.neighbors_at_5.mean()),
        neighbors_at_5_shares=tuple(map(float, shares)),
        severity=severity(found),
        hierarchical_distances=None
        if taxonomy is None
        else tuple(hierarchical_distance(answered, truth, taxonomy, k) for k in HIERARCHICAL_AT),
        macro_f1=macro_f1(np.where(predicted, top_labels[:, 0], _NO_ANSWER), labels),
        group_top1=None if train_counts is None else group_top1(is_right, labels, train_counts),
        ece=expected_calibration_error(confidence[predicted], is_right[predicted]),
        nll=_mean(nll[predicted]),
        zero_shot_top1=float(found.top1[is_unseen].mean()) if is_unseen.any() else None,
        zero_shot_top5=float(found.top5[is_unseen].mean()) if is_unseen.any() else None,
    )


def neighbors_at_5(
    top_labels: Int[np.ndarray, "T P"],
    labels: Int[np.ndarray, " T"],
    graph: NeighborGraph,
    *,
    exclude_true: bool = False,
) -> Int[np.ndarray, " T"]:
    """Return, per item, how many of its top 5 labels are the true one or its neighbors."""
    top = top_labels[:, :TOP, None]
    in_range = (top == graph.neighbors[labels][:, None, :]).any(axis=2)
    if not exclude_true:
        in_range |= top[..., 0] == labels[:, None]
    return in_range.sum(axis=1)


def severity(found: Outcomes) -> float | None:
    """Return the mean tree distance of the mistakes; NaN without one, None without paths.

    Source: Bertinetto et al., CVPR 2020, "hierarchical distance of a mistake".
    """
    if found.mistake_distance is None:
        return None
    num_mistakes = found.mistakes.sum()
    return float(found.mistake_distance.sum() / num_mistakes) if num_mistakes else float("nan")


def hierarchical_distance(
    top_labels: Int[np.ndarray, "T P"], labels: Int[np.ndarray, " T"], taxonomy: Taxonomy, k: int
) -> float:
    """Return the mean tree distance between the truth and the top k labels, or all P if fewer.

    Source: Bertinetto et al., CVPR 2020, "average hierarchical distance of top-k".
    """
    return _mean(taxonomy.distance(top_labels[:, :k], labels[:, None]))


def macro_f1(answers: Int[np.ndarray, " T"], labels: Int[np.ndarray, " T"]) -> float:
    """Return the mean F1 over the classes that occur as truth or answer; -1 is no answer."""
    from sklearn.metrics import f1_score  # takes a second to load; not for a run that is reused

    classes = np.union1d(answers, labels)
    return float(
        f1_score(labels, answers, labels=classes[classes >= 0], average="macro", zero_division=0.0)
    )


def group_top1(
    is_right: Bool[np.ndarray, " T"],
    labels: Int[np.ndarray, " T"],
    train_counts: Int[np.ndarray, " C"],
) -> tuple[float, float, float]:
    """Return top1 of the items of head, mid and tail classes.

    Classes with train items are ordered by their number, falling, equal ones by label, and cut in
    three.
    """
    order = np.argsort(-train_counts, kind="stable")[: np.count_nonzero(train_counts)]
    group = np.full(len(train_counts), -1)
    for number, classes in enumerate(np.array_split(order, 3)):
        group[classes] = number
    head, mid, tail = (_mean(is_right[group[labels] == number]) for number in range(3))
    return head, mid, tail


def expected_calibration_error(
    confidence: Float[np.ndarray, " T"], is_right: Bool[np.ndarray, " T"]
) -> float:
    """Return the mean gap between confidence and accuracy over 15 equal bins (i/15, (i+1)/15].

    Source: Guo et al., ICML 2017, eq. 3.
    """
    if not len(confidence):
        return float("nan")
    table = calibration_table(confidence, is_right)
    return float(np.abs(table[:, 1] - table[:, 2]).sum() / len(confidence))


def calibration_table(
    confidence: Float[np.ndarray, " T"], is_right: Bool[np.ndarray, " T"]
) -> Float64[np.ndarray, "15 3"]:
    """Return each bin's number of items, sum of confidences and number of right items."""
    edges = np.arange(1, NUM_BINS) / NUM_BINS
    place = np.searchsorted(edges, confidence.astype(np.float64), side="left")
    columns = (None, confidence, is_right)
    return np.stack([np.bincount(place, each, minlength=NUM_BINS) for each in columns], axis=1)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def evaluate(
    top_labels: Int64[np.ndarray, "T P"],
    top_probs: Float[np.ndarray, "T P"],
    labels: Int64[np.ndarray, " T"],
    graph: NeighborGraph,
    paths: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compute the metrics of predictions that came from anywhere.

    Args:
        top_labels: best first, min(20, C) of them.
        top_probs: their probabilities.
        labels: the truth.
        graph: the label graph.
        paths: of the labels, for distances in the tree.
    Returns: top1, top5, neighbors_at_5_mean, neighbors_at_5_share (6 numbers), severity,
        hier_dist_at_1, hier_dist_at_5, hier_dist_at_20, macro_f1, ece. Distances are None without
        paths; severity is NaN without a mistake.
    """
    found = measure(
        top_labels,
        labels,
        np.ones(len(labels), bool),
        graph,
        confidence=top_probs[:, 0],
        nll=np.zeros(len(labels)),
        taxonomy=None if paths is None else Taxonomy(paths),
    )
    distances = found.hierarchical_distances or (None,) * len(HIERARCHICAL_AT)
    return {
        "top1": found.top1,
        "top5": found.top5,
        "neighbors_at_5_mean": found.neighbors_at_5,
        "neighbors_at_5_share": list(found.neighbors_at_5_shares),
        "severity": found.severity,
        **{f"hier_dist_at_{k}": each for k, each in zip(HIERARCHICAL_AT, distances, strict=True)},
        "macro_f1": found.macro_f1,
        "ece": found.ece,
    }
