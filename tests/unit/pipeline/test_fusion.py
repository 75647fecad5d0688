"""The fusion network: what a missing modality may do, and that all of it learns."""

import math

import pytest
import torch
from torch import nn

from pipeline.dropout import Dropout, Noise
from pipeline.fusion import (
    FUSIONS,
    AttentionFusion,
    ConcatFusion,
    FusionNetwork,
    GatedFusion,
    PaddedProduct,
)

B, D, H, C = 6, 16, 24, 7
# Both, image only, title only, neither; twice over the batch of six.
IMAGE_OK = torch.tensor([True, True, False, False, True, True])
TITLE_OK = torch.tensor([True, False, True, False, True, False])


def network_of(fusion: str, **options: object):
    """Return a small network with fixed weights, in eval mode."""
    torch.manual_seed(0)
    shape = {"embed_dim": D, "num_classes": C, "hidden_dim": H} | options
    network = FusionNetwork(fusion=fusion, **shape).eval()
    network.set_noise(Noise(0, "cpu"))
    return network


def embeddings(seed: int = 1):
    """Return unit-length image and title embeddings."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, B, D, generator=generator)
    image_emb, title_emb = both / both.norm(dim=2, keepdim=True)
    return image_emb, title_emb


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("content", [math.nan, math.inf, 1e30, 0.5])
def test_what_a_missing_modality_holds_does_not_matter(fusion: str, content: float) -> None:
    """The cache fills missing rows with NaN, and 0 * NaN is NaN: masks alone do not help."""
    network = network_of(fusion)
    image_emb, title_emb = embeddings()
    expected = network(image_emb, title_emb, IMAGE_OK, TITLE_OK)
    image_emb[~IMAGE_OK], title_emb[~TITLE_OK] = content, content
    found = network(image_emb, title_emb, IMAGE_OK, TITLE_OK)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_nan_in_a_missing_modality_leaves_gradients_finite(fusion: str) -> None:
    """A where() hides NaN from the result and may still pass it to the gradient."""
    network = network_of(fusion)
    image_emb, title_emb = embeddings()
    image_emb[~IMAGE_OK], title_emb[~TITLE_OK] = math.nan, math.nan
    network(image_emb, title_emb, IMAGE_OK, TITLE_OK).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_item_with_neither_modality_gets_the_same_finite_logits(fusion: str) -> None:
    """A softmax over no key at all is NaN; such items stay in the held-out sets."""
    network = network_of(fusion)
    nothing = torch.zeros(B, dtype=torch.bool)
    found = network(*embeddings(), nothing, nothing)
    assert found.isfinite().all()
    torch.testing.assert_close(found, found[:1].expand(B, C), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_every_parameter(fusion: str) -> None:
    """A parameter that is made and never used trains as noise and ships with the model."""
    network = network_of(fusion, num_hidden=2).train()
    everything = torch.ones(B, dtype=torch.bool)
    network(*embeddings(), everything, everything).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("fusion", FUSIONS)
def test_both_modalities_take_part(fusion: str) -> None:
    """A fusion that ignores a modality still trains, a few points lower."""
    network = network_of(fusion)
    (image_emb, title_emb), (other_image, other_title) = embeddings(1), embeddings(2)
    everything = torch.ones(B, dtype=torch.bool)
    base = network(image_emb, title_emb, everything, everything)
    for changed in (
        network(other_image, title_emb, everything, everything),
        network(image_emb, other_title, everything, everything),
        network(image_emb, title_emb, everything, ~everything),
        network(image_emb, title_emb, ~everything, everything),
        network(title_emb, image_emb, everything, everything),
    ):
        assert (changed - base).abs().amax(dim=1).min() > 1e-4


@pytest.mark.parametrize("fusion", FUSIONS)
def test_items_of_a_batch_do_not_see_one_another(fusion: str) -> None:
    """Predictions must not depend on what else was asked for, or on the batch size."""
    network = network_of(fusion)
    inputs = (*embeddings(), IMAGE_OK, TITLE_OK)
    together = network(*inputs)
    assert together.shape == (B, C)
    alone = torch.cat([network(*(value[i : i + 1] for value in inputs)) for i in range(B)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_half_precision_embeddings_are_fused_in_float32(fusion: str) -> None:
    """The cache holds float16; multiplying in it would overflow and is slow on a CPU."""
    network = network_of(fusion)
    image_emb, title_emb = (value.half() for value in embeddings())
    found = network(image_emb, title_emb, IMAGE_OK, TITLE_OK)
    expected = network(image_emb.float(), title_emb.float(), IMAGE_OK, TITLE_OK)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_concat_is_the_mlp_on_both_embeddings_side_by_side() -> None:
    """Entries are scaled to about 1, a missing modality is zeros."""
    network = network_of("concat")
    image_emb, title_emb = embeddings()
    sides = [image_emb * IMAGE_OK[:, None], title_emb * TITLE_OK[:, None]]
    expected = network.mlp(torch.cat(sides, dim=1) * math.sqrt(D))
    torch.testing.assert_close(network(image_emb, title_emb, IMAGE_OK, TITLE_OK), expected)


def test_a_gated_modality_that_is_alone_has_weight_one() -> None:
    """Otherwise an item without a title would see its image dimmed by an untrained gate."""
    torch.manual_seed(0)
    tokens_BMD = torch.randn(B, 2, D)
    only_image = torch.tensor([True, False]).expand(B, 2)
    fused = GatedFusion(D)(tokens_BMD.masked_fill(~only_image[..., None], 0.0), only_image)
    torch.testing.assert_close(fused, tokens_BMD[:, 0], rtol=0, atol=0)
    fused = GatedFusion(D)(tokens_BMD.masked_fill(only_image[..., None], 0.0), ~only_image)
    torch.testing.assert_close(fused, tokens_BMD[:, 1], rtol=0, atol=0)


def test_gated_is_a_mean_weighted_per_item_and_dimension() -> None:
    """By hand: image weight 1 / (1 + exp(title score - image score)), elementwise."""
    torch.manual_seed(0)
    gated, tokens_BMD = GatedFusion(D), torch.randn(B, 2, D)
    score = gated.gate(torch.cat([tokens_BMD[:, 0], tokens_BMD[:, 1]], dim=1))
    share = 1 / (1 + (score[:, D:] - score[:, :D]).exp())
    expected = share * tokens_BMD[:, 0] + (1 - share) * tokens_BMD[:, 1]
    torch.testing.assert_close(gated(tokens_BMD, torch.ones(B, 2, dtype=torch.bool)), expected)


def test_concat_alone_keeps_the_tokens_as_they_are() -> None:
    """The order is image, title."""
    tokens_BMD = torch.arange(8.0).view(1, 2, 4)
    fused = ConcatFusion()(tokens_BMD, torch.ones(1, 2, dtype=torch.bool))
    assert fused.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("num_heads", [1, 4])
def test_attention_equals_torchs_multi_head_attention(num_heads: int) -> None:
    """Same weights, same masked key: a transposed axis would still train, only worse."""
    torch.manual_seed(0)
    block, tokens_BMD = AttentionFusion(D, num_heads), torch.randn(B, 2, D)
    ok_BM = torch.stack([IMAGE_OK, TITLE_OK], dim=1)[[0, 1, 2, 4, 5]]
    tokens_BMD = tokens_BMD[[0, 1, 2, 4, 5]].masked_fill(~ok_BM[..., None], 0.0)
    reference = nn.MultiheadAttention(D, num_heads, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.qkv.weight)
        reference.in_proj_bias.copy_(block.qkv.bias)
        reference.out_proj.weight.copy_(block.out.weight)
        reference.out_proj.bias.copy_(block.out.bias)
    marked = tokens_BMD + block.modality
    attended, _ = reference(marked, marked, marked, key_padding_mask=~ok_BM)
    expected = block.norm(marked + attended) * ok_BM[..., None]
    torch.testing.assert_close(block(tokens_BMD, ok_BM), expected.flatten(1), rtol=1e-5, atol=1e-5)


def test_attention_lets_a_present_token_see_the_other() -> None:
    """Two separate towers would pass every masking test and fuse nothing."""
    torch.manual_seed(0)
    block, tokens_BMD = AttentionFusion(D, 4), torch.randn(B, 2, D)
    both = torch.ones(B, 2, dtype=torch.bool)
    before = block(tokens_BMD, both)
    tokens_BMD[:, 1] += 1.0
    assert (block(tokens_BMD, both)[:, :D] - before[:, :D]).abs().max() > 1e-3


@pytest.mark.parametrize(("embed_dim", "num_heads"), [(7, 1), (12, 4), (16, 8)])
def test_any_embedding_width_can_be_split_into_heads(embed_dim: int, num_heads: int) -> None:
    """Encoders come in odd widths, and the number of heads is not an option of the user's."""
    network = network_of("attention", embed_dim=embed_dim, num_heads=8)
    everything = torch.ones(2, dtype=torch.bool)
    found = network(torch.ones(2, embed_dim), torch.ones(2, embed_dim), everything, everything)
    assert found.shape == (2, C)
    assert network.fuser.num_heads == num_heads


