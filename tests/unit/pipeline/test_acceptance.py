"""Thresholds against every possible threshold, and counts by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.acceptance import (
    MIN_ANSWERS,
    Answers,
    accept,
    category_thresholds,
    choose_threshold,
)


def answers(confidence: list[float], right: list[bool], label: list[int] | None = None) -> Answers:
    """Return answers, all of label 0 unless said."""
    labels = np.zeros(len(right), np.int64) if label is None else np.array(label)
    return Answers(labels, np.array(confidence, float), np.array(right, bool))


def best_threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> float:
    """Try each confidence as threshold; keep the lowest that reaches the target."""
    fits = [
        c for c in confidence.tolist() if c > -math.inf and right[confidence >= c].mean() >= target
    ]
    return min(fits, default=math.inf)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    items=st.lists(
        st.tuples(st.sampled_from([-math.inf, 0.1, 0.4, 0.5, 0.9, 1.0]), st.booleans()), max_size=20
    ),
    target=st.sampled_from([0.5, 0.75, 0.95, 1.0]),
)
def test_the_threshold_is_the_lowest_that_reaches_the_target(
    items: list[tuple[float, bool]], target: float
) -> None:
    """Equal confidences stand or fall together, and an item without an answer never counts."""
    confidence = np.array([each for each, _ in items])
    right = np.array([is_right and each > -math.inf for each, is_right in items], bool)
    found = choose_threshold(confidence, right, target)
    assert found == best_threshold(confidence, right, target)


def test_precision_may_recover_below_a_wrong_answer() -> None:
    """One wrong answer at .9 does not end the search: 3 of 4 above .6 are right."""
    confidence, right = np.array([0.95, 0.9, 0.7, 0.6, 0.2]), np.array([1, 0, 1, 1, 0], bool)
    assert choose_threshold(confidence, right, 0.75) == 0.6


def test_thresholds_come_from_val_and_counts_from_test() -> None:
    """What test reaches may fall short, and is said."""
    val = answers([0.9, 0.8, 0.7, 0.6], [True, True, True, False])
    test = answers([0.95, 0.75, 0.72, 0.5, -math.inf], [True, False, True, True, False])
    (found,) = accept(val, test, 1, targets=[0.95])
    assert found.threshold == 0.7
    assert found.coverage == pytest.approx(3 / 5)
    assert found.precision == pytest.approx(2 / 3)


def test_a_target_that_val_never_reaches_accepts_nothing() -> None:
    """Not everything, and not an error."""
    (found,) = accept(answers([0.9], [False]), answers([0.99], [True]), 1, targets=[0.95])
    assert found.threshold == math.inf
    assert (found.coverage, found.category_coverage) == (0.0, 0.0)
    assert math.isnan(found.precision)


def test_an_answer_has_a_threshold_of_its_own_where_val_has_enough_of_it() -> None:
    """Label 0 is reliable from .5 on, label 1 only above .9; label 2 is too rare to say."""
    confidence = [0.5] * MIN_ANSWERS + [0.6] * (MIN_ANSWERS - 1) + [0.95] + [0.99]
    right = [True] * MIN_ANSWERS + [False] * (MIN_ANSWERS - 1) + [True] + [True]
    label = [0] * MIN_ANSWERS + [1] * MIN_ANSWERS + [2]
    val = answers(confidence, right, label)
    overall = choose_threshold(val.confidence, val.is_right, 0.95)
    assert category_thresholds(val, 3, 0.95).tolist() == [0.5, 0.95, overall]
    test = answers([0.55, 0.65, 0.7], [True, False, True], [0, 1, 2])
    (found,) = accept(val, test, 3, targets=[0.95])
    assert overall == 0.95
    assert (found.coverage, found.category_coverage) == (0.0, pytest.approx(1 / 3))
    assert found.category_precision == 1.0


def test_val_items_without_an_answer_do_not_make_an_answer_frequent() -> None:
    """Their label is whatever the network says of nothing."""
    confidence = [-math.inf] * MIN_ANSWERS + [0.9]
    val = answers(confidence, [False] * MIN_ANSWERS + [True], [0] * MIN_ANSWERS + [1])
    assert category_thresholds(val, 2, 0.95).tolist() == [0.9, 0.9]
