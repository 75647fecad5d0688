"""What the builders of label representations share.

C classes, K neighbors.
"""

import numpy as np
from jaxtyping import Float64, Int64

from schemas.errors import TargetError
from schemas.targets import TargetTable


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
