"""One product for queries, keys and values gives what PyTorch's own layer gives."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.attention import PackedAttention, pack_attention, unpack_attention


@pytest.fixture
def layer() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    found = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    nn.init.normal_(found.in_proj_bias)
    nn.init.normal_(found.out_proj.bias)
    return found


def causal(num_tokens: int) -> Tensor:
    return torch.full((num_tokens, num_tokens), float("-inf")).triu(1)


@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("num_tokens", [1, 2, 7])
@pytest.mark.parametrize("mask", ["none", "causal", "of every head"])
@torch.inference_mode()
def test_self_attention_is_the_layers_own(
    layer: nn.MultiheadAttention, num_rows: int, num_tokens: int, mask: str
) -> None:
    """Picture towers have no mask, text towers a causal one, CoCa's one for every head of a row."""
    x = torch.randn(num_rows, num_tokens, 24)
    attn_mask = None if mask == "none" else causal(num_tokens)
    if mask == "of every head":
        attn_mask = causal(num_tokens) + torch.randn(num_rows * 3, num_tokens, num_tokens)
    expected, _ = layer(x, x, x, need_weights=False, attn_mask=attn_mask)
    found, weights = PackedAttention(layer)(x, x, x, need_weights=False, attn_mask=attn_mask)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert weights is None


@torch.inference_mode()
def test_what_is_no_plain_self_attention_is_left_to_the_layer(
    layer: nn.MultiheadAttention,
) -> None:
    """CoCa's pooler asks with other queries; a caller may want the weights."""
    x, y = torch.randn(2, 5, 24), torch.randn(2, 3, 24)
    packed = PackedAttention(layer)
    expected, _ = layer(y, x, x, need_weights=False)
    torch.testing.assert_close(packed(y, x, x, need_weights=False)[0], expected)
    expected, expected_weights = layer(x, x, x)
    found, weights = packed(x, x, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_only_layers_that_allow_it_are_replaced_and_can_be_put_back() -> None:
    """A layer with other shapes of keys, or with the batch second, computes something else."""
    model = nn.ModuleDict(
        {
            "plain": nn.MultiheadAttention(8, 2, batch_first=True),
            "batch second": nn.MultiheadAttention(8, 2),
            "other keys": nn.MultiheadAttention(8, 2, kdim=4, batch_first=True),
            "extra": nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True),
            "zero": nn.MultiheadAttention(8, 2, add_zero_attn=True, batch_first=True),
        }
    )
    before = dict(model.items())
    assert pack_attention(model) == 1
    assert isinstance(model["plain"], PackedAttention)
    unpack_attention(model)
    assert dict(model.items()) == before
