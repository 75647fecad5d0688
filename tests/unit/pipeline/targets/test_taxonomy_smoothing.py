"""Soft labels from distances in the tree, against the formula and a number computed by hand."""

import math
import tracemalloc

import numpy as np
import pytest

import schemas.targets
from pipeline.targets import build
from pipeline.targets.options import TargetOptions
from pipeline.targets.taxonomy_smoothing import taxonomy_smoothing
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import MAX_DENSE_CLASSES, DenseTargets, check_dense

PATHS = ["A > a", "A > b", "B > c", "B > d"]


def graph_of(num_labels: int) -> NeighborGraph:
    return NeighborGraph(np.full((num_labels, 1), -1), np.full((num_labels, 1), np.nan))


def test_a_row_is_computed_by_hand() -> None:
    """Distances 0, 1, 2, 2 of at most 2, beta 4."""
    found = build("taxonomy", graph_of(4), beta=4.0, paths=PATHS).dense()[0]
    np.testing.assert_allclose(found, [0.853267, 0.115477, 0.015628, 0.015628], atol=1e-6)


def test_weights_fall_by_a_constant_factor_a_level() -> None:
    """exp(-beta / D) a level, whatever the row; equal distances weigh the same."""
    paths = ["A > B > a", "A > B > b", "A > c", "D > e > f > g"]
    found = build("taxonomy", graph_of(4), beta=8.0, paths=paths).dense()
    assert found[0, 0] / found[0, 1] == pytest.approx(math.exp(8 / 4))  # d = 1 of at most 4
    assert found[0, 1] / found[0, 2] == pytest.approx(math.exp(8 / 4))
    assert found[0, 2] / found[0, 3] == pytest.approx(math.exp(2 * 8 / 4))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_levels_above_all_labels_change_nothing() -> None:
    """D is the largest distance of two labels, not the depth: many shops begin with "All"."""
    longer = build("taxonomy", graph_of(4), paths=[f"All > Shop > {path}" for path in PATHS])
    plain = build("taxonomy", graph_of(4), paths=PATHS)
    np.testing.assert_array_equal(longer.matrix, plain.matrix)


def test_a_single_label_has_all_the_mass() -> None:
    """Its tree has no distance to divide by."""
    assert build("taxonomy", graph_of(1), paths=["A > a"]).matrix.tolist() == [[1.0]]


@pytest.mark.parametrize("name", ["taxonomy", "online"])
def test_the_matrix_is_float32(name: str) -> None:
    """Doubles would take 3.2 GB at 20,000 classes, and turn the loss to float64."""
    assert build(name, graph_of(4), paths=PATHS).matrix.dtype == np.float32


def test_without_paths_it_is_refused() -> None:
    """There is no tree to measure in."""
    with pytest.raises(TargetError, match="paths") as caught:
        build("taxonomy", graph_of(4))
    assert "path" in caught.value.where


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_does_not_fall_is_refused(beta: float) -> None:
    """Zero would be uniform, a negative one would prefer the far labels."""
    with pytest.raises(TargetError, match="beta") as caught:
        TargetOptions(beta=beta)
    assert caught.value.where == "--beta"


@pytest.mark.parametrize("name", ["taxonomy", "online"])
def test_too_many_classes_are_refused_before_the_matrix_is_made(name: str) -> None:
    """At 100,000 classes it would take 40 GB."""
    num_labels = MAX_DENSE_CLASSES + 1
    paths = [f"A > {label}" for label in range(num_labels)]
    with pytest.raises(TargetError, match="20,001 classes"):
        build(name, graph_of(num_labels), paths=paths)


@pytest.mark.parametrize("name", ["taxonomy", "online"])
def test_a_refusal_takes_no_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the finished matrix would come after the machine ran out of memory."""
    monkeypatch.setattr(schemas.targets, "MAX_DENSE_CLASSES", 1000)
    graph, paths = graph_of(1001), [f"A > {label}" for label in range(1001)]
    tracemalloc.start()
    with pytest.raises(TargetError, match="1,001 classes"):
        build(name, graph, paths=paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1001 * 1001


def test_as_many_classes_as_allowed_are_not_refused() -> None:
    """The border of the rule above."""
    check_dense(MAX_DENSE_CLASSES)


def test_the_graph_is_not_looked_at() -> None:
    """The control must not know the label names' similarities."""
    other = NeighborGraph(np.array([[3], [2], [1], [0]]), np.full((4, 1), 0.9))
    one = taxonomy_smoothing(other, TargetOptions(), PATHS)
    np.testing.assert_array_equal(one.matrix, build("taxonomy", graph_of(4), paths=PATHS).matrix)


@pytest.mark.parametrize(
    "matrix", [np.eye(3)[:2], np.full((2, 2), 0.6), [[1.5, -0.5], [0, 1]], [[np.nan, 1], [0, 1]]]
)
def test_a_matrix_that_is_no_distribution_is_refused(matrix: object) -> None:
    """Its KL would be a number without a meaning."""
    with pytest.raises(TargetError, match="distributions"):
        DenseTargets(np.array(matrix, np.float32))
