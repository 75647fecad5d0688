"""The label graph refuses what is no graph, and is at hand under its public names."""

import numpy as np
import pytest

import schemas
from schemas.errors import NeighborsError
from schemas.graph import NeighborGraph
from schemas.targets import TargetTable

NEIGHBORS = [[1, 2], [0, -1], [1, 0]]
SIMILARITIES = [[0.9, 0.5], [0.9, np.nan], [0.5, 0.2]]


def test_any_numbers_become_the_types_that_stages_rely_on() -> None:
    """Callers outside give lists, int32 or float64."""
    for neighbors in (NEIGHBORS, np.array(NEIGHBORS, np.int32)):
        graph = NeighborGraph(neighbors, SIMILARITIES)
        assert graph.neighbors.dtype == np.int64
        assert graph.similarities.dtype == np.float32
        assert graph.num_labels == 3


@pytest.mark.parametrize(
    ("neighbors", "reason"),
    [
        ([[1, 3], [0, -1], [1, 4]], "neighbor 3 is no label: there are 3"),
        ([[1, -2], [0, -1], [1, 0]], "neighbor -2 is no label"),
        ([[1, 2], [1, -1], [1, 0]], "label 1 is its own neighbor"),
        ([[1, 2], [0, -1], [1, 1]], "label 2 has a neighbor twice"),
        ([[1, 2], [0, 0], [1, 0]], "label 1 has a neighbor twice"),
        ([[1], [0], [1]], "do not fit"),
        ([1, 0, 1], "do not fit"),
    ],
)
def test_what_is_no_graph_is_refused(neighbors: list[object], reason: str) -> None:
    """A label number of another catalog would silently soften the wrong classes."""
    with pytest.raises(NeighborsError, match=reason) as error:
        NeighborGraph(neighbors, SIMILARITIES)
    assert error.value.where
    assert error.value.fix


@pytest.mark.parametrize(
    ("neighbors", "reason"),
    [([[1, 2, 1], [0, 2, -1], [0, 1, -1]], "label 0 has a neighbor twice"), ([1, 0], "do not fit")],
)
def test_neither_order_nor_matching_shapes_hide_what_is_no_graph(
    neighbors: list[object], reason: str
) -> None:
    """Twins need not stand side by side, and two flat lists fit one another."""
    with pytest.raises(NeighborsError, match=reason):
        NeighborGraph(neighbors, np.zeros(np.shape(neighbors)))


def test_two_empty_places_are_no_repeated_neighbor() -> None:
    """A label of a curated list may have none at all."""
    assert NeighborGraph([[-1, -1], [0, -1]], np.full((2, 2), np.nan)).num_labels == 2


def test_the_hash_sees_neighbors_and_similarities() -> None:
    """A run is reused only if its graph is the same."""
    plain = NeighborGraph(NEIGHBORS, SIMILARITIES).sha256()
    assert plain == NeighborGraph(np.array(NEIGHBORS, np.int32), SIMILARITIES).sha256()
    other = np.array(SIMILARITIES) - 1e-6  # the step to which they are rounded
    assert NeighborGraph(NEIGHBORS, other).sha256() != plain
    assert NeighborGraph([[2, 1], [0, -1], [1, 0]], SIMILARITIES).sha256() != plain


def test_the_package_gives_its_public_names() -> None:
    """Loaded when asked for: the command line's help needs neither."""
    assert schemas.NeighborGraph is NeighborGraph
    assert schemas.TargetTable is TargetTable
    with pytest.raises(AttributeError, match="Neighbours"):
        _ = schemas.Neighbours
