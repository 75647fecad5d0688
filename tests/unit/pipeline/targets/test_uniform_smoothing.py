"""Approach 2."""

import numpy as np
import pytest

from pipeline.targets.options import TargetOptions
from pipeline.targets.uniform_smoothing import uniform_smoothing
from schemas.errors import TargetError
from schemas.graph import NeighborGraph


def graph_of(num_classes: int):
    """Return a graph with one neighbor a label; only its number of labels counts."""
    neighbors = np.roll(np.arange(num_classes), -1)[:, None]
    return NeighborGraph(neighbors, np.full((num_classes, 1), 0.5))


@pytest.mark.parametrize("num_classes", [2, 3, 30])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.9])
def test_alpha_is_shared_among_the_other_classes(num_classes: int, alpha: float) -> None:
    """The paper divides by C - 1; PyTorch and timm by C, which leaves more on the true class."""
    expected = np.empty((num_classes, num_classes))
    for y in range(num_classes):
        for j in range(num_classes):
            expected[y, j] = 1 - alpha if j == y else alpha / (num_classes - 1)
    table = uniform_smoothing(graph_of(num_classes), TargetOptions(alpha=alpha))
    np.testing.assert_allclose(table.dense(), expected, atol=1e-7)
    np.testing.assert_array_equal(table.index[:, 0], np.arange(num_classes))


def test_the_table_stays_one_entry_wide() -> None:
    """At 4,350 classes a dense row would be 4,350 floats; base is there to avoid that."""
    table = uniform_smoothing(graph_of(30), TargetOptions())
    assert table.index.shape == (30, 1)


@pytest.mark.parametrize("alpha", [-0.1, 1.0])
def test_a_bad_alpha_is_refused(alpha: float) -> None:
    """Each approach that uses alpha has to check it: options do not."""
    with pytest.raises(TargetError) as caught:
        uniform_smoothing(graph_of(3), TargetOptions(alpha=alpha))
    assert caught.value.where == "--alpha"
