"""Metrics against literal loops, and against numbers counted by hand."""

import math

import numpy as np
import pytest

from pipeline.metrics import (
    Metrics,
    calibration_table,
    evaluate,
    expected_calibration_error,
    group_top1,
    macro_f1,
    measure,
    neighbors_at_5,
)
from pipeline.taxonomy import Taxonomy
from schemas.errors import CatalogError
from schemas.graph import NeighborGraph

# Eight labels on a ring: each one's neighbors are the next two.
RING = NeighborGraph(np.array([[(y + 1) % 8, (y + 2) % 8] for y in range(8)]), np.full((8, 2), 0.5))
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


def measured(top: np.ndarray, labels: np.ndarray, *rest: object, **options: object) -> Metrics:
    """Measure where the confidence does not matter."""
    return measure(top, labels, *rest, confidence=np.full(len(labels), 0.5), **options)


def literal_counts(
    top: np.ndarray, labels: np.ndarray, graph: NeighborGraph, exclude_true: bool
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
    found = measured(TOP, LABELS, ALL, RING, nll=NLL)
    assert (found.num_items, found.top1, found.top5) == (4, 0.25, 0.5)


def test_neighbors_at_5_counts_the_true_label_and_its_neighbors() -> None:
    """Counting y is the reading under which the paper's 4.05 of 5 is consistent."""
    assert neighbors_at_5(TOP, LABELS, RING).tolist() == [3, 1, 2, 0]
    found = measured(TOP, LABELS, ALL, RING, nll=NLL)
    assert found.neighbors_at_5 == 1.5
    assert found.neighbors_at_5_shares == (0.25, 0.25, 0.25, 0.25, 0.0, 0.0)


def test_neighbors_at_5_can_leave_the_true_label_out() -> None:
    """The other reading of the paper, for `--exclude-true`."""
    assert neighbors_at_5(TOP, LABELS, RING, exclude_true=True).tolist() == [2, 0, 2, 0]
    found = measured(TOP, LABELS, ALL, RING, nll=NLL, exclude_true=True)
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
    found = measured(TOP, LABELS, predicted, RING, nll=nll)
    assert (found.num_items, found.top1, found.top5) == (4, 0.0, 0.25)
    assert found.neighbors_at_5 == 0.75
    assert found.neighbors_at_5_shares == (0.5, 0.25, 0.25, 0.0, 0.0, 0.0)


def test_nll_is_the_mean_over_predicted_items() -> None:
    """An item without a prediction has no probability to take a logarithm of."""
    assert measured(TOP, LABELS, ALL, RING, nll=NLL).nll == pytest.approx(2.525)
    predicted = np.array([True, False, True, True])
    nll = np.array([0.1, np.nan, 3.0, 5.0])
    assert measured(TOP, LABELS, predicted, RING, nll=nll).nll == pytest.approx(2.7)


def test_a_split_without_any_prediction_scores_zero() -> None:
    """A mean over nothing would only warn and print NaN in the table."""
    found = measured(TOP, LABELS, ~ALL, RING, nll=np.full(4, np.nan))
    assert (found.top1, found.top5, found.neighbors_at_5) == (0.0, 0.0, 0.0)
    assert found.neighbors_at_5_shares == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert math.isnan(found.nll)


def test_predictions_beyond_the_fifth_do_not_count() -> None:
    """`predict` may store more than five; top5 stays top five."""
    top = np.array([[3, 4, 5, 6, 7, 0, 1, 2]])
    found = measured(top, LABELS[:1], ALL[:1], RING, nll=NLL[:1])
    assert (found.top5, found.neighbors_at_5) == (0.0, 0.0)


def test_fewer_than_five_classes_are_measured_on_what_there_is() -> None:
    """With three classes the list has three entries, and five of five is out of reach."""
    graph = NeighborGraph(np.array([[1, 2], [0, 2], [0, 1]]), np.full((3, 2), 0.5))
    top = np.array([[0, 1, 2], [2, 1, 0]])
    found = measured(top, np.array([0, 0]), ALL[:2], graph, nll=NLL[:2])
    assert (found.top1, found.top5, found.neighbors_at_5) == (0.5, 1.0, 3.0)
    assert found.neighbors_at_5_shares == (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def test_an_empty_place_in_the_graph_is_no_neighbor() -> None:
    """-1 as an index would be the last class."""
    graph = NeighborGraph(np.array([[1, -1], [-1, -1], [0, 1]]), np.full((3, 2), 0.5))
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
    graph = NeighborGraph(neighbors, np.zeros((40, 20)))
    top = np.stack([rng.permutation(40)[:10] for _ in range(300)])
    labels = rng.integers(0, 40, 300)
    found = neighbors_at_5(top, labels, graph, exclude_true=exclude_true)
    assert found.tolist() == literal_counts(top, labels, graph, exclude_true)


# Two shelves of two labels each, one of them deeper.
PATHS = ["A > a", "A > b", "B > c", "B > D > d"]
PAIRS = NeighborGraph(np.array([[1], [0], [3], [2]]), np.full((4, 1), 0.5))


def literal_distance(a: str, b: str) -> int:
    """Count the levels of the longer path below the names that both begin with."""
    one, other = a.split(" > "), b.split(" > ")
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return max(len(one), len(other)) - shared


def test_distances_are_counted_by_hand() -> None:
    """The mistake weighs as much as the walk up from the deeper label."""
    top = np.array([[0, 1, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0]])
    labels = np.array([0, 0, 2])
    found = evaluate(top, np.full((3, 4), 0.25), labels, PAIRS, PATHS)
    distances = [
        [literal_distance(PATHS[y], PATHS[j]) for j in row]
        for row, y in zip(top, labels, strict=True)
    ]
    assert distances == [[0, 1, 2, 3], [2, 3, 0, 1], [2, 0, 2, 2]]
    assert found["severity"] == 2.0  # items 2 and 3 are wrong
    assert found["hier_dist_at_1"] == pytest.approx(4 / 3)
    assert found["hier_dist_at_5"] == found["hier_dist_at_20"] == pytest.approx(18 / 12)


def test_hierarchical_distances_are_over_the_top_1_5_and_20_labels() -> None:
    """A list shorter than five labels has one mean for all of them, whatever is cut off."""
    paths = [f"{label % 3} > {label % 2} > {label}" for label in range(30)]
    graph = NeighborGraph(np.full((30, 1), -1), np.full((30, 1), np.nan))
    rng = np.random.default_rng(0)
    top, labels = np.stack([rng.permutation(30)[:25] for _ in range(6)]), rng.integers(0, 30, 6)
    found = evaluate(top, np.full(top.shape, 0.04), labels, graph, paths)
    for k in (1, 5, 20):
        distances = [
            literal_distance(paths[y], paths[j])
            for row, y in zip(top, labels, strict=True)
            for j in row[:k]
        ]
        assert found[f"hier_dist_at_{k}"] == pytest.approx(sum(distances) / (6 * k))


def test_the_row_of_an_item_without_an_answer_reaches_no_figure() -> None:
    """It is an error, whether by chance it holds the true class or the farthest one."""
    top = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [2, 3, 0, 1], [0, 1, 2, 3]])
    labels, predicted = np.array([0, 0, 2, 1]), np.array([False, False, True, True])
    found = measure(
        top,
        labels,
        predicted,
        PAIRS,
        confidence=np.array([0.9, 0.9, 0.8, 0.6]),
        nll=np.zeros(4),
        taxonomy=Taxonomy(PATHS),
        train_counts=np.array([9, 5, 2, 1]),
    )
    assert found.severity == 1.0  # of item 3 alone
    assert found.hierarchical_distances is not None
    assert found.hierarchical_distances[0] == 0.5
    assert found.macro_f1 == pytest.approx(1 / 3)  # class 2, not 0 and 1
    assert found.group_top1 is not None
    assert found.group_top1[:2] == (0.0, 1.0)  # head: items 0, 1 and 3
    assert found.ece == pytest.approx((0.2 + 0.6) / 2)


