"""Which answers may be accepted without a person, at a precision that was asked for.

Thresholds on the top probability are chosen on val and reported on test, so the precision that
test reaches is what the next items can expect; it may fall short of the target. One threshold for
all, and one for each answer (category) that val has enough of.

V validation items, T test items, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from schemas.tables import ACCEPTED_AT

TARGETS = tuple(percent / 100 for percent in ACCEPTED_AT)
# Fewer say little: 30 of 30 right still leaves a true precision of 90% possible (at 95%).
MIN_ANSWERS = 30


@dataclass(frozen=True)
class Answers:
    """Top answers to some items."""

    label: Int[np.ndarray, " T"]
    """Of each item."""
    confidence: Float[np.ndarray, " T"]
    """Its probability; -inf where there was nothing to predict from."""
    is_right: Bool[np.ndarray, " T"]
    """Whether it is the item's label."""


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What a target precision means on test."""

    target: float
    """Share of accepted answers that should be right."""
    threshold: float
    """Lowest accepted probability; inf where val reaches the target with no threshold."""
    coverage: float
    """Share of all test items that are accepted with the one threshold."""
    precision: float
    """Share of those that are right; NaN if none is accepted."""
    category_coverage: float
    """As coverage, with thresholds by category."""
    category_precision: float
    """As precision, with thresholds by category."""


def choose_threshold(
    confidence: Float[np.ndarray, " V"], is_right: Bool[np.ndarray, " V"], target: float
) -> float:
    """Return the lowest threshold above which the share of right answers is at least the target.

    Args:
        confidence: of each answer.
        is_right: whether it is.
        target: in 0..1.
    Returns: one of the confidences; inf if no threshold does it.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    precision = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
    # A threshold takes all of equal confidence or none.
    is_last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    fits = np.flatnonzero((precision >= target) & is_last & (ranked > -np.inf))
    return float(ranked[fits[-1]]) if len(fits) else float("inf")


def category_thresholds(val: Answers, num_classes: int, target: float) -> Float[np.ndarray, " C"]:
    """Return a threshold for each answer: its own where val has 30 of it, else the one for all."""
    found = np.full(num_classes, choose_threshold(val.confidence, val.is_right, target))
    counts = np.bincount(val.label[val.confidence > -np.inf], minlength=num_classes)
    for label in np.flatnonzero(counts >= MIN_ANSWERS):
        own = val.label == label
        found[label] = choose_threshold(val.confidence[own], val.is_right[own], target)
    return found


def accept(
    val: Answers, test: Answers, num_classes: int, targets: Sequence[float] = TARGETS
) -> tuple[Acceptance, ...]:
    """Choose thresholds on val and see on test what they accept.

    Args:
        val: answers that thresholds are chosen on.
        test: answers that are counted.
        num_classes: C.
        targets: precisions asked for.
    """
    found = []
    for target in targets:
        threshold = choose_threshold(val.confidence, val.is_right, target)
        coverage, precision = _counted(test, test.confidence >= threshold)
        own = category_thresholds(val, num_classes, target)
        category_coverage, category_precision = _counted(test, test.confidence >= own[test.label])
        found.append(
            Acceptance(
                target=target,
                threshold=threshold,
                coverage=coverage,
                precision=precision,
                category_coverage=category_coverage,
                category_precision=category_precision,
            )
        )
    return tuple(found)


def _counted(answers: Answers, is_accepted: Bool[np.ndarray, " T"]) -> tuple[float, float]:
    right = answers.is_right[is_accepted]
    return float(is_accepted.mean()), float(right.mean()) if len(right) else float("nan")
