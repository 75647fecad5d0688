"""Approach 4 in its three weightings."""

import math

import numpy as np
import pytest

from pipeline.targets.options import TargetOptions
from pipeline.targets.similarity_smoothing import similarity_smoothing, solve_temperature
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import TargetTable

C, K = 30, 20
WEIGHTINGS = ("affinity", "controlled", "softmax")

# Three neighbors, one of them with a negative similarity; two neighbors; none.
SMALL = NeighborGraph(
    np.array([[1, 2, 3], [0, 2, -1], [-1, -1, -1], [2, 1, 0]]),
    np.array([[0.6, 0.4, -0.5], [0.3, 0.2, np.nan], [np.nan, np.nan, np.nan], [-0.1, -0.2, -0.3]]),
)


def random_graph(is_ragged: bool):
    """Return C labels with K neighbors, or with a random number of them, 0 and K included."""
    rng = np.random.default_rng(1)
    neighbors = np.full((C, K), -1)
    similarity = np.full((C, K), np.nan)
    for y in range(C):
        count = int(rng.integers(0, K + 1)) if is_ragged and y > 1 else K
        count = 0 if is_ragged and y == 0 else count
        neighbors[y, :count] = rng.permutation([j for j in range(C) if j != y])[:count]
        similarity[y, :count] = np.sort(rng.uniform(-0.3, 1, count))[::-1]
    return NeighborGraph(neighbors, similarity)


def literal(graph: NeighborGraph, options: TargetOptions):
    """Return the formulas of DESIGN.md section 6 as loops over math functions."""
    num_classes = len(graph.neighbors)
    target = np.zeros((num_classes, num_classes))
    for y in range(num_classes):
        found = [
            (j, max(float(s), 0.0))
            for j, s in zip(graph.neighbors[y], graph.similarities[y], strict=True)
            if j >= 0
        ]
        total = sum(s for _, s in found)
        if options.weighting == "affinity":
            target[y, y] = 1 / (1 + total)
            for j, s in found:
                target[y, j] = s / (1 + total)
        elif options.weighting == "controlled":
            target[y, y] = 1 - options.alpha if total > 0 else 1
            for j, s in found:
                target[y, j] = options.alpha * s / total if total > 0 else 0
        else:
            assert options.temperature is not None
            powers = [math.exp((s - 1) / options.temperature) for _, s in found]
            target[y, y] = 1 / (1 + sum(powers))
            for (j, _), power in zip(found, powers, strict=True):
                target[y, j] = power / (1 + sum(powers))
    return target


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        TargetOptions(weighting="affinity"),
        TargetOptions(weighting="controlled"),
        TargetOptions(weighting="controlled", alpha=0.6),
        TargetOptions(weighting="softmax", temperature=0.1),
        TargetOptions(weighting="softmax", temperature=2.0),
    ],
    ids=lambda options: f"{options.weighting}-{options.alpha}-{options.temperature}",
)
def test_every_weighting_equals_its_formula(is_ragged: bool, options: TargetOptions) -> None:
    """Also with ragged rows and negative similarities, which curated and CLIP graphs have."""
    graph = random_graph(is_ragged)
    table = similarity_smoothing(graph, options)
    np.testing.assert_allclose(table.dense(), literal(graph, options), atol=1e-6)
    np.testing.assert_array_equal(table.index[:, 0], np.arange(C))


