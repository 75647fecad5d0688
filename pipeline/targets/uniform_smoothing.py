"""Approach 2: a little mass on every other class alike."""

from collections.abc import Sequence

import numpy as np

from pipeline.targets.options import TargetOptions
from pipeline.targets.rows import check_alpha
from schemas.graph import NeighborGraph
from schemas.targets import TargetTable


def uniform_smoothing(
    graph: NeighborGraph, options: TargetOptions, paths: Sequence[str] | None = None
) -> TargetTable:
    """Give the true class 1 - alpha and share alpha among the other C - 1.

    target[y, y] = 1 - alpha;  target[y, j] = alpha / (C - 1) for j != y

    Args:
        graph: only its number of labels counts, at least 2.
        options: alpha, in [0, 1).
        paths: not used.
    Raises: TargetError if alpha is out of range.
    Source: Yang 2022, approach 2. PyTorch and timm spread alpha over all C instead.
    """
    check_alpha(options.alpha)
    num_classes = graph.num_labels
    base = options.alpha / (num_classes - 1)
    return TargetTable(
        index=np.arange(num_classes, dtype=np.int64)[:, None],
        weight=np.full((num_classes, 1), 1.0 - options.alpha - base, np.float32),
        base=np.full(num_classes, base, np.float32),
    )
