"""Approach 1."""

import numpy as np

from pipeline.targets.one_hot import one_hot
from pipeline.targets.options import TargetOptions
from schemas.graph import NeighborGraph

C, K = 30, 20
GRAPH = NeighborGraph(
    np.stack([(y + 1 + np.arange(K)) % C for y in range(C)]), np.full((C, K), 0.5)
)


def test_one_hot_is_the_identity_matrix() -> None:
    """The baseline knows nothing of the graph: all mass on the true class, exactly."""
    table = one_hot(GRAPH, TargetOptions(alpha=0.3))
    np.testing.assert_array_equal(table.dense(), np.eye(C))
    np.testing.assert_array_equal(table.index[:, 0], np.arange(C))
    np.testing.assert_array_equal(table.off_true(), np.zeros(C))
