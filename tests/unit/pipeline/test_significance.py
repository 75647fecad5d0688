"""Tests and intervals against their definitions."""

import math
from itertools import product
from math import comb

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.significance import Change, Ratio, change, holm, mcnemar, mcnemar_over_seeds

LAWS = settings(derandomize=True, deadline=None, max_examples=100)


def test_mcnemar_equals_the_binomial_tail() -> None:
    """With 8 against 2: twice the chance of 2 or fewer heads in 10 throws."""
    assert mcnemar(8, 2) == pytest.approx(0.109375, abs=1e-9)
    assert mcnemar(2, 8) == pytest.approx(2 * sum(comb(10, i) for i in range(3)) / 2**10)
    assert mcnemar(0, 0) == 1.0


@LAWS
@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9),
)
def test_over_seeds_every_sign_is_tossed(pairs: list[tuple[int, int]]) -> None:
    """All ways to turn the items' differences around, one by one; the sign of p's cause is lost."""
    first, second = np.array(pairs).T
    d = first - second
    sums = [abs(np.dot(signs, d)) for signs in product([-1, 1], repeat=len(d))]
    expected = np.mean(np.array(sums) >= abs(d.sum()))
    assert mcnemar_over_seeds(first, second) == pytest.approx(expected)


def test_a_difference_in_more_seeds_weighs_more() -> None:
    """30 items at 3 of 3 against 0 outweigh 60 at 1 against 2: no sign test would say so."""
    first = np.array([3] * 30 + [1] * 60)
    second = np.array([0] * 30 + [2] * 60)
    assert first.sum() > second.sum()
    assert mcnemar_over_seeds(first, second) > 0.05
    one, other = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 0])
    assert mcnemar_over_seeds(one, other) == mcnemar(2, 1)  # one seed: McNemar's own


def literal_holm(p_values: list[float]) -> list[float]:
    """Step down: the smallest times m, the next times m - 1, never below the one before."""
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(ordered):
        largest = max(largest, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(1.0, largest)
    return adjusted


@LAWS
@given(p_values=st.lists(st.floats(0, 1), max_size=8))
def test_holm_equals_the_steps_of_its_definition(p_values: list[float]) -> None:
    """In the order of the input, never below the value itself."""
    found = holm(p_values)
    assert found == pytest.approx(literal_holm(p_values))
    assert all(new >= old for new, old in zip(found, p_values, strict=True))


def test_holm_of_a_worked_example() -> None:
    """.01, .04, .03 of three: .03, .06, .06."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def share(values: np.ndarray) -> Ratio:
    """Return a mean over items."""
    return Ratio(values, np.ones_like(values))


def test_the_interval_is_that_of_paired_items() -> None:
    """Two that are right on nearly the same items differ by little, however hard the items."""
    rng = np.random.default_rng(0)
    old = (rng.random(2000) < 0.5).astype(float)
    new = np.where(rng.random(2000) < 0.05, 1.0, old)
    found = change(share(new), share(old))
    difference = new - old
    standard_error = difference.std() / math.sqrt(2000)
    assert found.value == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - 1.96 * standard_error, abs=1e-3)
    assert found.high == pytest.approx(difference.mean() + 1.96 * standard_error, abs=1e-3)


def test_a_ratio_is_resampled_as_a_ratio() -> None:
    """Severity divides by the number of mistakes, which the resample changes too."""
    rng = np.random.default_rng(1)
    mistakes = (rng.random(1500) < 0.3).astype(float)
    distance = mistakes * rng.integers(1, 5, 1500)
    old = Ratio(distance, mistakes)
    new = Ratio(2 * distance, mistakes)
    found = change(new, old)
    assert found.value == pytest.approx(distance.sum() / mistakes.sum())
    values = []
    for _ in range(2000):
        drawn = rng.integers(0, 1500, 1500)
        values.append(distance[drawn].sum() / mistakes[drawn].sum())
    assert found.low == pytest.approx(np.quantile(values, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(values, 0.975), abs=0.02)


def test_the_interval_agrees_with_scipys_bootstrap() -> None:
    """Sums of resamples as products are those of the items drawn."""
    rng = np.random.default_rng(4)
    new, old = rng.random(300), rng.random(300)
    found = change(share(new), share(old))
    expected = scipy.stats.bootstrap(
        (new, old),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=2e-3)


def test_the_same_items_give_the_same_interval_and_no_difference_none() -> None:
    """A table that is made again is the same table."""
    values = np.random.default_rng(2).random(50)
    other = np.random.default_rng(3).random(50)
    assert change(share(values), share(other)) == change(share(values), share(other))
    assert change(share(values), share(values)) == Change(0.0, 0.0, 0.0)


def test_nothing_to_compare_is_not_a_number() -> None:
    """A run without a mistake has no severity; one item has no interval."""
    none, some = Ratio(np.zeros(3), np.zeros(3)), Ratio(np.ones(3), np.ones(3))
    found = change(none, some)
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    one = change(Ratio(np.ones(1), np.ones(1)), Ratio(np.zeros(1), np.ones(1)))
    assert (one.value, math.isnan(one.high)) == (1.0, True)


def test_a_change_reads_as_a_difference_with_its_interval() -> None:
    """In percent, signs and all."""
    assert str(Change(0.0123, -0.001, 0.02).times(100)) == "+1.23 [-0.10, +2.00]"
