"""Metrics against literal loops, and against numbers counted by hand."""

import math

import numpy as np
import pytest

from pipeline.label_graph import LabelGraph
from pipeline.metrics import measure, neighbors_at_5

# Eight labels on a ring: each one's neighbors are the next two.
RING = LabelGraph(np.array([[(y + 1) % 8, (y + 2) % 8] for y in range(8)]), np.full((8, 2), 0.5))
TOP = np.array(
    [
        [0, 1, 2, 3, 4],  # y = 0 first, both neighbors: 3
        [7, 6, 5, 4, 0],  # y = 0 fifth, none of 1, 2: 1
        [1, 2, 5, 6, 7],  # y = 0 missing, both neighbors: 2
        [3, 4, 5, 6, 7],  # y = 0, nothing: 0
    ]
)
LABELS = np.zeros(4, np.int64)
ALL = np.ones(4, bool)
NLL = np.array([0.1, 2.0, 3.0, 5.0])


def literal_counts(
    top: np.ndarray, labels: np.ndarray, graph: LabelGraph, exclude_true: bool
) -> list[int]:
    """Return |top 5 in ({y} union N(y))| of each item, as set operations."""
    counts = []
    for row, y in zip(top.tolist(), labels.tolist(), strict=True):
        near = set(graph.neighbors[y].tolist())
        if not exclude_true:
            near.add(y)
        counts.append(len(set(row[:5]) & near))
    return counts


def test_top1_and_top5_are_counted_by_hand() -> None:
    """First among five, and anywhere among five."""
    found = measure(TOP, LABELS, ALL, RING, nll=NLL)
    assert (found.num_items, found.top1, found.top5) == (4, 0.25, 0.5)


def test_neighbors_at_5_counts_the_true_label_and_its_neighbors() -> None:
    """Counting y is the reading under which the paper's 4.05 of 5 is consistent."""
    assert neighbors_at_5(TOP, LABELS, RING).tolist() == [3, 1, 2, 0]
    found = measure(TOP, LABELS, ALL, RING, nll=NLL)
    assert found.neighbors_at_5 == 1.5
    assert found.neighbors_at_5_shares == (0.25, 0.25, 0.25, 0.25, 0.0, 0.0)


def test_neighbors_at_5_can_leave_the_true_label_out() -> None:
    """The other reading of the paper, for `--exclude-true`."""
    assert neighbors_at_5(TOP, LABELS, RING, exclude_true=True).tolist() == [2, 0, 2, 0]
    found = measure(TOP, LABELS, ALL, RING, nll=NLL, exclude_true=True)
    assert found.neighbors_at_5 == 1.0
    assert found.neighbors_at_5_shares == (0.5, 0.0, 0.5, 0.0, 0.0, 0.0)
    assert found.top5 == 0.5  # the option touches nothing else


def test_the_neighbors_are_those_of_the_true_label() -> None:
    """The graph is directed: 7 lists 0 as a neighbor, 0 does not list 7."""
    top = np.array([[7, 3, 4, 5, 6], [0, 3, 4, 5, 6]])
    assert neighbors_at_5(top, np.array([0, 7]), RING).tolist() == [0, 1]


def test_items_that_could_not_be_predicted_count_as_errors() -> None:
    """Leaving them out would reward a catalog with many bad images."""
    predicted = np.array([False, True, True, True])
    nll = np.array([np.nan, 2.0, 3.0, 5.0])
    found = measure(TOP, LABELS, predicted, RING, nll=nll)
    assert (found.num_items, found.top1, found.top5) == (4, 0.0, 0.25)
    assert found.neighbors_at_5 == 0.75
    assert found.neighbors_at_5_shares == (0.5, 0.25, 0.25, 0.0, 0.0, 0.0)


def test_nll_is_the_mean_over_predicted_items() -> None:
    """An item without a prediction has no probability to take a logarithm of."""
    assert measure(TOP, LABELS, ALL, RING, nll=NLL).nll == pytest.approx(2.525)
    predicted = np.array([True, False, True, True])
    nll = np.array([0.1, np.nan, 3.0, 5.0])
    assert measure(TOP, LABELS, predicted, RING, nll=nll).nll == pytest.approx(2.7)


def test_a_split_without_any_prediction_scores_zero() -> None:
    """A mean over nothing would only warn and print NaN in the table."""
    found = measure(TOP, LABELS, ~ALL, RING, nll=np.full(4, np.nan))
    assert (found.top1, found.top5, found.neighbors_at_5) == (0.0, 0.0, 0.0)
    assert found.neighbors_at_5_shares == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert math.isnan(found.nll)


def test_predictions_beyond_the_fifth_do_not_count() -> None:
    """`predict` may store more than five; top5 stays top five."""
    top = np.array([[3, 4, 5, 6, 7, 0, 1, 2]])
    found = measure(top, LABELS[:1], ALL[:1], RING, nll=NLL[:1])
    assert (found.top5, found.neighbors_at_5) == (0.0, 0.0)


def test_fewer_than_five_classes_are_measured_on_what_there_is() -> None:
    """With three classes the list has three entries, and five of five is out of reach."""
    graph = LabelGraph(np.array([[1, 2], [0, 2], [0, 1]]), np.full((3, 2), 0.5))
    top = np.array([[0, 1, 2], [2, 1, 0]])
    found = measure(top, np.array([0, 0]), ALL[:2], graph, nll=NLL[:2])
    assert (found.top1, found.top5, found.neighbors_at_5) == (0.5, 1.0, 3.0)
    assert found.neighbors_at_5_shares == (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def test_an_empty_place_in_the_graph_is_no_neighbor() -> None:
    """-1 as an index would be the last class."""
    graph = LabelGraph(np.array([[1, -1], [-1, -1], [0, 1]]), np.full((3, 2), 0.5))
    top = np.array([[2, 1], [2, 1]])
    assert neighbors_at_5(top, np.array([0, 1]), graph).tolist() == [1, 1]
    assert neighbors_at_5(top, np.array([0, 1]), graph, exclude_true=True).tolist() == [1, 0]


@pytest.mark.parametrize("exclude_true", [False, True])
def test_neighbors_at_5_equals_set_operations(exclude_true: bool) -> None:
    """300 random items over 40 labels with 20 neighbors: the paper's shape, in small."""
    rng = np.random.default_rng(0)
    neighbors = np.stack(
        [rng.permutation([j for j in range(40) if j != y])[:20] for y in range(40)]
    )
    graph = LabelGraph(neighbors, np.zeros((40, 20)))
    top = np.stack([rng.permutation(40)[:10] for _ in range(300)])
    labels = rng.integers(0, 40, 300)
    found = neighbors_at_5(top, labels, graph, exclude_true=exclude_true)
    assert found.tolist() == literal_counts(top, labels, graph, exclude_true)
