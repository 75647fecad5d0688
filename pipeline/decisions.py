"""From probabilities to a ranking of labels, and from logits to honest probabilities.

Untrained: each applies to any finished run, after the fact. A decision turns log-probabilities
into scores, the best label highest; what it ranks by stays the probability.

B batch, C classes, K neighbors, V validation items.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import minimize_scalar
from torch import Tensor

from pipeline.taxonomy import Taxonomy
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import MAX_DENSE_CLASSES

Decision = Callable[[Float[Tensor, "B C"]], Float[Tensor, "B C"]]
DECISIONS = ("argmax", "crm", "neighbors")
_TEMPERATURES = (0.05, 20.0)
_TOLERANCE = 1e-3  # of log T
_BLOCK_ROWS = 1024


def make_decision(
    name: str, graph: NeighborGraph, taxonomy: Taxonomy | None, device: torch.device | str
) -> Decision:
    """Return the decision called `name`, ready for probabilities on a device.

    Args:
        name: `argmax`, `crm` or `neighbors`.
        graph: for `neighbors`.
        taxonomy: for `crm`.
        device: where the probabilities are.
    Raises: TargetError if the name is unknown, or for `crm` without paths or with more than
        20,000 labels.
    """
    if name == "argmax":
        return argmax
    if name == "neighbors":
        neighbors = torch.from_numpy(graph.neighbors).to(device)
        return lambda log_p: answer_then_neighbors(log_p, neighbors)
    if name != "crm":
        raise TargetError(
            f"unknown decision {name!r}",
            where="--decision",
            fix=f"use one of: {', '.join(DECISIONS)}",
        )
    return crm(taxonomy, device)


def crm(taxonomy: Taxonomy | None, device: torch.device | str) -> Decision:
    """Return the decision that ranks by expected distance in the category tree.

    Raises: TargetError without paths or with more than 20,000 labels.
    """
    if taxonomy is None:
        raise TargetError(
            "crm needs distances in the category tree, and not every label has a path",
            where="--decision",
            fix="give each label one in the column `path` and plan again, or use another decision",
        )
    if taxonomy.num_labels > MAX_DENSE_CLASSES:
        raise TargetError(
            f"{taxonomy.num_labels:,} labels: crm needs the distances of all pairs, at most "
            f"{MAX_DENSE_CLASSES:,}",
            where="--decision",
            fix="use argmax or neighbors",
        )
    distance = torch.from_numpy(taxonomy.matrix()).to(device)
    return lambda log_p: -expected_distance(log_p, distance)


def argmax(log_p: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Rank by probability."""
    return log_p


def expected_distance(
    log_p: Float[Tensor, "B C"], distance: Float[Tensor, "C C"]
) -> Float[Tensor, "B C"]:
    """Return the risk of each answer: its mean distance in the tree to what the item may be.

    risk_a = sum_j C_aj p_j

    Args:
        log_p: log-probabilities.
        distance: C, of all pairs of labels.
    Source: conditional risk minimization (CRM), Karthik et al., ICLR 2021, eq. 1.
    """
    return log_p.exp() @ distance.T


def answer_then_neighbors(
    log_p: Float[Tensor, "B C"], neighbors: Int64[Tensor, "C K"]
) -> Float[Tensor, "B C"]:
    """Rank the most probable label first, then its own neighbors, nearest first, then the rest.

    A control: it scores high in neighbors@5 and knows nothing that the first answer does not.

    Args:
        log_p: log-probabilities.
        neighbors: of the label graph; -1 where a label has fewer.
    """
    answer = log_p.argmax(dim=1, keepdim=True)
    following = neighbors[answer[:, 0]]
    is_empty = following < 0
    places = torch.arange(following.shape[1], 0, -1, device=log_p.device, dtype=log_p.dtype)
    # Log-probabilities are at most 0: whatever has a place stands before them.
    scores = log_p.clone()
    scores.scatter_(
        1,
        torch.where(is_empty, answer, following),
        torch.where(is_empty, 0.0, places.expand(following.shape)),
    )
    return scores.scatter_(1, answer, float(following.shape[1] + 1))


def fit_temperature(log_p: Float[Tensor, "V C"], labels: Int64[Tensor, " V"]) -> float:
    """Return the temperature T at which softmax(log_p / T) has the lowest mean -log p_y.

    Args:
        log_p: log-probabilities or logits of validation items.
        labels: their true classes.
    Returns: in 0.05..20; below 1 where the network is less sure than it is right.
    Source: Guo et al., ICML 2017, section 4.2.
    """
    true = log_p.gather(1, labels[:, None])[:, 0]

    def nll(log_temperature: float) -> float:
        scale = float(np.exp(-log_temperature))
        # By blocks: fresh memory for all items at once costs more than the sums.
        sums = [(scale * block).logsumexp(dim=1) for block in log_p.split(_BLOCK_ROWS)]
        return float((torch.cat(sums) - scale * true).mean())

    options = {"xatol": _TOLERANCE}
    found = minimize_scalar(nll, bounds=np.log(_TEMPERATURES), method="bounded", options=options)
    return float(np.exp(found.x))
