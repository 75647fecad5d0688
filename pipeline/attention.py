"""Self-attention of frozen towers with one matrix product for queries, keys and values.

PyTorch's nn.MultiheadAttention moves the batch to the second place first; on a CPU the product over
that view is cut into copies and small products that take half of a tower's time. The weights are
the same, sums run in another order: a self-check in `encoder.py` compares both.

B batch, L tokens, E width of the tower, H heads.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PackedAttention(nn.Module):
    """Stands where a tower had an nn.MultiheadAttention, and shares its weights."""

    def __init__(self, inner: nn.MultiheadAttention) -> None:
        """Wrap a layer for which `is_packed` holds."""
        super().__init__()
        self.inner = inner

    def forward(
        self,
        query: Float[Tensor, "B L E"],
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as nn.MultiheadAttention does; whatever is no plain self-attention it does."""
        inner = self.inner
        if need_weights or options or key is not query or value is not query or query.ndim != 3:
            return inner(
                query, key, value, need_weights=need_weights, attn_mask=attn_mask, **options
            )
        num_rows, num_tokens, width = query.shape
        packed = F.linear(query, inner.in_proj_weight, inner.in_proj_bias)
        heads = packed.view(num_rows, num_tokens, 3, inner.num_heads, inner.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.ndim == 3:  # one for every head of every row
            attn_mask = attn_mask.view(num_rows, inner.num_heads, *attn_mask.shape[1:])
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        joined = found.transpose(1, 2).reshape(num_rows, num_tokens, width)
        return F.linear(joined, inner.out_proj.weight, inner.out_proj.bias), None


def pack_attention(model: nn.Module) -> int:
    """Replace every layer that allows it; return their number."""
    found = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.MultiheadAttention and is_packed(layer)
    ]
    for parent, name, layer in found:
        setattr(parent, name, PackedAttention(layer))
    return len(found)


def unpack_attention(model: nn.Module) -> None:
    """Put the replaced layers back."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, PackedAttention):
                setattr(parent, name, layer.inner)


def is_packed(layer: nn.MultiheadAttention) -> bool:
    """Say whether a layer keeps its three projections in one matrix and nothing beside."""
    return (
        layer.in_proj_weight is not None
        and layer.batch_first
        and layer.bias_k is None
        and not layer.add_zero_attn
    )
