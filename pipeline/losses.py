"""Focal loss and KL to a label representation, from the logits and the table, never from [B, C].

    L = focal + kl_weight * KL(target || softmax(logits))      means over the batch

B batch, C classes, S entries of a table row. DESIGN.md section 6; Yang 2022 for the sum, Lin et
al. 2017 for the focal loss.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.targets.table import TargetTable
from schemas.errors import TargetError


@dataclass(frozen=True)
class TargetTensors:
    """A TargetTable on a device, with what the KL needs of it."""

    index: Int[Tensor, "C S"]
    weight: Float[Tensor, "C S"]
    base: Float[Tensor, " C"]
    negative_entropy: Float[Tensor, " C"]


def to_tensors(table: TargetTable, device: torch.device) -> TargetTensors:
    """Move a table to a device."""
    return TargetTensors(
        index=torch.from_numpy(table.index).to(device),
        weight=torch.from_numpy(table.weight).to(device),
        base=torch.from_numpy(table.base).to(device),
        negative_entropy=torch.from_numpy(table.negative_entropy()).float().to(device),
    )


def check_gamma(gamma: float) -> None:
    """Refuse a focusing parameter whose gradient is infinite at p = 1.

    Raises: TargetError unless gamma is 0 or at least 1.
    """
    if gamma != 0 and not gamma >= 1:
        raise TargetError(
            f"gamma is {gamma}, expected 0 or at least 1 (between, the gradient at p = 1 is NaN)",
            where="--gamma",
            fix="use 2, as Lin et al.",
        )


def focal_loss(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"], *, gamma: float
) -> Float[Tensor, " B"]:
    """Return the focal loss of each item, in nats.

    focal = -(1 - p_y)^gamma log p_y

    Args:
        logits: unnormalized log-probabilities.
        labels: true classes.
        gamma: 0 (cross-entropy) or at least 1.
    Source: Lin et al. 2017, eq. 4, in its multi-class form.
    """
    centered = _centered(logits)
    true_logit = centered.gather(1, labels[:, None])[:, 0]
    log_p = (true_logit - centered.logsumexp(dim=1)).clamp(max=0.0)
    # 1 - p as -expm1(log p): the difference would lose all digits where p is near 1.
    return -((-torch.expm1(log_p)) ** gamma) * log_p


def kl_to_targets(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"], targets: TargetTensors
) -> Float[Tensor, " B"]:
    """Return KL(target || softmax(logits)) of each item, in nats.

    KL = sum_j t log t + lse(z) - base sum_j z_j - sum_s w_s z_s

    Args:
        logits: unnormalized log-probabilities.
        labels: true classes, which choose the rows of the table.
        targets: the label representation.
    """
    centered = _centered(logits)
    gathered = centered.gather(1, targets.index[labels])
    expected = (targets.weight[labels] * gathered).sum(dim=1)
    expected = expected + targets.base[labels] * centered.sum(dim=1)
    return targets.negative_entropy[labels] + centered.logsumexp(dim=1) - expected


def _centered(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Return the logits in float32, less each row's maximum.

    Neither loss changes by it, but the digits do: base * sum(z) over thousands of classes would
    cancel against a large lse, and so would the true logit.
    """
    logits = logits.float()
    return logits - logits.detach().amax(dim=1, keepdim=True)
