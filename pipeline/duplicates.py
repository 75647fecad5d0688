"""Find items that are the same product, and choose the one of each group that stays.

    exact   the same picture, byte for byte, and the same title but for case and spaces
    near    picture or title the same (whitened cosine at least 0.995), the other alike (at least
            --min-cosine): a crop, another compression, other colors, an edited title

Same and alike are told by whitened embeddings (whitening.py), of an item and the 16 items with the
highest sum of both cosines, or more where all of these are near. Neither can be said of an item
that lacks its picture or its title, and a picture or title that many items share ("no picture yet",
"Apples") does not count as the same. Groups are connected: a is in c's group if both are duplicates
of b. Cost at 12M items: 25 GB of memory and an hour or more on a CPU.

N items, n some items, D embedding width.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.progress import Progress
from pipeline.search import CellIndex, ExactIndex
from pipeline.whitening import Whitening

logger = logging.getLogger(__name__)

Read = Callable[[str, Int64[np.ndarray, " n"]], Float32[np.ndarray, "n D"]]
"""Reads rows of a modality's embeddings."""

SAME = 0.995
MAX_EXACT = 50_000
_SAMPLE = 100_000
_BLOCK_ROWS = 4096
_NEAREST = 16
_MOST_NEAREST = 2048
_ROUNDING = 0.01  # an index in half precision is off by less
_ASKED_AGAIN = 1000


@dataclass(frozen=True)
class Pairs:
    """Items that are duplicates of each other, each pair once."""

    one: Int64[np.ndarray, " n"]
    other: Int64[np.ndarray, " n"]
    score: Float32[np.ndarray, " n"]
    """The lower of the two modalities' whitened cosines."""


def exact_pairs(keys: Int64[np.ndarray, " N"]) -> Pairs:
    """Pair each item with the first one of the same key; negative keys are nobody's."""
    order = np.argsort(keys, kind="stable")
    order = order[keys[order] >= 0]
    _, first, place = np.unique(keys[order], return_index=True, return_inverse=True)
    one = order[first[place]]
    is_pair = one != order
    num_pairs = int(is_pair.sum())
    return Pairs(one[is_pair], order[is_pair], np.ones(num_pairs, np.float32))


