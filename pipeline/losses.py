"""Focal loss and KL to a label representation, from the logits and the table, never from [B, C].

    L = focal + kl_weight * KL(target || softmax(logits))      means over the batch

B batch, C classes, S entries of a table row. DESIGN.md section 6; Yang 2022 for the sum, Lin et
al. 2017 for the focal loss.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from schemas.errors import TargetError
from schemas.targets import DenseTargets, Targets

if TYPE_CHECKING:
    from pipeline.loss_kernels import LogProbabilities

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableTensors:
    """A TargetTable on a device, with what the KL needs of it."""

    index: Int[Tensor, "C S"]
    weight: Float[Tensor, "C S"]
    base: Float[Tensor, " C"]
    negative_entropy: Float[Tensor, " C"]
    has_base: bool

    def expected(
        self, logits: "Float[Tensor, 'B C'] | LogProbabilities", labels: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Return sum_j target[y, j] z_j of each item."""
        gathered = logits.gather(1, self.index[labels])
        listed = (self.weight[labels] * gathered).sum(dim=1)
        return listed + self.base[labels] * logits.sum(dim=1) if self.has_base else listed

    def subtract_from(
        self, matrix: Float[Tensor, "B C"], labels: Int[Tensor, " B"], scale: Float[Tensor, " B"]
    ) -> None:
        """Subtract scale * target[y, j] in place."""
        if self.has_base:
            matrix.sub_((scale * self.base[labels])[:, None])
        weight = (-scale[:, None] * self.weight[labels]).to(matrix.dtype)
        matrix.scatter_add_(1, self.index[labels], weight)


