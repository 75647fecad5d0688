"""Approach 5's schedules against their recurrences, taken literally, row by row."""

import math

import numpy as np
import pytest

from pipeline.targets.curriculum import after_steps, choose_eps, harden, off_true_at
from pipeline.targets.options import SCHEDULES, TargetOptions
from pipeline.targets.registry import APPROACHES
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import TargetTable

STEPS = 20
VIRTUAL = ("geometric", "odds")


def start_table(name: str = "4", alpha: float = 0.1) -> TargetTable:
    """Return an approach's table over 8 classes: 4 neighbors, two of them, none."""
    rng = np.random.default_rng(3)
    neighbors = np.stack([(y + 1 + np.arange(4)) % 8 for y in range(8)])
    similarity = np.sort(rng.uniform(0, 1, (8, 4)), axis=1)[:, ::-1].copy()
    neighbors[5, 2:], similarity[5, 2:] = -1, np.nan
    neighbors[6], similarity[6] = -1, np.nan
    return APPROACHES[name].build(NeighborGraph(neighbors, similarity), TargetOptions(alpha=alpha))


def step_row(row: np.ndarray, y: int, eps: float, schedule: str):
    """Return a dense row after one step of DESIGN.md's recurrence."""
    s = row.sum() - row[y]
    if s == 0:
        return row
    if schedule == "geometric":
        after = eps * row / (1 + eps * s)
        after[y] = 1 / (1 + eps * s)
        return after
    odds = eps * s / (1 - s)
    after = row * (odds / (1 + odds)) / s
    after[y] = 1 / (1 + odds)
    return after


def literal(dense: np.ndarray, steps: int, eps: float, schedule: str):
    """Return the dense table after so many steps."""
    rows = []
    for y, start in enumerate(dense):
        row = start.copy()
        for _ in range(steps):
            row = step_row(row, y, eps, schedule)
        rows.append(row)
    return np.array(rows)


def most_left(dense: np.ndarray, eps: float, schedule: str) -> float:
    """Return the largest mass off the true class after all steps."""
    return float(1 - np.diag(literal(dense, STEPS, eps, schedule)).min())


