"""The only network that is trained: fuse an item's two embeddings and classify.

At D = 512, H = 1024 and C = 4,350 the attention fusion has 6.6M parameters.

With codes of its labels the last layer says bits, alone or beside class logits, and the codes'
log-likelihoods are the classes' logits, or are added to them.

B batch, D embedding width, H hidden width, C classes, Q bits of a code, M = 2 modalities (image,
title).
Source: Yang 2022, "fuses the two embeddings with an attention layer, and trains a finetuning
network" (an MLP).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.dropout import Dropout, Noise

FUSIONS = ("attention", "concat", "gated")
NUM_MODALITIES = 2
_FAST_WIDTH = 8


class Heads(NamedTuple):
    """What the last layer says."""

    class_logits: Float[Tensor, "B C"] | None
    """Of a class each; None where only bits are said."""
    bit_logits: Float[Tensor, "B Q"] | None
    """Of a bit each; None without codes."""


class FusionNetwork(nn.Module):
    """Embeddings of an item in, logits over the classes out."""

    codes: Bool[Tensor, "C Q"] | None

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        fusion: str = "attention",
        hidden_dim: int = 1024,
        num_hidden: int = 1,
        num_heads: int = 8,
        dropout: float = 0.1,
        codes: Bool[Tensor, "C Q"] | None = None,
        has_classes: bool = True,
    ) -> None:
        """Make the network with fresh weights.

        Args:
            embed_dim: D.
            num_classes: C.
            fusion: `attention`, `concat` or `gated`.
            hidden_dim: H.
            num_hidden: hidden layers of the MLP, at least 1.
            num_heads: of the attention; lowered to its greatest common divisor with D.
            dropout: share of hidden activations dropped in training.
            codes: of the classes; kept with the weights.
            has_classes: whether there are class logits; with codes there may be none.
        """
        super().__init__()
        self.scale = math.sqrt(embed_dim)  # unit-length embeddings to entries of about 1
        makers: dict[str, Callable[[], nn.Module]] = {
            "attention": lambda: AttentionFusion(embed_dim, num_heads),
            "concat": ConcatFusion,
            "gated": lambda: GatedFusion(embed_dim),
        }
        self.fuser = makers[fusion]()
        layers: list[nn.Module] = []
        width = embed_dim if fusion == "gated" else NUM_MODALITIES * embed_dim
        for _ in range(num_hidden):
            layers += [nn.Linear(width, hidden_dim), nn.GELU(), Dropout(dropout)]
            width = hidden_dim
        self.register_buffer("codes", codes)
        self.num_class_logits = num_classes if has_classes else 0
        num_bits = 0 if codes is None else codes.shape[1]
        self.mlp = nn.Sequential(*layers, OutputLayer(width, self.num_class_logits + num_bits))

    def set_noise(self, noise: Noise) -> None:
        """Say where dropout takes its randomness from; training needs it."""
        for layer in self.modules():
            if isinstance(layer, Dropout):
                layer.noise = noise

    def forward(
        self,
        image_emb: Float[Tensor, "B D"],
        title_emb: Float[Tensor, "B D"],
        image_ok: Bool[Tensor, " B"],
        title_ok: Bool[Tensor, " B"],
    ) -> Float[Tensor, "B C"]:
        """Return the logits.

        A missing modality takes no part, whatever its row holds (in the cache: NaN). An item with
        neither gets logits that depend on nothing.
        """
        return self.logits(self.heads(image_emb, title_emb, image_ok, title_ok))

    def logits(self, heads: Heads) -> Float[Tensor, "B C"]:
        """Return what decides: class logits, the log-likelihoods of codes, or their sum.

        With p_q the probability of bit q and b_q its logit,

            log p(code) = sum_q code_q log p_q + (1 - code_q) log(1 - p_q)
                        = sum_q code_q b_q + sum_q log(1 - p_q)

        whose last sum is left out, since all classes share it. Not for autocast: the sum of
        hundreds of bits has more digits than bfloat16 holds.
        """
        class_logits, bit_logits = heads
        if bit_logits is None:
            assert class_logits is not None
            return class_logits
        assert self.codes is not None
        said = F.linear(bit_logits.float(), self.codes.float())
        return said if class_logits is None else said + class_logits

    def heads(
        self,
        image_emb: Float[Tensor, "B D"],
        title_emb: Float[Tensor, "B D"],
        image_ok: Bool[Tensor, " B"],
        title_ok: Bool[Tensor, " B"],
    ) -> Heads:
        """Return what the last layer says."""
        ok_BM = torch.stack([image_ok, title_ok], dim=1)
        # Widened first: autocast on a CPU cannot stack float16.
        tokens_BMD = torch.stack([image_emb.float(), title_emb.float()], dim=1) * self.scale
        tokens_BMD = torch.where(ok_BM[..., None], tokens_BMD, 0.0)
        said = self.mlp(self.fuser(tokens_BMD, ok_BM))
        if self.codes is None:
            return Heads(said, None)
        num_classes = self.num_class_logits
        return Heads(said[:, :num_classes] if num_classes else None, said[:, num_classes:])


class OutputLayer(nn.Linear):
    """nn.Linear that computes up to 7 outputs more in bfloat16 on a GPU, and drops them.

    The fast products need a multiple of 8: 4,350 outputs take three times as long as 4,352.
    """

    def forward(self, hidden: Float[Tensor, "B H"]) -> Float[Tensor, "B Q"]:
        """Return the outputs."""
        num_more = -self.out_features % _FAST_WIDTH
        if not (num_more and hidden.is_cuda and hidden.dtype == torch.bfloat16):
            return super().forward(hidden)
        product: Tensor = PaddedProduct.apply(hidden, self.weight, self.bias, num_more)
        return product


class PaddedProduct(torch.autograd.Function):
    """x W^T + b with columns of zeros behind it, which nobody sees."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "B H"],
        weight: Float[Tensor, "Q H"],
        bias: Float[Tensor, " Q"],
        num_more: int,
    ) -> Float[Tensor, "B Q"]:
        """Multiply in the dtype of `hidden`."""
        padded = F.pad(weight.to(hidden.dtype), (0, 0, 0, num_more))
        ctx.save_for_backward(hidden, padded)
        ctx.num_outputs, ctx.dtype = len(weight), weight.dtype
        product = torch.addmm(F.pad(bias.to(hidden.dtype), (0, num_more)), hidden, padded.T)
        return product[:, : len(weight)]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Float[Tensor, "B Q"]
    ) -> tuple[Float[Tensor, "B H"], Float[Tensor, "Q H"], Float[Tensor, " Q"], None]:
        """Return the gradients, those of the parameters in their dtype."""
        hidden, padded = ctx.saved_tensors
        whole = _with_zeros_behind(grad, len(padded))
        ones = whole.new_ones(len(whole))
        grad_weight = (whole.T @ hidden)[: ctx.num_outputs].to(ctx.dtype)
        grad_bias = (whole.T @ ones)[: ctx.num_outputs].to(ctx.dtype)
        return whole @ padded, grad_weight, grad_bias, None


