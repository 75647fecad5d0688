"""Approach 1: all mass on the true class."""

from collections.abc import Sequence

import numpy as np

from pipeline.targets.options import TargetOptions
from schemas.graph import NeighborGraph
from schemas.targets import TargetTable


def one_hot(
    graph: NeighborGraph, options: TargetOptions, paths: Sequence[str] | None = None
) -> TargetTable:
    """Give the true class everything.

    target[y, y] = 1

    Args:
        graph: only its number of labels counts.
        options: not used.
        paths: not used.
    Source: Yang 2022, approach 1 (OHE).
    """
    num_classes = graph.num_labels
    return TargetTable(
        index=np.arange(num_classes, dtype=np.int64)[:, None],
        weight=np.ones((num_classes, 1), np.float32),
        base=np.zeros(num_classes, np.float32),
    )