class NearDuplicates:
    """Finds near duplicates among items that have both modalities."""

    def __init__(
        self,
        read: Read,
        rows: Int64[np.ndarray, " n"],
        min_cosine: float,
        tells: dict[str, Bool[np.ndarray, " n"]] | None = None,
    ) -> None:
        """Learn the whitening and fill the index.

        Args:
            read: gives embeddings.
            rows: of the items, which all have a picture and a title.
            min_cosine: of the modality that is only alike.
            tells: of each modality, in whose rows being the same says something; None: in all.
        """
        self._read, self._rows, self._min_cosine = read, rows, min_cosine
        self._tells = tells or {name: np.ones(len(rows), bool) for name in ("image", "title")}
        rng = np.random.default_rng(0)
        drawn = np.sort(rng.choice(len(rows), min(len(rows), _SAMPLE), replace=False))
        samples = {name: read(name, rows[drawn]) for name in ("image", "title")}
        self._whitenings = {name: Whitening(emb) for name, emb in samples.items()}
        for name, emb in samples.items():
            _warn_of_little(name, emb, self._whitenings[name])
        self.is_exact = len(rows) <= MAX_EXACT
        if self.is_exact:
            self._index: ExactIndex | CellIndex = ExactIndex(self._both(np.arange(len(rows))))
            return
        logger.info("%s items: searched in cells", f"{len(rows):,}")
        index = CellIndex(self._both(drawn), len(rows))
        with Progress("clean: index", len(rows)) as progress:
            for block in self._blocks():
                index.add(self._both(block))
                progress.update(len(block))
        self._index = index

    def pairs(self) -> Pairs:
        """Return all pairs that the index finds."""
        found, pending, num_nearest = [], np.arange(len(self._rows)), _NEAREST
        with Progress("clean: near duplicates", len(pending)) as progress:
            while len(pending):
                again = []
                for start in range(0, len(pending), _BLOCK_ROWS):
                    block = pending[start : start + _BLOCK_ROWS]
                    pairs, is_full = self._pairs_of(block, num_nearest)
                    found.append(pairs)
                    again.append(block[is_full])
                    progress.update(int((~is_full).sum()))
                # All of these items' nearest are near duplicates: there may be more.
                pending = np.concatenate(again)
                num_nearest = min(8 * num_nearest, _MOST_NEAREST)
        return _distinct(found, self._rows)

    def recall(self) -> tuple[int, int]:
        """Of the pairs that some items have by exact search, return how many are found, and all."""
        rng = np.random.default_rng(1)
        asked = rng.choice(len(self._rows), min(len(self._rows), _ASKED_AGAIN), replace=False)
        queries, near = self._both(asked), []
        with Progress("clean: exact search of a sample", len(self._rows)) as progress:
            for block in self._blocks():
                one, other = np.nonzero(queries @ self._both(block).T >= self._least)
                near.append(np.stack([asked[one], block[other]]))
                progress.update(len(block))
        one, other = np.concatenate(near, axis=1)
        is_near, _ = self._check(one, other)
        truth = set(zip(one[is_near].tolist(), other[is_near].tolist(), strict=True))
        found, _ = self._pairs_of(asked, _NEAREST)
        pairs = zip(found.one.tolist(), found.other.tolist(), strict=True)
        return len(truth & set(pairs)), len(truth)

    @property
    def _least(self) -> float:
        """The least cosine of two concatenated embeddings that can be near duplicates."""
        return (SAME + self._min_cosine) / 2

    def _pairs_of(
        self, block: Int64[np.ndarray, " b"], num_nearest: int
    ) -> tuple[Pairs, Bool[np.ndarray, " b"]]:
        """Return the pairs of some items, and whose nearest are all near duplicates."""
        num_nearest = min(num_nearest, len(self._rows))
        cosine, place = self._index.top_k(self._both(block), num_nearest)
        is_candidate = (cosine >= self._least - _ROUNDING) & (place >= 0)
        at, column = np.nonzero(is_candidate)
        one, other = block[at], place[at, column]
        is_near, score = self._check(one, other)
        num_near = np.bincount(at[is_near], minlength=len(block))
        is_full = num_near >= num_nearest - 1  # the nearest is the item itself
        is_full &= num_nearest < min(_MOST_NEAREST, len(self._rows))
        return Pairs(one[is_near], other[is_near], score[is_near]), is_full

    def _check(
        self, one: Int64[np.ndarray, " n"], other: Int64[np.ndarray, " n"]
    ) -> tuple[Bool[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
        """Return which pairs are near, and the lower of their cosines."""
        cosines = np.empty((2, len(one)), np.float32)
        for start in range(0, len(one), _BLOCK_ROWS):
            piece = slice(start, start + _BLOCK_ROWS)
            for row, name in enumerate(("image", "title")):
                left, right = self._whitened(name, one[piece]), self._whitened(name, other[piece])
                cosines[row, piece] = (left * right).sum(axis=1)
        is_same = cosines >= SAME
        for row, name in enumerate(("image", "title")):
            is_same[row] &= self._tells[name][one] & self._tells[name][other]
        low = cosines.min(axis=0)
        return (one != other) & is_same.any(axis=0) & (low >= self._min_cosine), low

    def _both(self, block: Int64[np.ndarray, " b"]) -> Float32[np.ndarray, "b 2*D"]:
        """Return both whitened embeddings side by side, at unit length."""
        parts = [self._whitened(name, block) for name in ("image", "title")]
        return np.hstack(parts) * np.float32(0.5**0.5)

    def _whitened(self, name: str, block: Int64[np.ndarray, " b"]) -> Float32[np.ndarray, "b D"]:
        return self._whitenings[name](self._read(name, self._rows[block]))

    def _blocks(self) -> list[Int64[np.ndarray, " b"]]:
        return np.split(
            np.arange(len(self._rows)), range(_BLOCK_ROWS, len(self._rows), _BLOCK_ROWS)
        )


def _warn_of_little(name: str, sample: Float32[np.ndarray, "n D"], whitening: Whitening) -> None:
    """Say so where a sample does not show in what products differ."""
    num_rows, dim = sample.shape
    if num_rows < dim:
        logger.warning("near duplicates may be missed: %d items, below D = %d", num_rows, dim)
    elif whitening(sample).any(axis=1).mean() < 0.5:
        logger.warning("near duplicates are missed: most items have the same %s", name)


def _distinct(found: list[Pairs], rows: Int64[np.ndarray, " n"]) -> Pairs:
    """Return each pair once, by its rows in the plan."""
    if not found:
        empty = np.empty(0, np.int64)
        return Pairs(empty, empty, np.empty(0, np.float32))
    one = np.concatenate([each.one for each in found])
    other = np.concatenate([each.other for each in found])
    score = np.concatenate([each.score for each in found])
    ends = np.stack([np.minimum(one, other), np.maximum(one, other)])
    ends, first = np.unique(ends, axis=1, return_index=True)
    return Pairs(rows[ends[0]], rows[ends[1]], score[first])


def groups_of(num_items: int, *every: Pairs) -> Int64[np.ndarray, " N"]:
    """Return each item's group, numbered by first row; -1 for an item without duplicates."""
    one = np.concatenate([pairs.one for pairs in every])
    other = np.concatenate([pairs.other for pairs in every])
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(num_items, num_items))
    _, component = connected_components(links, directed=False)
    size = np.bincount(component)
    is_grouped = size[component] > 1
    group = np.full(num_items, -1, np.int64)
    numbers, first, place = np.unique(component[is_grouped], return_index=True, return_inverse=True)
    rank = np.empty(len(numbers), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(numbers))
    group[is_grouped] = rank[place]
    return group


def kept_of_groups(
    group: Int64[np.ndarray, " N"],
    labels: Int64[np.ndarray, " N"],
    splits: Int[np.ndarray, " N"],
    is_wanted: Bool[np.ndarray, " N"],
) -> Int64[np.ndarray, " g"]:
    """Return the item of each group that stays.

    It is the first by, in this order: whether it is wanted otherwise; test before val before train,
    so that what is measured stays and what leaked into train goes; how frequent its label is in the
    group; its row.

    Args:
        group: of each item, -1 for none.
        labels: class ids.
        splits: positions in SPLITS, train first.
        is_wanted: False where the item goes for another reason anyway.
    """
    rows = np.flatnonzero(group >= 0)
    if not len(rows):
        return rows
    key = group[rows] * (labels.max() + 1) + labels[rows]
    _, place, count = np.unique(key, return_inverse=True, return_counts=True)
    order = np.lexsort((rows, -count[place], -splits[rows], ~is_wanted[rows], group[rows]))
    _, first = np.unique(group[rows][order], return_index=True)
    return rows[order[first]]
