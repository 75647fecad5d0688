"""Focal loss and KL against dense float64 references and torch.nn.functional."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.losses import (
    TargetTensors,
    centered,
    check_gamma,
    combined_loss,
    focal_loss,
    focal_of_items,
    kl_of_items,
    loss_parts,
    target_kl,
    to_tensors,
)
from pipeline.targets.options import TargetOptions
from pipeline.targets.registry import APPROACHES
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import DenseTargets, TargetTable

B, C, K = 12, 9, 3
CPU = torch.device("cpu")
GAMMAS = (0.0, 1.0, 2.0, 5.0)


def table_for(name: str, num_classes: int = C) -> TargetTable:
    """Return an approach's targets; one label has fewer neighbors, one has none."""
    neighbors = np.stack([(y + 1 + np.arange(K)) % num_classes for y in range(num_classes)])
    similarity = np.tile([0.8, 0.5, 0.3], (num_classes, 1))
    neighbors[1, 1:], similarity[1, 1:] = -1, np.nan
    neighbors[2], similarity[2] = -1, np.nan
    graph, paths = NeighborGraph(neighbors, similarity), [f"A > {y}" for y in range(num_classes)]
    return APPROACHES[name].build(graph, TargetOptions(alpha=0.2), paths)


def item_focal(logits: torch.Tensor, labels: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Return the focal loss of each item."""
    return focal_of_items(centered(logits), labels, gamma)


def item_kl(logits: torch.Tensor, labels: torch.Tensor, targets: TargetTensors) -> torch.Tensor:
    """Return the KL of each item."""
    return kl_of_items(centered(logits), labels, targets)


def batch(scale: float = 3.0):
    """Return float32 logits and labels that name every class."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(B, C, generator=generator)
    return logits, torch.arange(B) % C


def dense_focal(logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return -(1 - p)^gamma log p from the whole float64 softmax."""
    log_p = logits.double().log_softmax(1)[torch.arange(len(labels)), labels]
    return -((1 - log_p.exp()) ** gamma) * log_p


def dense_kl(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return sum t (log t - log q) over t > 0, from dense float64 targets."""
    log_q = logits.double().log_softmax(1)
    return (torch.special.xlogy(target, target) - target * log_q).sum(1)


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the summed loss."""
    return torch.autograd.grad(loss.sum(), logits)[0]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_loss_and_its_gradient_equal_the_float64_formula(gamma: float) -> None:
    """The sign, the power and what is differentiated all show in the gradient."""
    logits, labels = batch()
    logits.requires_grad_()
    found, expected = item_focal(logits, labels, gamma=gamma), dense_focal(logits, labels, gamma)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        gradient(found, logits), gradient(expected, logits), rtol=1e-4, atol=1e-6
    )


def test_focal_loss_by_hand() -> None:
    """At p = 1/4 and gamma 2: (3/4)^2 log 4."""
    logits = torch.zeros(1, 4)
    assert item_focal(logits, torch.tensor([2]), gamma=2).item() == pytest.approx(
        0.5625 * math.log(4)
    )


def test_focal_loss_at_gamma_zero_is_cross_entropy() -> None:
    """The familiar baseline has to come out of the same code."""
    logits, labels = batch()
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(item_focal(logits, labels, gamma=0), expected)


@pytest.mark.parametrize("name", APPROACHES)
def test_kl_and_its_gradient_equal_the_dense_formula(name: str) -> None:
    """The sparse form must be the dense one for every representation, ragged rows included."""
    table = table_for(name)
    logits, labels = batch()
    logits.requires_grad_()
    found = item_kl(logits, labels, to_tensors(table, CPU))
    expected = dense_kl(logits, torch.from_numpy(table.dense())[labels])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        gradient(found, logits), gradient(expected, logits), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", APPROACHES)
def test_kl_equals_torchs_kl_div(name: str) -> None:
    """A reference written by others, with its own argument order to get wrong."""
    table = table_for(name)
    logits, labels = batch()
    target = torch.from_numpy(table.dense())[labels]
    expected = F.kl_div(logits.double().log_softmax(1), target, reduction="none").sum(1)
    found = item_kl(logits, labels, to_tensors(table, CPU)).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_kl_to_one_hot_is_cross_entropy() -> None:
    """Control 1b: the KL term alone, without a soft target."""
    logits, labels = batch()
    found = item_kl(logits, labels, to_tensors(table_for("1b"), CPU))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))


def test_kl_to_uniform_smoothing_is_torchs_label_smoothing_rescaled() -> None:
    """PyTorch spreads over C, the paper over C - 1: equal when alpha is scaled by C / (C - 1)."""
    table = table_for("2")
    logits, labels = batch()
    smoothed = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2 * C / (C - 1))
    entropy = torch.from_numpy(-table.negative_entropy()).float()[labels]
    found = item_kl(logits, labels, to_tensors(table, CPU))
    torch.testing.assert_close(found, smoothed - entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["2", "3", "4"])
def test_kl_is_zero_where_the_prediction_is_the_target(name: str) -> None:
    """The entropy term makes it a distance; without it a perfect fit would show as a loss."""
    table = table_for(name)
    target = torch.from_numpy(table.dense())
    logits = target.clamp(min=1e-30).log() + 5.0
    found = item_kl(logits, torch.arange(C), to_tensors(table, CPU))
    torch.testing.assert_close(found, torch.zeros(C).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("magnitude", [1e4, 80.0])
def test_huge_logits_give_finite_focal_losses_and_gradients(gamma: float, magnitude: float) -> None:
    """One NaN in one item's gradient ends the run for all weights."""
    signs = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [1, 1, -1], [-1, -1, -1], [1, 1, 1]])
    labels = torch.zeros(len(signs), dtype=torch.long)
    logits = (magnitude * signs).requires_grad_()
    found = item_focal(logits, labels, gamma=gamma)
    expected = dense_focal(logits, labels, gamma)
    assert gradient(found, logits).isfinite().all()
    # At 1e4 float32 logits are 1e-3 apart, and so is the logarithm of their sum.
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", APPROACHES)
@pytest.mark.parametrize("magnitude", [1e4, 80.0])
def test_huge_logits_give_finite_kl_and_gradients(name: str, magnitude: float) -> None:
    """Finite is not enough: it has to be the right number as well."""
    table = table_for(name)
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(0, 2, (B, C), generator=generator) * 2 - 1
    labels = torch.arange(B) % C
    logits = (magnitude * signs).float().requires_grad_()
    found = item_kl(logits, labels, to_tensors(table, CPU))
    expected = dense_kl(logits, torch.from_numpy(table.dense())[labels])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        gradient(found, logits), gradient(expected, logits), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("lead", [5.0, 15.0, 17.0, 30.0, 200.0])
