"""Laws of the focal loss and the KL, over random logits and tables."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.losses import (
    HardenedTensors,
    TargetTensors,
    centered,
    focal_of_items,
    kl_of_items,
    loss_parts,
    to_tensors,
)
from pipeline.targets.curriculum import Curriculum, harden
from pipeline.targets.options import SCHEDULES
from schemas.targets import DenseTargets, TargetTable

LAWS = settings(derandomize=True, deadline=None, max_examples=60)
Case = tuple[torch.Tensor, torch.Tensor, TargetTable]  # logits, labels, targets
CPU = torch.device("cpu")
GAMMAS = st.sampled_from([0.0, 1.0, 2.0, 3.5])
B = 4


def item_focal(logits: torch.Tensor, labels: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Return the focal loss of each item."""
    return focal_of_items(centered(logits), labels, gamma)


def item_kl(logits: torch.Tensor, labels: torch.Tensor, targets: TargetTensors) -> torch.Tensor:
    """Return the KL of each item."""
    return kl_of_items(centered(logits), labels, targets)


@st.composite
def cases(draw: st.DrawFn):
    """Draw logits, labels and a table with base, neighbors and an empty place."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_classes = draw(st.integers(3, 8))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0, 60.0]))
    logits = torch.from_numpy(scale * rng.standard_normal((B, num_classes))).float()
    labels = torch.from_numpy(rng.integers(0, num_classes, B))
    index = np.stack([(y + np.arange(3)) % num_classes for y in range(num_classes)])
    parts = rng.dirichlet(np.ones(4), num_classes)
    index[0, 2], parts[0, 2] = 0, 0.0
    parts /= parts.sum(1, keepdims=True)
    table = TargetTable(
        index.astype(np.int64),
        parts[:, :3].astype(np.float32),
        (parts[:, 3] / num_classes).astype(np.float32),
    )
    return logits, labels, table


def dense_kl(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return sum t (log t - log q) in float64."""
    log_q = logits.double().log_softmax(1)
    return (torch.special.xlogy(target, target) - target * log_q).sum(1)


def permuted(table: TargetTable, order: np.ndarray):
    """Return the table after class order[i] is renamed to i."""
    return TargetTable(
        np.argsort(order)[table.index[order]], table.weight[order], table.base[order]
    )


def losses(logits: torch.Tensor, labels: torch.Tensor, targets: TargetTensors, gamma: float):
    """Return both losses of each item."""
    return item_focal(logits, labels, gamma=gamma), item_kl(logits, labels, targets)


@LAWS
@given(case=cases())
def test_kl_equals_its_dense_form_and_is_never_negative(case: Case) -> None:
    """The fast path equals the slow, obvious reference, value and gradient."""
    logits, labels, table = case
    logits.requires_grad_()
    found = item_kl(logits, labels, to_tensors(table, CPU))
    expected = dense_kl(logits, torch.from_numpy(table.dense())[labels])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=5e-5)
    assert found.min() >= -1e-5
    slopes = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


@LAWS
@given(case=cases(), gamma=GAMMAS)
def test_focal_loss_lies_between_zero_and_cross_entropy(case: Case, gamma: float) -> None:
    """Focusing only takes away: (1 - p)^gamma is at most 1."""
    logits, labels, _ = case
    found = item_focal(logits, labels, gamma=gamma)
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert (found >= 0).all()
    assert (found <= cross_entropy + 1e-4).all()


