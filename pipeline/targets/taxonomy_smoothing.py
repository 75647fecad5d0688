"""Control: mass on every class by its distance in the category tree, not by its name."""

from collections.abc import Sequence

import numpy as np

from pipeline.targets.options import TargetOptions
from pipeline.taxonomy import Taxonomy
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import DenseTargets, check_dense


def taxonomy_smoothing(
    graph: NeighborGraph, options: TargetOptions, paths: Sequence[str] | None = None
) -> DenseTargets:
    """Weigh every class by exp(-beta d / D) and normalize the row.

    target[y, j] = exp(-beta d(y, j) / D) / sum_i exp(-beta d(y, i) / D)

    d is the distance in the tree, D the largest one.

    Args:
        graph: not used.
        options: beta.
        paths: of the labels.
    Raises: TargetError without paths or above 20,000 classes.
    Source: Bertinetto et al., CVPR 2020, soft labels, eq. 4.
    """
    if paths is None:
        raise TargetError(
            "this approach needs a path of every label, and not every label has one",
            where="labels, column path",
            fix="plan with labels that all have paths, or choose one of the approaches 1 to 5",
        )
    check_dense(len(paths))
    tree = Taxonomy(paths)
    weight = np.exp(-options.beta * tree.matrix() / max(tree.largest, 1))
    return DenseTargets((weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))
