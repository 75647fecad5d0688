"""What the losses need of [B, C] logits, in one pass forward and one backward: Triton, for GPUs.

    forward     lse_b = log sum_j exp z_bj, and sum_j log p_bj       B C reads
    backward    scale_b p_bj                                         B C reads, B C writes

In bfloat16 throughout, float32 inside: PyTorch's own functions read and write float32 five times.

B batch, C classes.
"""

# ruff: noqa: ANN001, ANN202 - Triton takes annotations for types of its own.

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_BLOCK = 4096
_NUM_WARPS = 8


@triton.jit
def _normalizers_kernel(logits, stride, num_classes, lse, total, BLOCK: tl.constexpr):
    """Write a row's log-sum-exp and the sum of its log-probabilities."""
    row = tl.program_id(0).to(tl.int64)
    highest = -float("inf")
    exp_sum = 0.0
    plain_sum = 0.0
    for start in range(0, num_classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        is_in = columns < num_classes
        z = tl.load(logits + row * stride + columns, mask=is_in, other=-float("inf"))
        z = z.to(tl.float32)
        before = highest
        highest = tl.maximum(highest, tl.max(z, axis=0))
        exp_sum = exp_sum * tl.exp(before - highest) + tl.sum(tl.exp(z - highest), axis=0)
        # Less a maximum, so that the sum does not cancel against C lse.
        shift = tl.where(start == 0, 0.0, before - highest)
        plain_sum += shift * start + tl.sum(tl.where(is_in, z - highest, 0.0), axis=0)
    tl.store(lse + row, highest + tl.log(exp_sum))
    tl.store(total + row, plain_sum - num_classes * tl.log(exp_sum))


@triton.jit
def _scaled_softmax_kernel(logits, stride, num_classes, lse, scale, out, BLOCK: tl.constexpr):
    """Write a row's probabilities times its scale."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_in = columns < num_classes
    z = tl.load(logits + row * stride + columns, mask=is_in, other=0.0).to(tl.float32)
    p = tl.exp(z - tl.load(lse + row)) * tl.load(scale + row)
    tl.store(out + row * stride + columns, p.to(out.dtype.element_ty), mask=is_in)


class LogProbabilities:
    """Log-probabilities of logits, as far as somebody asks: a [B, C] that is never written."""

    def __init__(self, logits: Float[Tensor, "B C"]) -> None:
        """Normalize.

        Args:
            logits: of any float dtype; rows may stand apart, entries of a row may not.
        """
        assert logits.stride(1) == 1
        self._logits = logits
        num_rows, num_classes = logits.shape
        self._lse, self._sum = torch.empty(2, num_rows, device=logits.device).unbind()
        _normalizers_kernel[(num_rows,)](
            logits,
            logits.stride(0),
            num_classes,
            self._lse,
            self._sum,
            BLOCK=_BLOCK,
            num_warps=_NUM_WARPS,
        )

    def gather(self, dim: int, index: Tensor) -> Float[Tensor, "B S"]:
        """Return some of a row's, as Tensor.gather does."""
        return self._logits.gather(dim, index).float() - self._lse[:, None]

    def sum(self, dim: int) -> Float[Tensor, " B"]:
        """Return the sums of the rows."""
        assert dim == 1
        return self._sum

    def scaled_softmax(self, scale: Float[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """Return scale_b p_bj in the logits' dtype, its rows as far apart as theirs."""
        num_rows, num_classes = self._logits.shape
        stride = self._logits.stride(0)
        out = self._logits.new_empty(num_rows, stride)[:, :num_classes]
        _scaled_softmax_kernel[(num_rows, triton.cdiv(num_classes, _BLOCK))](
            self._logits,
            stride,
            num_classes,
            self._lse,
            scale.contiguous(),
            out,
            BLOCK=_BLOCK,
            num_warps=_NUM_WARPS,
        )
        return out
