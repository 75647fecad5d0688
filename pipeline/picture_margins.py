"""Rank items by how much their picture looks like another category's: swapped pictures first.

    margin = mean whitened cosine to the 3 nearest pictures of its own category
             - the same of the 3 nearest among all others

Pictures are compared with pictures, so this works where an encoder knows too little to tell whether
a picture fits a title. Neighbors in the own category are exact; those elsewhere are among the 64
nearest of all (above 50,000 items of the cells looked at, see search.py); who has fewer there is
nobody's. Cost: the sum over categories of their squared sizes, in products of D numbers.

n items, D embedding width, K neighbors.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from pipeline.progress import Progress
from pipeline.search import CellIndex, ExactIndex
from pipeline.whitening import Whitening

logger = logging.getLogger(__name__)

Read = Callable[[Int64[np.ndarray, " n"]], Float32[np.ndarray, "n D"]]
"""Reads rows of the pictures' embeddings."""

MAX_EXACT = 50_000
_SAMPLE = 100_000
_BLOCK_ROWS = 4096
_NEAREST = 64
_NUM_BEST = 3


@dataclass(frozen=True, kw_only=True)
class PictureMargins:
    """Items and how much their pictures are their category's."""

    rows: Int64[np.ndarray, " n"]
    """Of the plan, rising."""
    labels: Int64[np.ndarray, " n"]
    margin: Float32[np.ndarray, " n"]
    """-2 to 2, low for a picture of something else; NaN in a category of one."""
    nearest: Int64[np.ndarray, " n"]
    """Row with the most similar picture of another category; -1 if none is among the nearest."""

    def order(self) -> Int64[np.ndarray, " m"]:
        """Return positions, the lowest margin first; without NaN."""
        order = np.argsort(self.margin, kind="stable")
        return order[: int((~np.isnan(self.margin)).sum())]


def picture_margins(
    read: Read, rows: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]
) -> PictureMargins:
    """Compare every picture with its category's and with others.

    Args:
        read: gives embeddings.
        rows: of items with a picture.
        labels: of these rows.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:_SAMPLE])
    whitening = Whitening(read(rows[drawn]))
    pictures = np.concatenate([whitening(read(rows[block])) for block in _blocks(len(rows))])
    own = _own_category(pictures, labels)
    other, nearest = _other_categories(pictures, labels, drawn)
    return PictureMargins(
        rows=rows,
        labels=labels,
        margin=(own - other).astype(np.float32),
        nearest=np.where(nearest >= 0, rows[nearest], -1),
    )


def _own_category(
    pictures: Float32[np.ndarray, "n D"], labels: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, " n"]:
    """Return the mean cosine to the nearest others of the category; NaN without one."""
    found = np.full(len(labels), np.nan, np.float32)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    with Progress("clean: pictures of a category", len(labels)) as progress:
        for members in np.split(order, starts[1:]):
            num_best = min(_NUM_BEST, len(members) - 1)
            for block in _blocks(len(members)) if num_best else []:
                cosine = pictures[members[block]] @ pictures[members].T
                cosine[np.arange(len(block)), block] = -np.inf  # itself
                best = np.partition(cosine, -num_best, axis=1)[:, -num_best:]
                found[members[block]] = best.mean(axis=1)
            progress.update(len(members))
    return found


def _other_categories(
    pictures: Float32[np.ndarray, "n D"],
    labels: Int64[np.ndarray, " n"],
    sample: Int64[np.ndarray, " s"],
) -> tuple[Float32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return the mean cosine to the nearest of other categories, and the nearest of them.

    Where fewer than three of the neighbors are of others, the farthest neighbor stands for the
    missing ones, which are farther still.
    """
    num_items = len(pictures)
    if num_items <= MAX_EXACT:
        index: ExactIndex | CellIndex = ExactIndex(pictures)
    else:
        index = CellIndex(pictures[sample], num_items)
        index.add(pictures)
    mean, nearest = np.empty(num_items, np.float32), np.empty(num_items, np.int64)
    num_nearest = min(_NEAREST, num_items)
    with Progress("clean: pictures of other categories", num_items) as progress:
        for block in _blocks(num_items):
            cosine, place = index.top_k(pictures[block], num_nearest)
            is_other = (place >= 0) & (labels[place] != labels[block][:, None])
            farthest = np.where(place >= 0, cosine, np.inf).min(axis=1, keepdims=True)
            farthest[np.isinf(farthest)] = -1.0
            # Those of others first, then the stand-ins: cosines fall along a row.
            best = -np.sort(-np.where(is_other, cosine, farthest), axis=1)[:, :_NUM_BEST]
            mean[block] = best.mean(axis=1)
            first = place[np.arange(len(block)), is_other.argmax(axis=1)]
            nearest[block] = np.where(is_other.any(axis=1), first, -1)
            progress.update(len(block))
    return mean, nearest


def _blocks(num_rows: int) -> list[Int64[np.ndarray, " b"]]:
    return np.split(np.arange(num_rows), range(_BLOCK_ROWS, num_rows, _BLOCK_ROWS))
