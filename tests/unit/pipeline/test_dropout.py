"""Dropout with a given source of randomness."""

import pytest
import torch

from pipeline.dropout import Dropout, Noise
from pipeline.seeds import derived_seed


def dropout(p: float, seed: int = 0, step: int = 0) -> Dropout:
    """Return a layer in training, at a step of a run."""
    layer = Dropout(p)
    layer.noise = Noise(seed, "cpu")
    layer.noise.start(step)
    return layer


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_is_dropped_and_the_rest_scaled_up(p: float) -> None:
    """The mean stays: evaluation drops nothing and scales nothing."""
    found = dropout(p)(torch.ones(1000, 301))
    kept = found[found > 0]
    assert 1 - len(kept) / found.numel() == pytest.approx(p, abs=0.005)
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-4, atol=0)
    rows, columns = (found > 0).float().mean(dim=1), (found > 0).float().mean(dim=0)
    for means in (rows, columns):  # neither a row nor a column is special
        assert (means - (1 - p)).abs().max() < 0.15


def test_nothing_is_dropped_outside_training_or_at_zero() -> None:
    """The same tensor comes back."""
    hidden = torch.randn(4, 8)
    assert dropout(0.5).eval()(hidden) is hidden
    assert dropout(0.0)(hidden) is hidden


def test_a_dropped_entry_gets_no_gradient() -> None:
    """And a kept one what it was scaled by."""
    hidden = torch.randn(50, 60, requires_grad=True)
    found = dropout(0.3)(hidden)
    found.sum().backward()
    torch.testing.assert_close(hidden.grad, found.detach() / hidden.detach())


def test_seed_and_step_alone_decide() -> None:
    """A resumed run draws what it would have drawn, whatever was drawn before."""
    hidden = torch.ones(20, 31)
    first = dropout(0.5, seed=3, step=7)(hidden)
    layer = dropout(0.5, seed=3, step=6)
    layer(hidden)
    layer.noise.start(7)
    torch.testing.assert_close(layer(hidden), first, rtol=0, atol=0)
    assert (layer(hidden) != first).any()  # a second layer of the same step
    assert (dropout(0.5, seed=4, step=7)(hidden) != first).any()
    assert (dropout(0.5, seed=3, step=8)(hidden) != first).any()


def test_parts_of_a_batch_drop_what_the_whole_would() -> None:
    """So that processes that share a batch take one step together."""
    hidden = torch.randn(20, 31)
    layer = dropout(0.5, seed=1, step=2)
    whole = layer(hidden)
    for places in (torch.tensor([0, 3, 19]), torch.arange(4, 19), torch.tensor([1, 2])):
        layer.noise.start(2, places, 20)
        torch.testing.assert_close(layer(hidden[places]), whole[places], rtol=0, atol=0)


def test_uses_of_one_seed_differ() -> None:
    """Dropout of step 1 and the order of epoch 1 come from different numbers."""
    seeds = {
        derived_seed(use, *numbers) for use in ("a", "b") for numbers in ((0, 1), (1, 0), (0,))
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed("a", 0, 1) == derived_seed("a", 0, 1)


def test_the_scale_is_exact_on_average_in_bfloat16() -> None:
    """1 / 0.9 in bfloat16 is 0.2% too small, and evaluation would see other activations."""
    hidden = torch.linspace(1, 2, 128, dtype=torch.bfloat16).expand(2000, 128)
    found = dropout(0.1)(hidden)
    assert found.dtype == torch.bfloat16
    kept = found != 0
    ratio = (found.double() / hidden.double())[kept].mean().item()
    assert ratio == pytest.approx(1 / (1 - 6554 / 65536), rel=5e-4)


def test_a_share_of_nearly_one_drops_nearly_all() -> None:
    """FitConfig allows any share below 1, and 16 bits round some of them up to it."""
    found = dropout(0.9999999)(torch.ones(100, 100))
    assert found.isfinite().all()
    assert (found == 0).float().mean() > 0.99
