"""Approach 3."""

import numpy as np
import pytest

from pipeline.targets.neighbor_smoothing import neighbor_smoothing
from pipeline.targets.options import TargetOptions
from schemas.errors import TargetError
from schemas.graph import NeighborGraph

C, K = 30, 20


def random_graph(is_ragged: bool):
    """Return C labels with K neighbors, or with a random number of them, 0 and K included."""
    rng = np.random.default_rng(0)
    neighbors = np.full((C, K), -1)
    similarity = np.full((C, K), np.nan)
    for y in range(C):
        count = rng.integers(0, K + 1) if is_ragged and y > 1 else (K if y else 0)
        count = count if is_ragged else K
        others = rng.permutation([j for j in range(C) if j != y])[:count]
        neighbors[y, :count] = others
        similarity[y, :count] = np.sort(rng.uniform(-0.3, 1, count))[::-1]
    return NeighborGraph(neighbors, similarity)


def literal(graph: NeighborGraph, alpha: float):
    """Return 1 - alpha on y and alpha / K on each of its K neighbors, as loops."""
    target = np.zeros((C, C))
    for y in range(C):
        found = [j for j in graph.neighbors[y] if j >= 0]
        target[y, y] = 1 - alpha if found else 1
        for j in found:
            target[y, j] = alpha / len(found)
    return target


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7])
def test_alpha_is_shared_among_the_actual_neighbors(is_ragged: bool, alpha: float) -> None:
    """With curated, ragged lists, dividing by K would leave rows that do not sum to 1."""
    graph = random_graph(is_ragged)
    table = neighbor_smoothing(graph, TargetOptions(alpha=alpha))
    np.testing.assert_allclose(table.dense(), literal(graph, alpha), atol=1e-7)
    np.testing.assert_array_equal(table.index[:, 0], np.arange(C))


def test_the_default_alpha_puts_half_a_percent_on_each_of_20_neighbors() -> None:
    """The paper's own numbers: alpha 0.1, K 20."""
    graph = random_graph(is_ragged=False)
    dense = neighbor_smoothing(graph, TargetOptions()).dense()
    assert dense[3, 3] == pytest.approx(0.9)
    assert dense[3, graph.neighbors[3]].tolist() == pytest.approx([0.005] * 20)


def test_similarities_do_not_matter() -> None:
    """Approach 3 treats neighbors alike; otherwise it would not isolate what 4 adds."""
    graph = random_graph(is_ragged=True)
    flat = NeighborGraph(graph.neighbors, np.full_like(graph.similarities, -0.5))
    np.testing.assert_array_equal(
        neighbor_smoothing(graph, TargetOptions()).dense(),
        neighbor_smoothing(flat, TargetOptions()).dense(),
    )


def test_a_label_without_neighbors_keeps_all_its_mass() -> None:
    """0 / 0 would be NaN, and that row's items would poison the whole batch."""
    graph = NeighborGraph(np.full((3, 2), -1), np.full((3, 2), np.nan))
    table = neighbor_smoothing(graph, TargetOptions(alpha=0.4))
    np.testing.assert_array_equal(table.dense(), np.eye(3))


@pytest.mark.parametrize("alpha", [-0.1, 1.0])
def test_a_bad_alpha_is_refused(alpha: float) -> None:
    """Each approach that uses alpha has to check it: options do not."""
    with pytest.raises(TargetError) as caught:
        neighbor_smoothing(random_graph(is_ragged=False), TargetOptions(alpha=alpha))
    assert caught.value.where == "--alpha"