def test_a_certain_prediction_has_a_finite_gradient(gamma: float, lead: float) -> None:
    """As p reaches 1 the power's derivative meets 0; training arrives there within an epoch."""
    logits = torch.tensor([[lead, 0.0, 0.0], [0.0, -lead, -lead]], requires_grad=True)
    loss = item_focal(logits, torch.tensor([0, 0]), gamma=gamma)
    slope = gradient(loss, logits)
    assert (loss >= 0).all()
    expected = dense_focal(logits, torch.tensor([0, 0]), gamma)
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(slope, gradient(expected, logits), rtol=0, atol=1e-6)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    """Uncentered, base * sum(z) over thousands of classes cancels a large lse to noise."""
    num_classes = 4000
    table = table_for("2", num_classes)
    generator = torch.Generator().manual_seed(2)
    # Multiples of 1/64, so that the shift is exact in float32.
    logits = torch.randint(-200, 200, (4, num_classes), generator=generator) / 64
    labels, targets = torch.tensor([0, 1, 2, 3999]), to_tensors(table, CPU)
    plain = item_kl(logits, labels, targets)
    expected = dense_kl(logits, torch.from_numpy(table.dense()[labels]))
    torch.testing.assert_close(plain.double(), expected, rtol=0, atol=1e-4)
    shifted = item_kl(logits + 16384, labels, targets)
    torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    """Autocast hands over bfloat16; a logsumexp with 8 bits would lose the loss."""
    logits, labels = batch()
    half, targets = logits.to(dtype), to_tensors(table_for("4"), CPU)
    for found, expected in (
        (item_focal(half, labels, gamma=2), item_focal(half.float(), labels, gamma=2)),
        (item_kl(half, labels, targets), item_kl(half.float(), labels, targets)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_each_item_has_its_own_loss() -> None:
    """The mean comes last; items must not see one another."""
    logits, labels = batch()
    targets = to_tensors(table_for("4"), CPU)
    focal, kl = item_focal(logits, labels, gamma=2), item_kl(logits, labels, targets)
    assert focal.shape == kl.shape == (B,)
    for i in range(B):
        one = slice(i, i + 1)
        torch.testing.assert_close(focal[one], item_focal(logits[one], labels[one], gamma=2))
        torch.testing.assert_close(kl[one], item_kl(logits[one], labels[one], targets))


def test_a_table_keeps_its_values_as_tensors() -> None:
    """What the loss multiplies has to be what was checked to be a distribution."""
    table = table_for("2")
    tensors = to_tensors(table, CPU)
    assert tensors.index.dtype == torch.int64
    assert tensors.weight.dtype == tensors.base.dtype == torch.float32
    assert tensors.negative_entropy.dtype == torch.float32
    np.testing.assert_array_equal(tensors.index.numpy(), table.index)
    np.testing.assert_array_equal(tensors.weight.numpy(), table.weight)
    np.testing.assert_array_equal(tensors.base.numpy(), table.base)
    np.testing.assert_allclose(tensors.negative_entropy.numpy(), table.negative_entropy(), 1e-6)


@pytest.mark.parametrize("gamma", [0, 1, 1.5, 2, 5.0])
def test_gamma_zero_or_from_one_up_is_accepted(gamma: float) -> None:
    """Those are the values with a gradient everywhere."""
    check_gamma(gamma)


@pytest.mark.parametrize("gamma", [0.5, 0.999, -1.0, math.nan])
def test_a_gamma_without_a_gradient_at_certainty_is_refused(gamma: float) -> None:
    """Between 0 and 1 the gradient is NaN at p = 1, hours into a run."""
    with pytest.raises(TargetError, match=str(gamma)) as caught:
        check_gamma(gamma)
    assert caught.value.where == "--gamma"
    assert caught.value.fix


Z = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def test_the_papers_losses_on_one_item_are_these_numbers() -> None:
    """Computed by hand to six digits, apart from any code."""
    assert focal_loss(Z, torch.tensor([0]), gamma=2).item() == pytest.approx(0.055815, abs=1e-6)
    assert focal_loss(Z, torch.tensor([2]), gamma=2).item() == pytest.approx(2.033423, abs=1e-6)
    rows = np.eye(4, dtype=np.float32)
    rows[0] = [0.9, 0.05, 0.03, 0.02]
    for table in (
        DenseTargets(rows),
        TargetTable(np.tile([0, 1, 2, 3], (4, 1)) ^ np.arange(4)[:, None], rows, np.zeros(4, "f4")),
    ):
        np.testing.assert_allclose(table.dense()[0], rows[0])
        found = target_kl(Z, torch.tensor([0]), table).item()
        assert found == pytest.approx(0.182141, abs=1e-6)


@pytest.mark.parametrize("name", APPROACHES)
def test_the_public_losses_are_means_over_the_batch(name: str) -> None:
    """As in the paper's sum, with its lambda."""
    logits, labels = batch()
    table = table_for(name)
    tensors = to_tensors(table, CPU)
    focal, kl = focal_loss(logits, labels, gamma=2), target_kl(logits, labels, table)
    torch.testing.assert_close(focal, item_focal(logits, labels, gamma=2).mean())
    torch.testing.assert_close(kl, item_kl(logits, labels, tensors).mean())
    for given in (table, tensors):
        found = combined_loss(logits, labels, given, gamma=2, kl_weight=0.7)
        torch.testing.assert_close(found, focal + 0.7 * kl)
    torch.testing.assert_close(combined_loss(logits, labels, table, gamma=2, kl_weight=0.0), focal)


def test_without_a_weight_the_kl_is_not_computed() -> None:
    """The baseline neither pays for it nor reports one."""
    logits, labels = batch()
    focal, kl = loss_parts(logits, labels, to_tensors(table_for("4"), CPU), 2, 0.0)
    assert kl.item() == 0
    torch.testing.assert_close(focal, focal_loss(logits, labels, gamma=2))


@pytest.mark.parametrize("name", ["1b", "2", "4", "taxonomy"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_gradient_is_the_slope(name: str, gamma: float) -> None:
    """Against finite differences in float64: autograd follows the formula, not a detached part."""
    tensors = to_tensors(table_for(name), CPU)
    logits, labels = batch(scale=1.0)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return combined_loss(z, labels[:4], tensors, gamma=gamma, kl_weight=0.5)

    assert torch.autograd.gradcheck(loss, logits[:4].double().requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("loss", [focal_loss, combined_loss])
def test_a_loss_refuses_a_gamma_that_has_no_gradient(loss: object) -> None:
    """Whoever calls the function meets the same check as whoever calls fit."""
    logits, labels = batch()
    given = [table_for("4")] if loss is combined_loss else []
    more = {"kl_weight": 1.0} if loss is combined_loss else {}
    with pytest.raises(TargetError, match="gamma"):
        loss(logits, labels, *given, gamma=0.5, **more)