def test_without_paths_there_is_no_distance_and_without_mistakes_no_severity() -> None:
    """None says that nobody asked, NaN that there was nothing to average."""
    top, probs = np.array([[0, 1, 2, 3]]), np.full((1, 4), 0.25)
    found = evaluate(top, probs, np.array([0]), PAIRS)
    assert found["severity"] is None
    assert found["hier_dist_at_5"] is None
    assert math.isnan(evaluate(top, probs, np.array([0]), PAIRS, PATHS)["severity"])


def test_the_dict_has_the_keys_that_others_call() -> None:
    """Scripts outside read them by name."""
    found = evaluate(TOP, np.tile([0.4, 0.3, 0.2, 0.1, 0.0], (4, 1)), LABELS, RING)
    assert set(found) == {
        "top1",
        "top5",
        "neighbors_at_5_mean",
        "neighbors_at_5_share",
        "severity",
        "hier_dist_at_1",
        "hier_dist_at_5",
        "hier_dist_at_20",
        "macro_f1",
        "ece",
    }
    assert (found["top1"], found["top5"], found["neighbors_at_5_mean"]) == (0.25, 0.5, 1.5)
    assert found["neighbors_at_5_share"] == [0.25, 0.25, 0.25, 0.25, 0.0, 0.0]
    assert found["macro_f1"] == pytest.approx(0.1)  # 2 / 5 for class 0, 0 for 1, 3 and 7
    assert found["ece"] == pytest.approx(0.15)  # .4 where 1 of 4 is right


def test_calibration_error_is_computed_by_hand() -> None:
    """Five items in five bins: (.05 + .9 + .38 + .55 + .35) / 5."""
    confidence = np.array([0.95, 0.9, 0.62, 0.55, 0.35])
    is_right = np.array([True, False, True, False, False])
    assert expected_calibration_error(confidence, is_right) == pytest.approx(0.446, abs=1e-9)


