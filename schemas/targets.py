"""A label representation as one row per class, never one per item. DESIGN.md section 6.

A table is sparse but for a constant: 1.1 MB at C = 4,350 and S = 21. A representation that gives
every class its own weight is dense: 76 MB at 4,350.

C classes, S entries of a row.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import xlogy

from schemas.errors import TargetError

MAX_DENSE_CLASSES = 20_000
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class TargetTable:
    """Target distributions over C classes, one per true class.

    target[y, j] = base[y] + sum of weight[y, s] over s with index[y, s] = j

    Rows sum to 1 and index[y, 0] = y. The other entries of a row are distinct labels; an empty
    place (a label with fewer neighbors) has weight 0 and index y.
    """

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


@dataclass(frozen=True)
class DenseTargets:
    """The same as a whole matrix, for representations without a short row."""

    matrix: Float32[np.ndarray, "C C"]

    def __post_init__(self) -> None:
        """Check that every row is a distribution, and that the matrix is not too large.

        Raises: TargetError.
        """
        num_classes = len(self.matrix)
        check_dense(num_classes)
        sums = self.matrix.sum(1, dtype=np.float64)
        is_square = self.matrix.shape == (num_classes, num_classes)
        if not (is_square and np.abs(sums - 1).max() <= _TOLERANCE and self.matrix.min() >= 0):
            raise TargetError(
                f"a matrix of shape {self.matrix.shape} whose rows are no distributions",
                where="DenseTargets",
                fix="correct the function that built the matrix",
            )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.matrix)

    def off_true(self) -> Float64[np.ndarray, " C"]:
        """Return each row's mass off the true class, 0..1."""
        return np.clip(1.0 - self.matrix.diagonal().astype(np.float64), 0.0, 1.0)

    def negative_entropy(self) -> Float64[np.ndarray, " C"]:
        """Return sum_j target[y, j] log target[y, j] of each row, in nats."""
        return np.array([xlogy(row, row).sum() for row in self.matrix.astype(np.float64)])

    def dense(self) -> Float64[np.ndarray, "C C"]:
        """Return the matrix."""
        return self.matrix.astype(np.float64)


Targets = TargetTable | DenseTargets


def check_dense(num_classes: int) -> None:
    """Refuse a matrix of more than 20,000 classes (1.6 GB), before it is made.

    Raises: TargetError.
    """
    if num_classes > MAX_DENSE_CLASSES:
        raise TargetError(
            f"{num_classes:,} classes: this representation is a matrix over all pairs, "
            f"at most {MAX_DENSE_CLASSES:,}",
            where="--approach",
            fix="choose one of the approaches 1 to 5",
        )