@LAWS
@given(case=cases(), gamma=GAMMAS, data=st.data())
def test_renaming_classes_changes_no_loss(case: Case, gamma: float, data: st.DataObject) -> None:
    """A class number carries no meaning, in logits, labels or table."""
    logits, labels, table = case
    order = np.array(data.draw(st.permutations(range(table.num_classes))))
    place = torch.from_numpy(np.argsort(order))
    before = losses(logits, labels, to_tensors(table, CPU), gamma)
    after = losses(
        logits[:, torch.from_numpy(order)],
        place[labels],
        to_tensors(permuted(table, order), CPU),
        gamma,
    )
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@LAWS
@given(case=cases(), gamma=GAMMAS, shift=st.floats(-50, 50))
def test_a_constant_on_all_logits_changes_no_loss(case: Case, gamma: float, shift: float) -> None:
    """Logits are log-probabilities up to a constant."""
    logits, labels, table = case
    targets = to_tensors(table, CPU)
    for one, two in zip(
        losses(logits, labels, targets, gamma),
        losses(logits + shift, labels, targets, gamma),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@LAWS
@given(
    signs=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=5, max_size=5),
    label=st.integers(0, 4),
    gamma=GAMMAS,
    magnitude=st.sampled_from([20.0, 100.0, 1e4]),
)
def test_extreme_logits_keep_losses_and_gradients_finite(
    signs: list[float], label: int, gamma: float, magnitude: float
) -> None:
    """Probabilities of exactly 0 and exactly 1 both occur in float32."""
    logits = (magnitude * torch.tensor([signs])).requires_grad_()
    weight, base = np.full((5, 1), 0.75, np.float32), np.full(5, 0.05, np.float32)
    table = TargetTable(np.arange(5)[:, None], weight, base)
    focal, kl = losses(logits, torch.tensor([label]), to_tensors(table, CPU), gamma)
    assert (focal + kl).isfinite().all()
    slope = torch.autograd.grad((focal + kl).sum(), logits)[0]
    assert slope.isfinite().all()
    assert abs(slope.sum()) < 1e-3 * max(1.0, float(slope.abs().max()))


@LAWS
@given(
    case=cases(),
    gamma=GAMMAS,
    weights=st.tuples(st.floats(0, 3), st.floats(0, 3)),
    is_dense=st.booleans(),
)
def test_the_written_gradient_is_that_of_autograd(
    case: Case, gamma: float, weights: tuple[float, float], is_dense: bool
) -> None:
    """What fit runs, against the losses item by item: values, and the gradient of any mixture."""
    logits, labels, table = case
    targets = to_tensors(DenseTargets(table.dense().astype(np.float32)) if is_dense else table, CPU)
    fast = logits.double().requires_grad_()
    slow = logits.double().requires_grad_()
    found = loss_parts(fast, labels, targets, gamma, kl_weight=1.0)
    expected = [each.mean() for each in losses(slow, labels, targets, gamma)]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-6)
    sum(w * each for w, each in zip(weights, found, strict=True)).backward()
    sum(w * each for w, each in zip(weights, expected, strict=True)).backward()
    # Targets are float32 and sum to 1 within 1e-7, which the two forms of the KL treat apart.
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-6, atol=1e-6)
    alone, nothing = loss_parts(logits, labels, targets, gamma, kl_weight=0.0)
    torch.testing.assert_close(alone.double(), expected[0].detach(), rtol=1e-4, atol=1e-4)
    assert nothing == 0


@LAWS
@given(cases(), st.sampled_from(SCHEDULES), st.floats(0, 1), st.booleans(), GAMMAS)
def test_a_curriculum_gives_the_loss_of_the_hardened_table(
    case: Case, schedule: str, progress: float, is_dense: bool, gamma: float
) -> None:
    """Value and gradient of a share of the start are those of the table that `harden` makes."""
    logits, labels, table = case
    start = DenseTargets(table.dense().astype(np.float32)) if is_dense else table
    share, entropy = Curriculum(start, schedule).at(progress)
    hardened = HardenedTensors(
        to_tensors(start, CPU), torch.from_numpy(share).float(), torch.from_numpy(entropy).float()
    )
    expected = to_tensors(harden(start, progress, schedule=schedule), CPU)
    found = []
    for targets in (hardened, expected):
        z = logits.clone().requires_grad_()
        focal, kl = loss_parts(z, labels, targets, gamma, 1.5)
        (focal + 1.5 * kl).backward()
        found.append((kl.detach(), z.grad, item_kl(logits, labels, targets)))
    scale = 1 + logits.abs().max().item()
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5 * scale)
