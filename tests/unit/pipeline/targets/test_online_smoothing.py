"""Targets that a network makes for itself, against a loop over items."""

import numpy as np
import pytest
import torch

from pipeline.targets import build
from pipeline.targets.online_smoothing import OnlineTargets
from schemas.graph import NeighborGraph

C = 5
GRAPH = NeighborGraph(np.full((C, 1), -1), np.full((C, 1), np.nan))


def start() -> torch.Tensor:
    return torch.from_numpy(build("online", GRAPH, alpha=0.2).matrix)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return three batches in which class 3 is never recognized and class 4 never occurs."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(3):
        labels = torch.randint(0, 4, (20,), generator=generator)
        logits = torch.randn(20, C, generator=generator)
        logits[torch.arange(20), labels] += 1.5
        logits[labels == 3, 3] = -9.0
        found.append((logits, labels))
    return found


def test_it_starts_as_uniform_smoothing() -> None:
    """Before the first epoch the network has nothing to say."""
    np.testing.assert_array_equal(
        build("online", GRAPH, alpha=0.2).dense(),
        build("2", GRAPH, alpha=0.2).dense().astype(np.float32),
    )


def test_a_class_becomes_the_mean_of_its_right_predictions() -> None:
    """Wrong ones would teach the network its own mistakes."""
    targets = OnlineTargets(start())
    rows: dict[int, list[np.ndarray]] = {}
    for logits, labels in batches():
        targets.add(logits, labels)
        for z, y in zip(logits.double(), labels.tolist(), strict=True):
            if int(z.argmax()) == y:
                rows.setdefault(y, []).append(z.softmax(0).numpy())
    assert set(rows) == {0, 1, 2}
    found = targets.next_epoch()
    for y in range(C):
        expected = np.mean(rows[y], axis=0) if y in rows else start()[y].numpy()
        np.testing.assert_allclose(found.matrix[y].numpy(), expected, atol=1e-6)
    entropy = (found.matrix * found.matrix.log()).sum(1)
    torch.testing.assert_close(found.negative_entropy, entropy)


def test_each_epoch_begins_anew() -> None:
    """Only the last epoch's predictions count; who had none keeps the row before."""
    targets = OnlineTargets(start())
    for logits, labels in batches():
        targets.add(logits, labels)
    before = targets.next_epoch().matrix.clone()
    logits = torch.zeros(1, C)
    logits[0, 1] = 2.0
    targets.add(logits, torch.tensor([1]))
    after = targets.next_epoch().matrix
    torch.testing.assert_close(after[1], logits.softmax(1)[0])
    for y in (0, 2, 3, 4):
        torch.testing.assert_close(after[y], before[y])


def test_rows_sum_to_one_after_very_many_items() -> None:
    """Float32 sums of an epoch drift from 1, and the KL needs a distribution."""
    targets, logits = OnlineTargets(start()), torch.zeros(100_000, C)
    logits[:, 0] = 0.1
    targets.add(logits, torch.zeros(100_000, dtype=torch.int64))
    total = targets.next_epoch().matrix[0].double().sum()
    assert total.item() == pytest.approx(1, abs=3e-7)


def test_a_class_that_is_certain_has_no_entropy() -> None:
    """0 log 0 = 0: float32 probabilities reach 0, and one NaN ends the run for all weights."""
    targets, logits = OnlineTargets(start()), torch.zeros(1, C)
    logits[0, 2] = 200.0
    targets.add(logits, torch.tensor([2]))
    found = targets.next_epoch()
    assert found.matrix[2].tolist() == [0, 0, 1, 0, 0]
    assert found.negative_entropy[2] == 0


def test_the_targets_it_started_from_stay_as_they_were() -> None:
    """They share memory with the label representation that the run saves."""
    first = start()
    targets = OnlineTargets(first)
    for logits, labels in batches():
        targets.add(logits, labels)
    targets.next_epoch()
    torch.testing.assert_close(first, start(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_averaged_in_float32(dtype: torch.dtype) -> None:
    """Autocast hands over bfloat16, whose softmax has two digits."""
    logits, labels = batches()[0]
    one, two = OnlineTargets(start()), OnlineTargets(start())
    one.add(logits.to(dtype), labels)
    two.add(logits.to(dtype).float(), labels)
    torch.testing.assert_close(one.next_epoch().matrix, two.next_epoch().matrix)
