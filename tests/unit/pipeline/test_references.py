"""References against the obvious loops over items."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from cache.reader import read_label_emb
from cache.storage import LocalStorage
from pipeline.neighbors import write_neighbors
from pipeline.references import VIEWS, largest_class, nearest_items, zero_shot
from pipeline.tensors import FitData
from schemas.plan import Plan
from tests.fakes import fake_embeddings, fake_plan, fake_workspace, write_shard


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=3)
    return plan


def unit(matrix: np.ndarray) -> np.ndarray:
    """Return rows of length 1, in float64."""
    matrix = matrix.astype(np.float64)
    return matrix / np.linalg.norm(matrix, axis=-1, keepdims=True)


def embeddings_of(data: FitData, rows: torch.Tensor) -> dict[str, np.ndarray]:
    """Return some rows of both modalities."""
    return {name: data.embeddings(name, rows).numpy() for name in ("image", "title")}


def cosines(data: FitData, view: str, others: dict[str, np.ndarray], row: int) -> np.ndarray:
    """Return an item's cosines with others in one view; of `both` the sum of the two."""
    own = embeddings_of(data, torch.arange(len(data.labels)))
    names = ("image", "title") if view == "both" else (view,)
    return sum(unit(others[name]) @ unit(own[name][row]) for name in names)


def add_noise(data: FitData) -> None:
    """Blur the images."""
    data.load()
    image_emb = data.whole["image"]
    noise = torch.randn(image_emb.shape, generator=torch.Generator().manual_seed(0))
    data.whole["image"] = image_emb + 0.3 * noise


def test_the_largest_class_is_that_of_most_train_items(workspace: LocalStorage, plan: Plan) -> None:
    """Equal counts by number, and each label with its share."""
    data = FitData(workspace, plan, torch.device("cpu"))
    labels, train = data.labels.numpy(), data.train.numpy()
    counts = Counter(labels[train].tolist())
    order = sorted(range(6), key=lambda label: (-counts[label], label))
    found = largest_class(data)
    assert found.top_labels.tolist() == [order] * len(data.test)
    assert found.top_probabilities[0].tolist() == pytest.approx(
        [counts[label] / len(train) for label in order]
    )


@pytest.mark.parametrize("view", VIEWS)
def test_zero_shot_ranks_labels_by_cosine(workspace: LocalStorage, plan: Plan, view: str) -> None:
    """`both` is the mean of the two unit vectors, brought to unit length again."""
    data = FitData(workspace, plan, torch.device("cpu"))
    label_emb = read_label_emb(workspace, plan)
    found = zero_shot(data, label_emb, view)
    for place in range(len(data.test)):
        names = ("image", "title") if view == "both" else (view,)
        own = {name: each[place] for name, each in embeddings_of(data, data.test).items()}
        item = unit(sum(unit(own[name]) for name in names))
        cosine = unit(label_emb) @ item
        order = np.argsort(-cosine)
        assert found.top_labels[place].tolist() == order.tolist()
        p = np.exp(100 * cosine) / np.exp(100 * cosine).sum()
        np.testing.assert_allclose(found.top_probabilities[place], p[order], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS)
def test_nearest_items_vote_with_their_cosine(
    workspace: LocalStorage, plan: Plan, view: str
) -> None:
    """Item by item over all train items, with the k that was chosen."""
    data = FitData(workspace, plan, torch.device("cpu"))
    found, k = nearest_items(data, view)
    labels, train = data.labels.numpy(), data.train.numpy()
    others = embeddings_of(data, data.train)
    for place, row in enumerate(data.test.tolist()):
        cosine = cosines(data, view, others, row)
        votes: dict[int, float] = defaultdict(float)
        nearest = np.argsort(-cosine)[:k]
        for item in nearest:
            votes[int(labels[train[item]])] += max(cosine[item], 1e-6)
        order = sorted(range(6), key=lambda label: (-votes[label], label))
        assert found.top_labels[place].tolist() == order
        shares = [votes[label] / sum(votes.values()) for label in order]
        np.testing.assert_allclose(found.top_probabilities[place], shares, atol=1e-5)


def test_k_is_chosen_without_looking_at_test(workspace: LocalStorage, plan: Plan) -> None:
    """Whatever the test labels are, k stays the same."""
    data = FitData(workspace, plan, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    add_noise(data)
    _, k = nearest_items(data, "image")
    assert k > 1
    for seed in range(5):
        order = torch.randperm(len(data.test), generator=generator.manual_seed(seed))
        data.labels[data.test] = data.labels[data.test][order]
        assert nearest_items(data, "image")[1] == k


def test_labels_that_lie_in_clusters_ask_for_more_than_one_neighbor(
    workspace: LocalStorage, plan: Plan
) -> None:
    """With noisy items around six centers a vote of many beats the single nearest."""
    data = FitData(workspace, plan, torch.device("cpu"))
    add_noise(data)
    assert nearest_items(data, "image")[1] > 1


def test_an_item_without_the_modality_is_not_predicted(workspace: LocalStorage) -> None:
    """It counts as an error, and it is nobody's neighbor."""
    plan = fake_plan(workspace, num_items=300, num_labels=6)
    embeddings = fake_embeddings(plan)
    embeddings["image"][::2] = np.nan
    for shard in range(plan.num_shards):
        write_shard(workspace, plan, shard, embeddings)
    from cache.writer import write_labels

    label_emb = np.random.default_rng(1).standard_normal((6, 16))
    write_labels(workspace, plan, label_emb, compute_dtype="float32", seconds=0.0)
    write_neighbors(workspace, plan, k=3)
    data = FitData(workspace, plan, torch.device("cpu"))
    has_image = data.image_ok[data.test].numpy()
    assert 0 < has_image.sum() < len(has_image)
    found, _ = nearest_items(data, "image")
    assert found.predicted.tolist() == has_image.tolist()
    assert zero_shot(data, label_emb.astype(np.float32), "image").predicted.tolist() == (
        has_image.tolist()
    )
    assert nearest_items(data, "both")[0].predicted.all()