def test_affinity_divides_the_similarities_by_their_sum() -> None:
    """By hand: [1, .6, .4, 0] / 2 and [1, .3, .2] / 1.5; nothing similar keeps all mass."""
    dense = similarity_smoothing(SMALL, TargetOptions(weighting="affinity")).dense()
    expected = [[0.5, 0.3, 0.2, 0], [0.2, 2 / 3, 0.4 / 3, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(dense, expected, atol=1e-7)


def test_controlled_keeps_one_minus_alpha_on_the_true_class() -> None:
    """By hand at alpha .2: .2 * [.6, .4, 0] and .2 * [.6, .4]; nothing similar keeps all mass."""
    options = TargetOptions(weighting="controlled", alpha=0.2)
    dense = similarity_smoothing(SMALL, options).dense()
    expected = [[0.8, 0.12, 0.08, 0], [0.12, 0.8, 0.08, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(dense, expected, atol=1e-7)


def test_softmax_weighs_by_similarity_over_temperature() -> None:
    """By hand at temperature .2: exp of (s - 1) / .2 against exp(0) for y."""
    options = TargetOptions(weighting="softmax", temperature=0.2)
    dense = similarity_smoothing(SMALL, options).dense()
    powers = np.array([1, math.exp(-2), math.exp(-3), math.exp(-5)])  # s = 1, .6, .4, 0
    np.testing.assert_allclose(dense[0], powers / powers.sum(), atol=1e-7)
    np.testing.assert_allclose(dense[2], [0, 0, 1, 0], atol=1e-7)
    # Every similarity negative: all count as 0, so the neighbors are equal and still take part.
    third = 1 / (1 + 3 * math.exp(-5))
    np.testing.assert_allclose(dense[3], [math.exp(-5) * third] * 3 + [third], atol=1e-7)


def test_controlled_with_equal_similarities_is_neighbor_smoothing() -> None:
    """DESIGN.md says that flat cosines make it approach 3; by hand alpha / K each."""
    graph = NeighborGraph(random_graph(is_ragged=False).neighbors, np.full((C, K), 0.7))
    dense = similarity_smoothing(graph, TargetOptions(weighting="controlled")).dense()
    for y in range(C):
        assert dense[y, y] == pytest.approx(0.9)
        assert dense[y, graph.neighbors[y]].tolist() == pytest.approx([0.1 / K] * K)


@pytest.mark.parametrize("true_share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_the_solved_temperature_gives_the_mean_true_share(
    true_share: float, is_ragged: bool
) -> None:
    """Cosines spread differently for every encoder; the share is what makes runs comparable."""
    options = TargetOptions(weighting="softmax", true_share=true_share)
    dense = similarity_smoothing(random_graph(is_ragged), options).dense()
    assert np.diag(dense).mean() == pytest.approx(true_share, abs=1e-6)


def test_the_solved_temperature_is_one_number_for_all_labels() -> None:
    """A temperature per row would give every label the same true weight, isolated or not."""
    options = TargetOptions(weighting="softmax", true_share=0.5)
    graph = random_graph(is_ragged=True)
    dense = similarity_smoothing(graph, options).dense()
    temperatures = []
    for y in range(C):
        if graph.neighbors[y, 0] >= 0 and graph.similarities[y, 0] < 0.99:
            ratio = dense[y, graph.neighbors[y, 0]] / dense[y, y]
            temperatures.append((max(graph.similarities[y, 0], 0) - 1) / math.log(ratio))
    assert len(temperatures) > 10
    np.testing.assert_allclose(temperatures, temperatures[0], rtol=1e-4)


def test_solve_temperature_inverts_the_softmax() -> None:
    """One label, one neighbor with s = 0: share p needs temperature 1 / log(p / (1 - p))."""
    temperature = solve_temperature(np.array([[1.0, 0.0]]), 0.8)
    assert temperature == pytest.approx(1 / math.log(4), rel=1e-6)


@pytest.mark.parametrize("true_share", [0.01, 1.0, 1.5, -0.2])
def test_an_unreachable_true_share_is_refused_with_the_reachable_ones(true_share: float) -> None:
    """Below 1 / (K + 1) even the flattest softmax gives y more; the user needs to know that."""
    options = TargetOptions(weighting="softmax", true_share=true_share)
    with pytest.raises(TargetError, match=r"0\.048 to 0\.99") as caught:
        similarity_smoothing(random_graph(is_ragged=False), options)
    assert caught.value.where == "--temperature"
    assert caught.value.fix


@pytest.mark.parametrize("alpha", [-0.1, 1.0, math.nan])
def test_controlled_refuses_a_bad_alpha(alpha: float) -> None:
    """Of the weightings only this one uses alpha, so only it checks it."""
    with pytest.raises(TargetError) as caught:
        similarity_smoothing(SMALL, TargetOptions(weighting="controlled", alpha=alpha))
    assert caught.value.where == "--alpha"


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_neighbor_without_a_similarity_counts_as_not_similar(weighting: str) -> None:
    """Curated edges may carry none; NaN must not spread over the row."""
    with_nan = NeighborGraph(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[0.5, np.nan]] * 3))
    with_zero = NeighborGraph(with_nan.neighbors, np.array([[0.5, 0.0]] * 3))
    options = TargetOptions(weighting=weighting, temperature=0.5)
    dense: list[TargetTable] = [similarity_smoothing(g, options) for g in (with_nan, with_zero)]
    np.testing.assert_array_equal(dense[0].dense(), dense[1].dense())


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_number_beside_an_empty_place_is_no_similarity(weighting: str) -> None:
    """A graph made elsewhere may pad with any number; the true class must not gain by it."""
    padded = NeighborGraph(np.array([[1, -1], [0, -1]]), np.array([[0.5, 0.7]] * 2))
    clean = NeighborGraph(padded.neighbors, np.array([[0.5, np.nan]] * 2))
    options = TargetOptions(weighting=weighting, temperature=0.5)
    one, two = (similarity_smoothing(graph, options).dense() for graph in (padded, clean))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_graph_is_left_as_it_was(weighting: str) -> None:
    """The same graph measures neighbors@5 afterwards; clipping in place would change it."""
    graph = random_graph(is_ragged=True)
    before = (graph.neighbors.copy(), graph.similarities.copy())
    similarity_smoothing(graph, TargetOptions(weighting=weighting))
    np.testing.assert_array_equal(graph.neighbors, before[0])
    np.testing.assert_array_equal(graph.similarities, before[1])