def _with_zeros_behind(matrix: Float[Tensor, "B Q"], width: int) -> Float[Tensor, "B W"]:
    """Widen a matrix; without a copy where its rows stand so far apart already."""
    num_rows, num_columns = matrix.shape
    num_there = matrix.untyped_storage().nbytes() // matrix.itemsize - matrix.storage_offset()
    if matrix.stride() != (width, 1) or num_there < num_rows * width:
        return F.pad(matrix, (0, width - num_columns))
    whole = matrix.as_strided((num_rows, width), (width, 1))
    whole[:, num_columns:].zero_()
    return whole


class AttentionFusion(nn.Module):
    """One multi-head self-attention block over the two tokens, then both side by side."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        """Make the block."""
        super().__init__()
        self.num_heads = math.gcd(embed_dim, num_heads)
        self.modality = nn.Parameter(0.02 * torch.randn(NUM_MODALITIES, embed_dim))
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self, tokens_BMD: Float[Tensor, "B M D"], ok_BM: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B 2*D"]:
        """Return both tokens after attention, a missing one as zeros."""
        batch, _, dim = tokens_BMD.shape
        heads = (batch, NUM_MODALITIES, 3, self.num_heads, dim // self.num_heads)
        # Projected apart, the embeddings need no gradient: a product less in the backward pass.
        projected = self.qkv(tokens_BMD) + F.linear(self.modality, self.qkv.weight)
        q, k, v = projected.view(heads).unbind(dim=2)
        # A softmax over two keys is a sigmoid of their difference: a share of the title's value,
        # the rest of the image's. On a CPU scaled_dot_product_attention takes four times as long.
        k_step, v_step = k[:, 1] - k[:, 0], v[:, 1] - v[:, 0]
        share = ((q * k_step[:, None]).sum(dim=-1) / math.sqrt(heads[-1])).sigmoid()
        # One that is alone has all of it; an item with neither attends to both.
        image_ok, title_ok = ok_BM[:, 0, None, None], ok_BM[:, 1, None, None]
        share = torch.where(image_ok == title_ok, share, title_ok.to(share.dtype))
        attended = v[:, :1] + share[..., None] * v_step[:, None]
        fused = self.norm(tokens_BMD + self.modality + self.out(attended.flatten(2)))
        return torch.where(ok_BM[..., None], fused, 0.0).flatten(1)


class ConcatFusion(nn.Module):
    """Both embeddings side by side, a missing one as zeros."""

    def forward(
        self, tokens_BMD: Float[Tensor, "B M D"], ok_BM: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B 2*D"]:
        """Return the tokens side by side."""
        return tokens_BMD.flatten(1)


class GatedFusion(nn.Module):
    """A learned mean of the two, weighted per item and dimension, over what is there."""

    def __init__(self, embed_dim: int) -> None:
        """Make the gate."""
        super().__init__()
        self.gate = nn.Linear(NUM_MODALITIES * embed_dim, NUM_MODALITIES * embed_dim)

    def forward(
        self, tokens_BMD: Float[Tensor, "B M D"], ok_BM: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B D"]:
        """Return the weighted mean; a modality that is alone has weight 1."""
        score_BMD = self.gate(tokens_BMD.flatten(1)).view(tokens_BMD.shape)
        mask_BM = ok_BM | ~ok_BM.any(dim=1, keepdim=True)
        score_BMD = score_BMD.masked_fill(~mask_BM[..., None], -torch.inf)
        return (score_BMD.softmax(dim=1) * tokens_BMD).sum(dim=1)
