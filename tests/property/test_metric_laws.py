"""Laws of the metrics, against loops over items and sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics import Metrics, measure, neighbors_at_5
from schemas.graph import NeighborGraph

LAWS = settings(derandomize=True, deadline=None, max_examples=100)
Case = tuple[np.ndarray, np.ndarray, np.ndarray, NeighborGraph]  # top, labels, predicted


def measured(top: np.ndarray, labels: np.ndarray, *rest: object, **options: object) -> Metrics:
    """Measure where the confidence does not matter."""
    return measure(top, labels, *rest, confidence=np.full(len(labels), 0.5), **options)


@st.composite
def cases(draw: st.DrawFn):
    """Draw a ragged graph, rankings of all labels, the truth, and who was predicted."""
    num_classes, num_items = draw(st.integers(2, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(1, num_classes - 1))
    neighbors = np.stack(
        [rng.permutation([j for j in range(num_classes) if j != y])[:k] for y in range(num_classes)]
    )
    neighbors[rng.integers(0, num_classes), rng.integers(0, k) :] = -1
    width = draw(st.integers(min(5, num_classes), num_classes))
    top = np.stack([rng.permutation(num_classes)[:width] for _ in range(num_items)])
    labels = rng.integers(0, num_classes, num_items)
    predicted = rng.random(num_items) < 0.8
    return top, labels, predicted, NeighborGraph(neighbors, np.zeros_like(neighbors, float))


def literal(
    top: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    graph: NeighborGraph,
    exclude_true: bool,
):
    """Return top1, top5 and the counts of neighbors@5, item by item."""
    first, among, counts = [], [], []
    for row, y, is_predicted in zip(top.tolist(), labels.tolist(), predicted, strict=True):
        five = row[:5] if is_predicted else []
        near = {j for j in graph.neighbors[y].tolist() if j >= 0}
        if not exclude_true:
            near.add(y)
        first.append(bool(five) and five[0] == y)
        among.append(y in five)
        counts.append(len(near.intersection(five)))
    return first, among, counts


@LAWS
@given(case=cases(), exclude_true=st.booleans())
def test_metrics_equal_a_loop_over_items(case: Case, exclude_true: bool) -> None:
    """The tables rest on these numbers; the loop is what their definitions say."""
    top, labels, predicted, graph = case
    first, among, counts = literal(top, labels, predicted, graph, exclude_true)
    nll = np.where(predicted, np.arange(len(labels)) + 0.5, np.nan)
    found = measured(top, labels, predicted, graph, nll=nll, exclude_true=exclude_true)
    num_items = len(labels)
    assert found.num_items == num_items
    assert found.top1 == pytest.approx(sum(first) / num_items)
    assert found.top5 == pytest.approx(sum(among) / num_items)
    assert found.neighbors_at_5 == pytest.approx(sum(counts) / num_items)
    shares = [counts.count(number) / num_items for number in range(6)]
    assert found.neighbors_at_5_shares == pytest.approx(shares)
    if predicted.any():
        values = [i + 0.5 for i in range(num_items) if predicted[i]]
        assert found.nll == pytest.approx(sum(values) / len(values))


@LAWS
@given(case=cases(), data=st.data())
def test_the_order_of_the_items_does_not_matter(case: Case, data: st.DataObject) -> None:
    """Each figure is a mean over items."""
    top, labels, predicted, graph = case
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    nll = np.linspace(0, 3, len(labels))
    one = measured(top, labels, predicted, graph, nll=nll)
    two = measured(top[order], labels[order], predicted[order], graph, nll=nll[order])
    for name in ("num_items", "top1", "top5", "neighbors_at_5", "neighbors_at_5_shares", "nll"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), nan_ok=True)


@LAWS
@given(case=cases())
def test_figures_agree_with_one_another(case: Case) -> None:
    """top1 <= top5 <= neighbors@5 = mean of its shares: no table contradicts itself."""
    top, labels, predicted, graph = case
    found = measured(top, labels, predicted, graph, nll=np.zeros(len(labels)))
    assert found.top1 <= found.top5 <= found.neighbors_at_5 + 1e-12
    assert sum(found.neighbors_at_5_shares) == pytest.approx(1)
    mean = sum(number * share for number, share in enumerate(found.neighbors_at_5_shares))
    assert found.neighbors_at_5 == pytest.approx(mean)


@LAWS
@given(case=cases())
def test_leaving_the_true_label_out_takes_exactly_the_hits(case: Case) -> None:
    """The two readings of neighbors@5 differ by one where y is among the top 5, else not."""
    top, labels, _, graph = case
    hits = [int(y in row[:5]) for row, y in zip(top.tolist(), labels.tolist(), strict=True)]
    with_true = neighbors_at_5(top, labels, graph)
    without = neighbors_at_5(top, labels, graph, exclude_true=True)
    assert (with_true - without).tolist() == hits


@LAWS
@given(case=cases(), data=st.data())
def test_the_order_within_the_top_5_matters_to_top1_only(case: Case, data: st.DataObject) -> None:
    """top5 and neighbors@5 are about sets."""
    top, labels, predicted, graph = case
    width = min(5, top.shape[1])
    order = data.draw(st.permutations(range(width)))
    mixed = np.concatenate([top[:, order], top[:, width:]], axis=1)
    one, two = (
        measured(t, labels, predicted, graph, nll=np.zeros(len(labels))) for t in (top, mixed)
    )
    assert one.top5 == two.top5
    assert one.neighbors_at_5_shares == two.neighbors_at_5_shares
