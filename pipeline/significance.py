"""Whether a difference between two approaches is more than chance.

An item's outcome is its mean over the seeds. Intervals resample test items in pairs, so they say
what other test items would have given, not what other seeds would have.

R resamples, T test items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Int16
from scipy.stats import binom

NUM_RESAMPLES = 2000
_BATCH = 100
_MAX_KEPT = 20_000  # items, whose draws are 80 MB


@dataclass(frozen=True)
class Ratio:
    """A metric as the sum of what the items give over the sum of what they count."""

    numerator: Float[np.ndarray, " T"]
    denominator: Float[np.ndarray, " T"]

    def value(self) -> float:
        """Return the metric; NaN where nothing counts."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total else float("nan")


@dataclass(frozen=True)
class Change:
    """A difference with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Give `+0.52 [+0.10, +0.95]`."""
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    def times(self, factor: float) -> "Change":
        """Return in another unit."""
        return Change(factor * self.value, factor * self.low, factor * self.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of the exact McNemar test.

    Args:
        only_first: items that only the first has right.
        only_second: items that only the second has right.
    Source: the two-sided binomial test of the discordant pairs; Dietterich 1998, section 3.1.
    """
    return _flipped_p(np.repeat([1, -1], [only_first, only_second]))


def mcnemar_over_seeds(first: Int[np.ndarray, " T"], second: Int[np.ndarray, " T"]) -> float:
    """Return the p-value for the number of seeds that have each item right.

    The exact sign-flip test of the items' differences: were the two alike, each item's difference
    could as well be the other way round. With one seed it is McNemar's test; items stay
    independent with several.
    """
    return _flipped_p(first - second)


def _flipped_p(differences: Int[np.ndarray, " T"]) -> float:
    """Return how likely a sum at least this far from 0 is when every sign is tossed."""
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of the sums -n .. n
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        heads = np.zeros(2 * size * count + 1)
        heads[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, heads)
    sums = np.arange(len(chances)) - len(chances) // 2
    return min(1.0, float(chances[np.abs(sums) >= abs(differences.sum())].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number, in the same order.

    Source: Holm 1979: the i-th smallest of m times (m - i + 1), never falling, at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.array(p_values)[order] * factors), 1.0)
    return adjusted.tolist()


def change(new: Ratio, old: Ratio) -> Change:
    """Return new - old with its paired bootstrap interval (percentiles of 2,000 resamples).

    The same items are drawn for both, and for every pair of the same number of items.
    """
    value = new.value() - old.value()
    num_items = len(new.numerator)
    if not np.isfinite(value) or num_items < 2:
        return Change(value, float("nan"), float("nan"))
    columns = np.stack([new.numerator, new.denominator, old.numerator, old.denominator], axis=1)
    drawn = _times_drawn if num_items <= _MAX_KEPT else _times_drawn.__wrapped__
    sums = np.concatenate(
        [
            drawn(num_items, block).astype(np.float64) @ columns
            for block in range(NUM_RESAMPLES // _BATCH)
        ]
    )
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a single mistake
        ratios = np.nan_to_num(sums[:, ::2] / sums[:, 1::2])
    low, high = np.percentile(ratios[:, 0] - ratios[:, 1], [2.5, 97.5])
    return Change(value, float(low), float(high))


@lru_cache(NUM_RESAMPLES // _BATCH)
def _times_drawn(num_items: int, block: int) -> Int16[np.ndarray, "R T"]:
    """Return how often each resample of a block has each item: sums are a product with it."""
    rng = np.random.default_rng([block, num_items])
    found = np.empty((_BATCH, num_items), np.int16)
    for row in found:
        row[:] = np.bincount(rng.integers(num_items, size=num_items), minlength=num_items)
    return found