@dataclass(frozen=True)
class DenseTensors:
    """DenseTargets on a device, likewise."""

    matrix: Float[Tensor, "C C"]
    negative_entropy: Float[Tensor, " C"]

    def expected(
        self, logits: "Float[Tensor, 'B C'] | LogProbabilities", labels: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Return sum_j target[y, j] z_j of each item."""
        assert isinstance(logits, Tensor)
        return (self.matrix[labels] * logits).sum(dim=1)

    def subtract_from(
        self, matrix: Float[Tensor, "B C"], labels: Int[Tensor, " B"], scale: Float[Tensor, " B"]
    ) -> None:
        """Subtract scale * target[y, j] in place."""
        matrix.sub_(self.matrix[labels].mul_(scale[:, None]))


@dataclass(frozen=True)
class HardenedTensors:
    """Between a start and one-hot: share[y] * start[y, j] + (1 - share[y]) * [j = y]."""

    start: TableTensors | DenseTensors
    share: Float[Tensor, " C"]
    negative_entropy: Float[Tensor, " C"]

    def expected(
        self, logits: "Float[Tensor, 'B C'] | LogProbabilities", labels: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Return sum_j target[y, j] z_j of each item."""
        true = logits.gather(1, labels[:, None])[:, 0]
        return true + self.share[labels] * (self.start.expected(logits, labels) - true)

    def subtract_from(
        self, matrix: Float[Tensor, "B C"], labels: Int[Tensor, " B"], scale: Float[Tensor, " B"]
    ) -> None:
        """Subtract scale * target[y, j] in place."""
        started = scale * self.share[labels]
        self.start.subtract_from(matrix, labels, started)
        matrix.scatter_add_(1, labels[:, None], (started - scale)[:, None].to(matrix.dtype))


TargetTensors = TableTensors | DenseTensors | HardenedTensors


def to_tensors(targets: Targets, device: torch.device | str) -> TableTensors | DenseTensors:
    """Move a label representation to a device."""
    negative_entropy = torch.from_numpy(targets.negative_entropy()).float().to(device)
    if isinstance(targets, DenseTargets):
        return DenseTensors(torch.from_numpy(targets.matrix).to(device), negative_entropy)
    return TableTensors(
        index=torch.from_numpy(targets.index).to(device),
        weight=torch.from_numpy(targets.weight).to(device),
        base=torch.from_numpy(targets.base).to(device),
        negative_entropy=negative_entropy,
        has_base=bool(targets.base.any()),
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
) -> Float[Tensor, ""]:
    """Return the mean focal loss of a batch, in nats.

    focal = -(1 - p_y)^gamma log p_y

    Args:
        logits: unnormalized log-probabilities.
        labels: true classes.
        gamma: 0 (cross-entropy) or at least 1.
    Raises: TargetError if gamma lies between.
    Source: Lin et al. 2017, eq. 4, in its multi-class form.
    """
    check_gamma(gamma)
    return focal_of_items(centered(logits), labels, gamma).mean()


def target_kl(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"], table: Targets | TargetTensors
) -> Float[Tensor, ""]:
    """Return the mean KL(target || softmax(logits)) of a batch, in nats.

    KL = sum_j t log t + lse(z) - base sum_j z_j - sum_s w_s z_s

    Args:
        logits: unnormalized log-probabilities.
        labels: true classes, which choose the rows of the table.
        table: the label representation, at best on the logits' device already.
    """
    return kl_of_items(centered(logits), labels, _on(table, logits.device)).mean()


def combined_loss(
    logits: Float[Tensor, "B C"],
    labels: Int[Tensor, " B"],
    table: Targets | TargetTensors,
    *,
    gamma: float,
    kl_weight: float,
) -> Float[Tensor, ""]:
    """Return focal + kl_weight * KL, means over the batch.

    Args:
        logits: unnormalized log-probabilities.
        labels: true classes.
        table: the label representation.
        gamma: of the focal loss.
        kl_weight: lambda; with 0 the table is not looked at.
    Raises: TargetError if gamma lies between 0 and 1.
    Source: Yang 2022, "we combine the focal loss for multi-class loss and KL loss".
    """
    check_gamma(gamma)
    focal, kl = loss_parts(logits, labels, _on(table, logits.device), gamma, kl_weight)
    return focal + kl_weight * kl


def loss_parts(
    logits: Float[Tensor, "B C"],
    labels: Int[Tensor, " B"],
    targets: TargetTensors,
    gamma: float,
    kl_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean focal loss and KL; without a weight the KL is 0 and costs nothing.

    Equal to the means of focal_of_items and kl_of_items, in a third of the passes over [B, C].
    """
    focal, kl = _LossParts.apply(logits, labels, targets, gamma, bool(kl_weight))
    return focal, kl


def code_loss(bit_logits: Float[Tensor, "B Q"], codes: Bool[Tensor, "B Q"]) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy over the bits of a batch, in nats a bit.

    Args:
        bit_logits: of bits being set.
        codes: of the items' true classes.
    Source: Yang 2022, the second proposal, "multi-label classification".
    """
    return F.binary_cross_entropy_with_logits(bit_logits.float(), codes.float())


class _LossParts(torch.autograd.Function):
    """Both losses from one log-softmax l, with their gradient written out.

        focal = -(1 - p_y)^gamma l_y          KL = sum_j t_j log t_j - sum_j t_j l_j

    With f = d focal / d l_y = gamma (1 - p_y)^(gamma - 1) p_y l_y - (1 - p_y)^gamma, and
    d l_y / d z_j = [j = y] - p_j, the gradient for upstream a (focal) and b (KL) is

        p_j (b - a f) + a f [j = y] - b t_j

    Autograd would keep and read [B, C] for every step of this.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "B C"],
        labels: Int[Tensor, " B"],
        targets: TargetTensors,
        gamma: float,
        has_kl: bool,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        log_p = _log_softmax(logits, targets)
        true = log_p.gather(1, labels[:, None])[:, 0].clamp(max=0.0)
        ctx.save_for_backward(labels, true)
        ctx.log_p, ctx.targets, ctx.gamma, ctx.has_kl = log_p, targets, gamma, has_kl
        ctx.dtype = logits.dtype
        focal = _focal(true, gamma).mean()
        if not has_kl:
            return focal, torch.zeros_like(focal)
        kl = targets.negative_entropy[labels] - targets.expected(log_p, labels)
        return focal, kl.mean()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, focal_grad: Float[Tensor, ""], kl_grad: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "B C"], None, None, None, None]:
        labels, true = ctx.saved_tensors
        rest = -torch.expm1(true)
        slope = -(rest**ctx.gamma)
        if ctx.gamma:
            slope = slope + ctx.gamma * rest ** (ctx.gamma - 1) * true.exp() * true
        slope = slope * (focal_grad / len(labels))
        kl_scale = kl_grad / len(labels) if ctx.has_kl else torch.zeros_like(kl_grad)
        grad = _scaled_softmax(ctx.log_p, kl_scale - slope)
        grad.scatter_add_(1, labels[:, None], slope[:, None].to(grad.dtype))
        if ctx.has_kl:
            ctx.targets.subtract_from(grad, labels, kl_scale.expand(len(labels)))
        return grad.to(ctx.dtype), None, None, None, None


def _log_softmax(
    logits: Float[Tensor, "B C"], targets: TargetTensors
) -> "Float[Tensor, 'B C'] | LogProbabilities":
    """Return the log-probabilities, on a GPU without writing them where that is possible."""
    is_listed = isinstance(targets, TableTensors) or (
        isinstance(targets, HardenedTensors) and isinstance(targets.start, TableTensors)
    )
    if logits.is_cuda and logits.dtype == torch.bfloat16 and is_listed and has_kernels():
        from pipeline.loss_kernels import LogProbabilities

        return LogProbabilities(logits)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(dim=1)


def _scaled_softmax(
    log_p: "Float[Tensor, 'B C'] | LogProbabilities", scale: Float[Tensor, " B"]
) -> Float[Tensor, "B C"]:
    if isinstance(log_p, Tensor):
        return log_p.exp().mul_(scale[:, None])
    return log_p.scaled_softmax(scale)


@cache
def has_kernels() -> bool:
    """Say whether Triton's kernels can be built here, which also takes a C compiler."""
    try:
        from pipeline.loss_kernels import LogProbabilities

        LogProbabilities(torch.zeros(1, 2, device="cuda", dtype=torch.bfloat16))
    except Exception as error:  # Triton raises anything, as do the compilers it calls
        logger.info("losses are computed without kernels: %s", " ".join(str(error).split())[:200])
        return False
    return True


def focal_of_items(
    z: Float[Tensor, "B C"], labels: Int[Tensor, " B"], gamma: float
) -> Float[Tensor, " B"]:
    """Return the focal loss of each item from centered logits."""
    true_logit = z.gather(1, labels[:, None])[:, 0]
    return _focal((true_logit - z.logsumexp(dim=1)).clamp(max=0.0), gamma)


def _focal(log_p: Float[Tensor, " B"], gamma: float) -> Float[Tensor, " B"]:
    # 1 - p as -expm1(log p): the difference would lose all digits where p is near 1.
    return -((-torch.expm1(log_p)) ** gamma) * log_p


def kl_of_items(
    z: Float[Tensor, "B C"], labels: Int[Tensor, " B"], targets: TargetTensors
) -> Float[Tensor, " B"]:
    """Return the KL of each item from centered logits."""
    return targets.negative_entropy[labels] + z.logsumexp(dim=1) - targets.expected(z, labels)


def centered(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Return the logits in float32 or better, less each row's maximum.

    Neither loss changes by it, but the digits do: base * sum(z) over thousands of classes would
    cancel against a large lse, and so would the true logit.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide - wide.detach().amax(dim=1, keepdim=True)


def _on(table: Targets | TargetTensors, device: torch.device) -> TargetTensors:
    if isinstance(table, TargetTensors):
        return table
    return to_tensors(table, device)