def test_calibration_bins_are_closed_on_the_right() -> None:
    """Confidence 1 belongs to the last bin, 2/15 to the second, 0 to the first."""
    confidence = np.array([1.0, 2 / 15, 2 / 15 + 1e-9, 0.0])
    found = calibration_table(confidence, np.array([True, False, True, False]))
    assert np.flatnonzero(found[:, 0]).tolist() == [0, 1, 2, 14]
    assert found[:, 0].sum() == 4
    assert found[14].tolist() == [1, 1, 1]
    assert calibration_table(confidence[1:2], np.array([False])).shape == (15, 3)
    assert math.isnan(expected_calibration_error(confidence[:0], np.zeros(0, bool)))


def test_macro_f1_is_the_mean_over_classes_that_occur() -> None:
    """Class 0: 2 of 3 answers right, none missed; class 1: one of two found; class 2: nothing."""
    answers, labels = np.array([0, 0, 0, 1, 2, -1]), np.array([0, 0, 1, 1, 3, 3])
    f1 = [2 * 2 / (3 + 2), 2 * 1 / (1 + 2), 0.0, 0.0]
    assert macro_f1(answers, labels) == pytest.approx(sum(f1) / 4)


def test_head_mid_and_tail_are_thirds_of_the_classes_by_train_items() -> None:
    """What a long tail costs shows only where it is looked at alone."""
    counts = np.array([5, 100, 1, 50, 7, 2])
    labels = np.array([1, 3, 3, 4, 0, 2])
    is_right = np.array([True, True, False, False, True, False])
    assert group_top1(is_right, labels, counts) == (2 / 3, 0.5, 0.0)
    assert math.isnan(group_top1(is_right[:1], labels[:1], counts)[2])


def test_classes_with_equally_many_train_items_are_grouped_by_number() -> None:
    """In a balanced catalog every border is a tie, and runs have to cut it alike."""
    rng = np.random.default_rng(0)
    counts, is_right, labels = rng.integers(1, 3, 60), rng.random(60) < 0.5, np.arange(60)
    order = sorted(range(60), key=lambda label: (-counts[label], label))
    expected = tuple(is_right[order[start : start + 20]].mean() for start in (0, 20, 40))
    assert group_top1(is_right, labels, counts) == expected


def test_classes_without_train_items_are_a_group_of_their_own() -> None:
    """Among the tail they would pull its top1 down, and nobody would see what they got."""
    counts = np.array([9, 0, 5, 0, 1])
    labels = np.array([0, 1, 3, 4])
    is_right = np.array([False, True, False, True])
    head, mid, tail = group_top1(is_right, labels, counts)
    assert (head, tail) == (0.0, 1.0)
    assert math.isnan(mid)
    found = measure(
        np.array([[2, 0, 4], [4, 2, 1], [3, 0, 1], [4, 2, 0]]),
        labels,
        np.array([True, True, False, True]),
        NeighborGraph(np.full((5, 1), -1), np.full((5, 1), np.nan)),
        confidence=np.ones(4),
        nll=np.zeros(4),
        train_counts=counts,
    )
    assert found.zero_shot_top1 == 0.0
    assert found.zero_shot_top5 == 0.5  # the one that could not be predicted counts as an error


def test_a_tree_over_real_paths_equals_a_walk_over_names() -> None:
    """Every pair of a tree with names that repeat on other branches, and in one path."""
    paths = ["A", "A > A", "A > A > A", "B > A > A", "B > A", "B > C > D > E", "A > C", "B > C"]
    tree = Taxonomy(paths)
    expected = [[literal_distance(a, b) for b in paths] for a in paths]
    np.testing.assert_array_equal(tree.matrix(), expected)
    assert tree.largest == 4
    assert Taxonomy(["X > A > a", "X > A > b", "X > c"]).largest == 2
    assert Taxonomy(["X > a", "X > b"]).largest == 1
    assert Taxonomy(["X > a"]).largest == 0


@pytest.mark.parametrize("path", ["", " > a", "A > ", "A >  > a", "A > \t > a"])
def test_a_path_with_a_nameless_level_is_refused(path: str) -> None:
    """Two unknown levels would count as one and the same."""
    with pytest.raises(CatalogError, match="without a name"):
        Taxonomy(["A > b", path])


def test_the_first_path_with_a_nameless_level_is_named() -> None:
    """In a tree of thousands the user has to find the line."""
    with pytest.raises(CatalogError, match=r"2 paths .* the first ' > a'") as caught:
        Taxonomy(["A > b", " > a", "A > b", ""])
    assert caught.value.where == "labels, column path, label 1"


def test_a_matrix_of_many_labels_has_every_row() -> None:
    """It is made some rows at a time; a forgotten one holds whatever was in memory."""
    tree = Taxonomy([f"{label % 7} > {label}" for label in range(600)])
    labels = np.arange(600)
    is_near = labels[:, None] % 7 == labels % 7
    expected = np.where(labels[:, None] == labels, 0, np.where(is_near, 1, 2))
    np.testing.assert_array_equal(tree.matrix(), expected)
