"""The head that says bits: what decides, against the definition written out."""

import math

import numpy as np
import pytest
import torch

from pipeline.fusion import FusionNetwork
from pipeline.losses import code_loss

CODES = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)


def network(**changes: object) -> FusionNetwork:
    torch.manual_seed(0)
    options = {"embed_dim": 8, "num_classes": 4, "hidden_dim": 16, "codes": CODES}
    return FusionNetwork(**{**options, **changes}).eval()


def inputs(num_items: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    emb = torch.randn(2, num_items, 8, generator=generator)
    ok = torch.ones(num_items, dtype=torch.bool)
    return emb[0], emb[1], ok, ok


def log_likelihood(bit_logits: list[float], code: list[bool]) -> float:
    """Return log p(code): each bit is set with probability sigmoid(logit), alone."""
    total = 0.0
    for logit, is_set in zip(bit_logits, code, strict=True):
        p = 1 / (1 + math.exp(-logit))
        total += math.log(p if is_set else 1 - p)
    return total


def test_logits_are_log_likelihoods_of_codes_but_for_a_constant() -> None:
    """So the softmax over classes is the posterior, and the highest is the likeliest code."""
    net = network(has_classes=False)
    heads = net.heads(*inputs())
    assert heads.class_logits is None
    assert heads.bit_logits is not None
    logits = net(*inputs())
    for bits, found in zip(heads.bit_logits.tolist(), logits.tolist(), strict=True):
        expected = [log_likelihood(bits, code) for code in CODES.tolist()]
        shift = found[0] - expected[0]
        np.testing.assert_allclose(found, np.array(expected) + shift, atol=1e-5)


def test_beside_classes_both_say_something() -> None:
    """The logits of the sum are the sum of what the two say."""
    net = network()
    class_logits, bit_logits = net.heads(*inputs())
    assert class_logits is not None
    assert bit_logits is not None
    assert (class_logits.shape, bit_logits.shape) == ((5, 4), (5, 3))
    expected = class_logits + bit_logits @ CODES.float().T
    torch.testing.assert_close(net(*inputs()), expected)


def test_codes_are_kept_with_the_weights() -> None:
    """A run's folder is a whole classifier, also when the codes in the workspace change."""
    net = network(has_classes=False)
    assert torch.equal(net.state_dict()["codes"], CODES)
    assert "codes" not in network(codes=None).state_dict()
    assert not any(parameter.dtype == torch.bool for parameter in net.parameters())


def test_long_codes_are_summed_in_float32_under_autocast() -> None:
    """In bfloat16 the sum of 512 bits has steps of 1 or 2, and classes would tie."""
    generator = torch.Generator().manual_seed(2)
    codes = torch.rand(40, 512, generator=generator) < 0.5
    net = network(codes=codes, num_classes=40, has_classes=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heads = net.heads(*inputs())
    assert heads.bit_logits is not None
    assert heads.bit_logits.dtype == torch.bfloat16
    logits = net.logits(heads)
    assert logits.dtype == torch.float32
    exact = heads.bit_logits.double() @ codes.double().T
    torch.testing.assert_close(logits.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 5.0, 200.0])
def test_the_loss_of_bits_equals_its_definition(scale: float) -> None:
    """Mean over items and bits of -log of the probability of the bit that is right."""
    generator = torch.Generator().manual_seed(3)
    bit_logits = scale * torch.randn(4, 3, generator=generator)
    codes = CODES[[0, 1, 2, 0]]
    terms = []
    for logits, code in zip(bit_logits.tolist(), codes.tolist(), strict=True):
        for logit, is_set in zip(logits, code, strict=True):
            margin = logit if is_set else -logit
            # log(1 + exp(-margin)), written so that neither end overflows
            terms.append(max(-margin, 0.0) + math.log1p(math.exp(-abs(margin))))
    assert code_loss(bit_logits, codes).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
