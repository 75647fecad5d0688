"""Approach 3: a little mass on the nearest labels alike."""

from collections.abc import Sequence

import numpy as np

from pipeline.targets.options import TargetOptions
from pipeline.targets.rows import check_alpha, neighbor_table
from schemas.graph import NeighborGraph
from schemas.targets import TargetTable


def neighbor_smoothing(
    graph: NeighborGraph, options: TargetOptions, paths: Sequence[str] | None = None
) -> TargetTable:
    """Give the true class 1 - alpha and share alpha among its neighbors.

    target[y, y] = 1 - alpha;  target[y, j] = alpha / K for j in N(y)

    K is the label's actual number of neighbors; a label without any keeps all its mass.

    Args:
        graph: neighbors, -1 where a label has fewer.
        options: alpha, in [0, 1).
        paths: not used.
    Raises: TargetError if alpha is out of range.
    Source: Yang 2022, approach 3.
    """
    check_alpha(options.alpha)
    is_neighbor = graph.neighbors >= 0
    num_neighbors = is_neighbor.sum(1, keepdims=True)
    weight = np.where(is_neighbor, options.alpha / np.maximum(num_neighbors, 1), 0.0)
    return neighbor_table(1.0 - weight.sum(1), graph.neighbors, weight)