def bisected_eps(dense: np.ndarray, schedule: str) -> float:
    """Return the largest eps that leaves at most 1% in every row, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if most_left(dense, middle, schedule) <= 0.01 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("schedule", "expected"), [("geometric", (0.264706, 0.192399)), ("odds", (0.375, 0.350649))]
)
def test_the_recurrences_give_the_numbers_of_the_design(
    schedule: str, expected: tuple[float, float]
) -> None:
    """By hand for eps .9 and s .4; the closed forms are easily off by one step."""
    start = np.array([0.4])
    assert after_steps(start, 0, 0.9, schedule)[0] == pytest.approx(0.4)
    for steps, value in enumerate(expected, start=1):
        assert after_steps(start, steps, 0.9, schedule)[0] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("schedule", VIRTUAL)
@pytest.mark.parametrize("eps", [0.3, 0.9, 1.0])
def test_the_closed_form_equals_the_recurrence_at_every_step(schedule: str, eps: float) -> None:
    """At eps = 1 the geometric sum is a special case, at s = 0 the division."""
    start = np.array([0.0, 1e-6, 0.1, 0.4, 0.95])
    dense = np.stack([[1 - s, s] for s in start])
    for steps in range(STEPS + 1):
        rows = []
        for row in dense:
            after = row.copy()
            for _ in range(steps):
                after = step_row(after, 0, eps, schedule)
            rows.append(after[1])
        found = after_steps(start, steps, eps, schedule)
        np.testing.assert_allclose(found, rows, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("schedule", VIRTUAL)
@pytest.mark.parametrize("name", ["2", "3", "4"])
def test_hardening_takes_20_virtual_steps_with_the_largest_eps(name: str, schedule: str) -> None:
    """At progress n/20 the table is n literal steps from its start, eps found by bisection."""
    table = start_table(name, alpha=0.4)
    dense = table.dense()
    eps = bisected_eps(dense, schedule)
    for steps in (0, 1, 2, 7, 19, 20):
        found = harden(table, steps / STEPS, schedule=schedule).dense()
        np.testing.assert_allclose(found, literal(dense, steps, eps, schedule), atol=2e-6)


@pytest.mark.parametrize("schedule", VIRTUAL)
def test_targets_harden_between_the_virtual_steps_too(schedule: str) -> None:
    """A run has thousands of optimizer steps; targets must not jump at 20 of them."""
    start = start_table(alpha=0.4).off_true()
    eps = choose_eps(float(start.max()), schedule)
    half = off_true_at(start, 0.5 / STEPS, schedule)
    assert half.max() < start.max()
    np.testing.assert_allclose(
        after_steps(half, 0.5, eps, schedule), off_true_at(start, 1 / STEPS, schedule), rtol=1e-9
    )


@pytest.mark.parametrize("schedule", VIRTUAL)
def test_at_most_one_percent_is_left_at_the_end(schedule: str) -> None:
    """The row with most mass sets eps; all others end below it."""
    table = start_table()
    left = off_true_at(table.off_true(), 1.0, schedule)
    assert left.max() == pytest.approx(0.01, abs=1e-9)
    assert np.argmax(left) == np.argmax(table.off_true())


@pytest.mark.parametrize("schedule", VIRTUAL)
@pytest.mark.parametrize("largest", [0.02, 0.4, 0.95, 0.9999])
def test_eps_is_the_largest_that_leaves_one_percent(schedule: str, largest: float) -> None:
    """A smaller eps would also end at 1%, but harden too early."""
    dense = np.array([[1 - largest, largest], [0.0, 1.0]])
    eps = choose_eps(largest, schedule)
    assert 0 < eps <= 1
    assert most_left(dense, eps, schedule) <= 0.01 + 1e-9
    assert eps == 1 or most_left(dense, eps * 1.0001, schedule) > 0.01


@pytest.mark.parametrize("largest", [0.0, 0.005, 0.01])
def test_odds_leave_targets_alone_that_are_hard_enough(largest: float) -> None:
    """Where at most 1% is off the true class already, the largest eps is 1."""
    assert choose_eps(largest, "odds") == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["1", "2", "3", "4"])
def test_progress_zero_is_the_start_table(name: str, schedule: str) -> None:
    """Approach 5 starts as approach 4, whatever the schedule."""
    table = start_table(name)
    np.testing.assert_allclose(
        harden(table, 0.0, schedule=schedule).dense(), table.dense(), atol=1e-7
    )


@pytest.mark.parametrize(
    ("progress", "schedule"),
    [(-0.1, "linear"), (1.01, "odds"), (math.nan, "geometric"), (0.5, "typo")],
)
def test_what_is_no_moment_or_no_schedule_is_refused(progress: float, schedule: str) -> None:
    """Steps beyond the plan would give negative weights, a typo another schedule."""
    with pytest.raises(TargetError, match=f"'{schedule}' at progress {progress}") as caught:
        harden(start_table(), progress, schedule=schedule)
    assert caught.value.where == "harden"
    assert "linear, geometric, odds" in caught.value.fix


def test_targets_harden_linearly_unless_asked_otherwise() -> None:
    """As the documentation of the public function says."""
    table = start_table()
    found, expected = harden(table, 0.3), harden(table, 0.3, schedule="linear")
    np.testing.assert_array_equal(found.weight, expected.weight)


def test_hardened_targets_stay_float32() -> None:
    """Doubles would turn the loss to float64, at twice the time."""
    table, dense = harden(start_table("2"), 0.3), harden(start_table("online"), 0.3)
    assert table.weight.dtype == table.base.dtype == dense.matrix.dtype == np.float32


@pytest.mark.parametrize("name", ["2", "3", "4"])
def test_linear_ends_one_hot(name: str) -> None:
    """The mass off the true class falls from its start to 0 over the run."""
    np.testing.assert_allclose(
        harden(start_table(name), 1.0, schedule="linear").dense(), np.eye(8), atol=1e-7
    )


@pytest.mark.parametrize("progress", [0.25, 0.5, 0.9])
def test_linear_takes_the_same_share_from_every_entry(progress: float) -> None:
    """target[y, j] (1 - p) for j != y, the rest on y."""
    table = start_table(alpha=0.3)
    expected = table.dense() * (1 - progress)
    expected[np.diag_indices(8)] = 0
    expected[np.diag_indices(8)] = 1 - expected.sum(1)
    np.testing.assert_allclose(
        harden(table, progress, schedule="linear").dense(), expected, atol=1e-7
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_neighbors_keep_their_proportions(schedule: str) -> None:
    """Hardening moves mass to the true class and says nothing new about the neighbors."""
    table = start_table()
    before = table.weight[:5, 1:].astype(np.float64)
    after = harden(table, 0.6, schedule=schedule).weight[:5, 1:].astype(np.float64)
    ratio_before = before / before.sum(1, keepdims=True)
    ratio_after = after / after.sum(1, keepdims=True)
    np.testing.assert_allclose(ratio_after, ratio_before, rtol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_label_without_neighbors_stays_one_hot(schedule: str) -> None:
    """Its mass off the true class is 0: no 0 / 0, at any progress."""
    table = start_table()
    for progress in (0.0, 0.5, 1.0):
        row = harden(table, progress, schedule=schedule).dense()[6]
        np.testing.assert_array_equal(row, np.eye(8)[6])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_hot_targets_have_nothing_to_harden(schedule: str) -> None:
    """Every row has mass 0 off the true class, so eps is never solved for."""
    table = harden(start_table("1"), 0.5, schedule=schedule)
    np.testing.assert_array_equal(table.dense(), np.eye(8))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_hardening_is_a_pure_function_of_the_start_and_the_progress(schedule: str) -> None:
    """A run that looks at progress .9 first, or twice, has to train on the same targets."""
    table = start_table()
    start = (table.index.copy(), table.weight.copy(), table.base.copy())
    first = harden(table, 0.3, schedule=schedule)
    harden(table, 0.9, schedule=schedule)
    second = harden(table, 0.3, schedule=schedule)
    for name, value in zip(("index", "weight", "base"), start, strict=True):
        np.testing.assert_array_equal(getattr(table, name), value)
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
