"""What a user would pick instead of training: nearest label, nearest items, largest class.

    zero-shot       rank labels by the cosine of their text embedding to the item's image, title,
                    or the mean of both (Radford et al. 2021, section 3.1.4)
    nearest items   the k train items with the highest cosine vote with their cosine; `both` adds
                    the cosines of image and title
    largest class   labels by their number of train items

T test items, V held-out train items, D embedding width, C classes, P predictions kept of each.
"""

import logging

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64

from pipeline.predictions import NUM_PREDICTIONS, Predictions
from pipeline.search import top_k
from pipeline.tensors import FitData

logger = logging.getLogger(__name__)

VIEWS = ("image", "title", "both")
NEAREST = (1, 3, 5, 10, 20, 50)
_LOGIT_SCALE = 100.0  # CLIP's own: cosines to logits
# Exact search over 12M train items would take hours on a CPU.
MAX_TRAIN = 200_000
_MAX_VALIDATION = 10_000
_LEAST_VOTE = 1e-6  # who is among the nearest has a vote, however far
_BLOCK_ROWS = 512


def largest_class(data: FitData) -> Predictions:
    """Answer every item with the labels that have most train items, the largest first."""
    num_kept = min(NUM_PREDICTIONS, data.num_classes)
    order = np.argsort(-data.train_counts, kind="stable")[:num_kept]
    share = data.train_counts[order] / data.train_counts.sum()
    num_test = len(data.test)
    return _predictions(np.tile(order, (num_test, 1)), np.tile(share, (num_test, 1)))


def zero_shot(data: FitData, label_emb: Float32[np.ndarray, "C D"], view: str) -> Predictions:
    """Answer with the labels whose embeddings are nearest to the item's.

    Args:
        data: items and embeddings.
        label_emb: of the same encoder.
        view: `image`, `title` or `both`, the mean of the two.
    """
    unit = label_emb / np.linalg.norm(label_emb, axis=1, keepdims=True)
    emb, is_ok = _unit_view(data, data.test.cpu().numpy(), view)
    if view == "both":
        width = emb.shape[1] // 2
        emb = emb[:, :width] + emb[:, width:]
        emb /= np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-12)
    num_kept = min(NUM_PREDICTIONS, data.num_classes)
    top_labels, top_probabilities = [], []
    for block in torch.from_numpy(emb).split(_BLOCK_ROWS):
        logits = _LOGIT_SCALE * (block @ torch.from_numpy(unit.T))
        top = logits.topk(num_kept, dim=1).indices  # probabilities may underflow to a tie
        top_labels.append(top)
        top_probabilities.append(logits.softmax(dim=1).gather(1, top))
    return _predictions(torch.cat(top_labels).numpy(), torch.cat(top_probabilities).numpy(), is_ok)


def nearest_items(data: FitData, view: str) -> tuple[Predictions, int]:
    """Answer by the vote of the k nearest train items; return k as well.

    k is the one of 1, 3, 5, 10, 20, 50 with the best top1 on a tenth of the train items, which
    the other nine tenths answer. Of more than 200,000 train items that many are drawn.

    Args:
        data: items and embeddings.
        view: `image`, `title` or `both`.
    """
    rng = np.random.default_rng(0)
    train, labels = data.train.cpu().numpy(), data.labels.cpu().numpy()
    if len(train) > MAX_TRAIN:
        train = rng.choice(train, MAX_TRAIN, replace=False)
    emb, is_ok = _unit_view(data, train, view)
    train, emb = train[is_ok], emb[is_ok]
    test = data.test.cpu().numpy()
    asked, test_ok = _unit_view(data, test, view)
    if len(train) < 2 or not test_ok.any():
        return _predictions(*_nothing(data), np.zeros(len(test), bool)), 1
    order = rng.permutation(len(train))
    held = order[: min(max(len(train) // 10, 1), _MAX_VALIDATION)]
    rest = order[len(held) :]
    num_found = min(NEAREST[-1], len(rest))
    near = top_k(emb[held], emb[rest], num_found)
    truth, found = labels[train[held]], labels[train[rest]]
    top1 = {
        k: (_vote(*near, found, k, data.num_classes)[0][:, 0] == truth).mean()
        for k in NEAREST
        if k <= num_found
    }
    best = max(top1, key=lambda k: (top1[k], -k))
    logger.info("nearest items by %s: k = %d of %s", view, best, ", ".join(map(str, top1)))
    near = top_k(asked, emb, best)
    return _predictions(*_vote(*near, labels[train], best, data.num_classes), test_ok), best


def _vote(
    cosine: Float[np.ndarray, "T K"],
    place: Int64[np.ndarray, "T K"],
    labels: Int64[np.ndarray, " n"],
    k: int,
    num_classes: int,
) -> tuple[Int64[np.ndarray, "T P"], Float[np.ndarray, "T P"]]:
    """Rank labels by the sum of their items' cosines; labels without a vote follow by number."""
    num_kept = min(NUM_PREDICTIONS, num_classes)
    votes = torch.from_numpy(np.clip(cosine[:, :k], _LEAST_VOTE, None).astype(np.float64))
    voted = torch.from_numpy(labels[place[:, :k]])
    by_number = torch.arange(num_classes) * (-0.5 * _LEAST_VOTE / num_classes)
    top_labels, top_votes = [], []
    for weight, chosen in zip(votes.split(_BLOCK_ROWS), voted.split(_BLOCK_ROWS), strict=True):
        total = torch.zeros(len(weight), num_classes, dtype=torch.float64)
        total.scatter_add_(1, chosen, weight)
        top = (total + by_number).topk(num_kept, dim=1).indices
        top_labels.append(top)
        top_votes.append(total.gather(1, top))
    shares = torch.cat(top_votes) / votes.sum(dim=1, keepdim=True)
    return torch.cat(top_labels).numpy(), shares.numpy()


def _unit_view(
    data: FitData, rows: Int64[np.ndarray, " n"], view: str
) -> tuple[Float32[np.ndarray, "n W"], Bool[np.ndarray, " n"]]:
    """Return unit embeddings, side by side for `both`, and who has any; zeros for an absent one."""
    parts, ok = [], []
    for name in ("image", "title") if view == "both" else (view,):
        found = data.embeddings(name, torch.from_numpy(rows).to(data.device))
        emb = found.float().cpu().numpy()
        is_ok = ~np.isnan(emb).any(axis=1)
        emb[~is_ok] = 0.0
        parts.append(emb / np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-12))
        ok.append(is_ok)
    return np.hstack(parts), np.any(ok, axis=0)


def _nothing(data: FitData) -> tuple[Int64[np.ndarray, "T P"], Float[np.ndarray, "T P"]]:
    shape = (len(data.test), min(NUM_PREDICTIONS, data.num_classes))
    return np.tile(np.arange(shape[1]), (shape[0], 1)), np.zeros(shape)


def _predictions(
    top_labels: Int64[np.ndarray, "T P"],
    top_probabilities: Float[np.ndarray, "T P"],
    predicted: Bool[np.ndarray, " T"] | None = None,
) -> Predictions:
    """Return without -log p of the true class: a vote can give it nothing."""
    num_items = len(top_labels)
    return Predictions(
        top_labels=top_labels,
        top_probabilities=top_probabilities,
        nll=np.full(num_items, np.nan),
        predicted=np.ones(num_items, bool) if predicted is None else predicted,
    )