@pytest.mark.parametrize("num_hidden", [1, 3])
def test_depth_width_and_dropout_are_as_asked(num_hidden: int) -> None:
    """A sweep over options that change nothing would measure noise."""
    network = network_of("attention", num_hidden=num_hidden, dropout=0.3)
    shares = [layer.p for layer in network.mlp if isinstance(layer, Dropout)]
    assert shares == [0.3] * num_hidden
    linear = [layer for layer in network.mlp if isinstance(layer, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linear]
    assert widths == [(2 * D, H), *[(H, H)] * (num_hidden - 1), (H, C)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_dropout_acts_in_training_only(fusion: str) -> None:
    """A validation pass with dropout on would stop training too early."""
    network = network_of(fusion, dropout=0.5)
    inputs = (*embeddings(), IMAGE_OK, TITLE_OK)
    torch.testing.assert_close(network(*inputs), network(*inputs), rtol=0, atol=0)
    network.train()
    assert (network(*inputs) - network(*inputs)).abs().max() > 0


def test_the_default_head_has_the_stated_size() -> None:
    """DESIGN.md section 9 times a head of 6.6M parameters at C = 4,350 and D = 512."""
    with torch.device("meta"):
        network = FusionNetwork(embed_dim=512, num_classes=4350)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == 6.6
    assert network.fuser.num_heads == 8  # no weight shows it: other heads would load and be wrong
    assert [layer.p for layer in network.mlp if isinstance(layer, Dropout)] == [0.1]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_logits_are_no_linear_map_of_the_embeddings(fusion: str) -> None:
    """Without its activation an MLP of any depth and width is one matrix."""
    network = network_of(fusion)
    one, other = embeddings(1), embeddings(2)
    middle = tuple((a + b) / 2 for a, b in zip(one, other, strict=True))
    everything = torch.ones(B, dtype=torch.bool)
    ends = [network(*pair, everything, everything) for pair in (one, other)]
    found = network(*middle, everything, everything)
    assert (found - (ends[0] + ends[1]) / 2).abs().max() > 1e-3


@pytest.mark.parametrize("layout", ["packed", "with room behind"])
def test_a_padded_product_and_its_gradients_are_those_of_the_plain_one(layout: str) -> None:
    """Whatever stands in the room behind the gradient's rows."""
    torch.manual_seed(0)
    hidden, weight, bias = (
        torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((5, 3), (13, 3), 13)
    )
    grad = torch.randn(5, 13, dtype=torch.float64)
    if layout == "with room behind":
        room = torch.full((5, 16), torch.nan, dtype=torch.float64)
        room[:, :13] = grad
        grad = room[:, :13]
    plain = nn.functional.linear(hidden, weight, bias)
    padded = PaddedProduct.apply(hidden, weight, bias, 3)
    torch.testing.assert_close(padded, plain)
    expected = torch.autograd.grad(plain, (hidden, weight, bias), grad)
    found = torch.autograd.grad(padded, (hidden, weight, bias), grad)
    torch.testing.assert_close(found, expected)
