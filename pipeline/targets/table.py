"""A label representation as a table with one row per class, never one per item.

    target[y, j] = base[y] + sum of weight[y, s] over s with index[y, s] = j

Rows sum to 1 and index[y, 0] = y. The other entries of a row are distinct labels; an empty place
(a label with fewer neighbors) has weight 0 and index y.

C classes, S entries of a row. Size at 4,350 x 21: 1.1 MB. DESIGN.md section 6.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import xlogy

from schemas.errors import TargetError

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class TargetTable:
    """Target distributions over C classes, one per true class."""

    index: Int64[np.ndarray, "C S"]
    weight: Float32[np.ndarray, "C S"]
    base: Float32[np.ndarray, " C"]

    def __post_init__(self) -> None:
        """Check shapes and that every row is a distribution."""
        num_classes = len(self.index)
        if self.weight.shape != self.index.shape or self.base.shape != (num_classes,):
            raise TargetError(
                f"index {self.index.shape}, weight {self.weight.shape} and base "
                f"{self.base.shape} do not fit",
                where="TargetTable",
                fix="give [C, S], [C, S] and [C]",
            )
        sums = self.base.astype(np.float64) * num_classes + self.weight.sum(1, dtype=np.float64)
        smallest = min(float(self.base.min()), float((self.weight + self.base[:, None]).min()))
        # Written so that NaN fails too.
        if not (np.abs(sums - 1).max() <= _TOLERANCE and smallest >= -_TOLERANCE):
            raise TargetError(
                f"rows sum to {sums.min():.6f}..{sums.max():.6f}, smallest entry {smallest:.2g}; "
                "expected distributions",
                where="TargetTable",
                fix="correct the function that built the table",
            )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.index)

    def off_true(self) -> Float64[np.ndarray, " C"]:
        """Return each row's mass off the true class, 0..1."""
        true = self.base.astype(np.float64) + self.weight[:, 0]
        return np.clip(1.0 - true, 0.0, 1.0)

    def negative_entropy(self) -> Float64[np.ndarray, " C"]:
        """Return sum_j target[y, j] log target[y, j] of each row, in nats."""
        base = self.base.astype(np.float64)[:, None]
        is_entry = self.index != np.arange(self.num_classes)[:, None]
        is_entry[:, 0] = True
        listed = np.where(is_entry, xlogy(base + self.weight, base + self.weight), 0.0)
        num_others = self.num_classes - is_entry.sum(1)
        return listed.sum(1) + num_others * xlogy(base, base)[:, 0]

    def dense(self) -> Float64[np.ndarray, "C C"]:
        """Return the whole matrix; for tests and small C."""
        rows = np.arange(self.num_classes)[:, None]
        matrix = np.repeat(self.base.astype(np.float64)[:, None], self.num_classes, axis=1)
        np.add.at(matrix, (rows, self.index), self.weight)
        return matrix


def neighbor_table(
    true: Float64[np.ndarray, " C"],
    neighbors: Int64[np.ndarray, "C K"],
    weight: Float64[np.ndarray, "C K"],
) -> TargetTable:
    """Make a table from the true classes' and the neighbors' weights, without a base."""
    labels = np.arange(len(neighbors), dtype=np.int64)[:, None]
    return TargetTable(
        index=np.hstack([labels, np.where(neighbors < 0, labels, neighbors)]),
        weight=np.hstack([true[:, None], weight]).astype(np.float32),
        base=np.zeros(len(neighbors), np.float32),
    )


def check_alpha(alpha: float) -> None:
    """Refuse a smoothing mass outside [0, 1).

    Raises: TargetError.
    """
    if not 0.0 <= alpha < 1.0:
        raise TargetError(
            f"alpha is {alpha}, expected 0 <= alpha < 1", where="--alpha", fix="use 0.1, as Yang"
        )
