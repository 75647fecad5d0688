"""Approach 4: mass on the nearest labels by how similar they are.

The paper's own table of weights is a picture that is not available; its text supports each of
the three weightings. Below, s_1..s_K are the similarities of the K neighbors, negative ones
counted as 0, and s_y = 1.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.optimize import brentq
from scipy.special import softmax

from pipeline.targets.options import TEMPERATURES, TargetOptions
from pipeline.targets.rows import check_alpha, neighbor_table
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import TargetTable


def similarity_smoothing(
    graph: NeighborGraph, options: TargetOptions, paths: Sequence[str] | None = None
) -> TargetTable:
    """Weigh the true class and its neighbors by similarity.

    affinity:    target[y, .] = [1, s_1, .., s_K] / (1 + sum of s)
    controlled:  target[y, y] = 1 - alpha;  target[y, j] = alpha s_j / sum of s
    softmax:     target[y, .] = softmax([1, s_1, .., s_K] / temperature)

    With `controlled`, a label without a similar neighbor keeps all its mass.

    Args:
        graph: neighbors and cosines; -1 and NaN where a label has fewer.
        options: weighting and, by weighting, alpha, temperature or true_share.
        paths: not used.
    Raises: TargetError if alpha or true_share is out of reach.
    Source: Yang 2022, approach 4; affinity after the "similarity matrix" text (Fergus et al.,
        ECCV 2010), controlled after "control the weights", softmax after the "adjacency matrix"
        text, with distance 1 - s as in distillation.
    """
    is_neighbor = graph.neighbors >= 0
    cosine = np.nan_to_num(graph.similarities).astype(np.float64)
    similarity = np.where(is_neighbor, np.clip(cosine, 0.0, None), 0.0)
    if options.weighting == "affinity":
        total = 1.0 + similarity.sum(1, keepdims=True)
        return neighbor_table(1.0 / total[:, 0], graph.neighbors, similarity / total)
    if options.weighting == "controlled":
        check_alpha(options.alpha)
        total = similarity.sum(1, keepdims=True)
        weight = options.alpha * similarity / np.where(total > 0, total, 1.0)
        return neighbor_table(1.0 - weight.sum(1), graph.neighbors, weight)
    scores = np.hstack([np.ones((len(similarity), 1)), np.where(is_neighbor, similarity, -np.inf)])
    temperature = options.temperature or solve_temperature(scores, options.true_share)
    weight = softmax(scores / temperature, axis=1)
    return neighbor_table(weight[:, 0], graph.neighbors, weight[:, 1:])


def solve_temperature(scores: Float64[np.ndarray, "C S"], true_share: float) -> float:
    """Return the temperature at which softmax(scores) gives the first column this mean weight.

    Args:
        scores: the true class's first; -inf for no entry.
        true_share: in (1 / S, 1).
    Raises: TargetError if no temperature gives that share.
    """

    def excess(log_temperature: float) -> float:
        weight = softmax(scores / np.exp(log_temperature), axis=1)
        return float(weight[:, 0].mean()) - true_share

    low, high = np.log(TEMPERATURES)
    if not excess(high) < 0 < excess(low):
        raise TargetError(
            f"no temperature gives the true class a mean weight of {true_share}; within reach are "
            f"{excess(high) + true_share:.3f} to {excess(low) + true_share:.3f}",
            where="--temperature",
            fix="give --temperature a number instead of having it solved",
        )
    return float(np.exp(brentq(excess, low, high, xtol=1e-12)))
