"""Approach 5's second half: harden soft targets to one-hot over the run.

With s the mass off the true class, each schedule moves s from its start to about 0 while the
neighbors keep their proportions. `geometric` and `odds` take 20 virtual steps, in closed form:

    linear      s(p) = s0 (1 - p)
    geometric   s <- eps s / (1 + eps s)        so 1/s <- 1 + (1/s)/eps, an affine recurrence
    odds        s/(1 - s) <- eps s/(1 - s)

eps is the largest value in (0, 1] that leaves at most 1% off the true class in every row.

C classes. Source: Yang 2022, approach 5; geometric: Dogan et al., label-similarity curriculum
learning, ECCV 2020, eq. 3 with v_y <- 1/(1 + eps s), v_k <- eps v_k/(1 + eps s).
"""

import numpy as np
from jaxtyping import Float64
from scipy.optimize import brentq
from scipy.special import xlogy

from pipeline.targets.options import SCHEDULES
from schemas.errors import TargetError
from schemas.targets import DenseTargets, Targets, TargetTable

VIRTUAL_STEPS = 20
MAX_LEFT = 0.01


def harden(table: Targets, progress: float, *, schedule: str = "linear") -> Targets:
    """Return the table as it stands after a share of the run.

    Args:
        table: the start.
        progress: share of the planned optimizer steps, 0..1.
        schedule: `linear`, `geometric` or `odds`.
    Raises: TargetError if progress or schedule is none of these.
    """
    if schedule not in SCHEDULES or not 0.0 <= progress <= 1.0:
        raise TargetError(
            f"schedule {schedule!r} at progress {progress}",
            where="harden",
            fix=f"give progress in 0..1 and one of: {', '.join(SCHEDULES)}",
        )
    start = table.off_true()
    left = off_true_at(start, progress, schedule)
    scale = np.divide(left, start, out=np.zeros_like(left), where=start > 0)
    if isinstance(table, DenseTargets):
        matrix = table.matrix * scale[:, None]
        np.fill_diagonal(matrix, 1.0 - left)
        return DenseTargets(matrix.astype(np.float32))
    base = table.base * scale
    weight = table.weight * scale[:, None]
    weight[:, 0] = 1.0 - left - base
    return TargetTable(table.index, weight.astype(np.float32), base.astype(np.float32))


class Curriculum:
    """The same, step by step, without a table for each step.

    A hardened row lies between its start and one-hot: scale * start + (1 - scale) * [j = y], with
    scale = s/s0. Its sum of t log t follows from that of the start's off-true part E0,

        scale E0 + s log(scale) + (1 - s) log(1 - s)
    """

    def __init__(self, table: Targets, schedule: str) -> None:
        """Take the start."""
        self._start, self._schedule = table.off_true(), schedule
        true = 1.0 - self._start
        self._off_true_entropy = table.negative_entropy() - xlogy(true, true)
        self._eps = choose_eps(float(self._start.max()), schedule) if schedule != "linear" else 1.0

    def at(self, progress: float) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
        """Return each class's scale and sum of t log t after a share of the run."""
        left = off_true_at(self._start, progress, self._schedule, self._eps)
        scale = np.divide(left, self._start, out=np.zeros_like(left), where=self._start > 0)
        true = 1.0 - left
        entropy = scale * self._off_true_entropy + xlogy(left, scale) + xlogy(true, true)
        return scale, entropy


def off_true_at(
    start: Float64[np.ndarray, " C"], progress: float, schedule: str, eps: float | None = None
) -> Float64[np.ndarray, " C"]:
    """Return each class's mass off the true class after a share of the run; eps None: chosen."""
    if schedule == "linear":
        return start * (1.0 - progress)
    steps = VIRTUAL_STEPS * progress
    if eps is None:
        eps = choose_eps(float(start.max()), schedule)
    return after_steps(start, steps, eps, schedule)


def after_steps(
    start: Float64[np.ndarray, " C"], steps: float, eps: float, schedule: str
) -> Float64[np.ndarray, " C"]:
    """Return the mass off the true class after (a fraction of) so many virtual steps."""
    with np.errstate(divide="ignore"):
        if schedule == "odds":
            return 1.0 / (1.0 + (1.0 / start - 1.0) * eps**-steps)
        # u = 1/s follows u <- 1 + u/eps, so u_n = u_0 eps^-n + (eps^-n - 1)/(eps^-1 - 1).
        growth = eps**-steps
        added = steps if eps == 1.0 else (growth - 1.0) / (1.0 / eps - 1.0)
        return 1.0 / (growth / start + added)


def choose_eps(largest: float, schedule: str) -> float:
    """Return the largest eps in (0, 1] that brings a mass `largest` to at most 1% at the end."""

    def left(eps: float) -> float:
        end = after_steps(np.array([largest]), VIRTUAL_STEPS, eps, schedule)
        return float(end[0]) - MAX_LEFT

    if largest <= 0 or left(1.0) <= 0:
        return 1.0
    return float(brentq(left, 1e-6, 1.0, xtol=1e-15))
