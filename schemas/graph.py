"""The label graph: each label's nearest labels. DESIGN.md section 5.

C labels, K neighbors.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from schemas.errors import NeighborsError


@dataclass(frozen=True)
class NeighborGraph:
    """Directed: neighbors[y] belongs to y. Similarity falls along a row of computed neighbors."""

    neighbors: Int64[np.ndarray, "C K"]
    """Labels, distinct in a row, y not among them; -1 where a label has fewer than K."""
    similarities: Float32[np.ndarray, "C K"]
    """Cosines of the label embeddings; NaN where there is no neighbor or nobody knows."""

    def __post_init__(self) -> None:
        """Bring both to their types and check that every neighbor is a label, and not its own.

        Raises: NeighborsError.
        """
        neighbors = np.asarray(self.neighbors, np.int64)
        similarities = np.asarray(self.similarities, np.float32)
        object.__setattr__(self, "neighbors", neighbors)
        object.__setattr__(self, "similarities", similarities)
        problem = _problem(neighbors, similarities)
        if problem:
            raise NeighborsError(problem, where="NeighborGraph", fix="correct what made the graph")

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.neighbors)

    @property
    def num_neighbors(self) -> Int64[np.ndarray, " C"]:
        """How many neighbors each label has, K or fewer."""
        return (self.neighbors >= 0).sum(axis=1)

    def sha256(self) -> str:
        """Hash neighbors and similarities."""
        parts = (self.neighbors.astype("<i8").tobytes(), self.similarities.astype("<f4").tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _problem(neighbors: Int64[np.ndarray, "C K"], similarities: Float32[np.ndarray, "C K"]) -> str:
    if neighbors.ndim != 2 or neighbors.shape != similarities.shape:
        return f"neighbors {neighbors.shape} and similarities {similarities.shape} do not fit"
    num_labels = len(neighbors)
    if ((neighbors < -1) | (neighbors >= num_labels)).any():
        found = int(neighbors[(neighbors < -1) | (neighbors >= num_labels)][0])
        return f"neighbor {found} is no label: there are {num_labels}"
    own = np.flatnonzero((neighbors == np.arange(num_labels)[:, None]).any(axis=1))
    if len(own):
        return f"label {own[0]} is its own neighbor"
    ordered = np.sort(neighbors, axis=1)
    repeated = ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any(axis=1)
    if repeated.any():
        return f"label {np.flatnonzero(repeated)[0]} has a neighbor twice"
    return ""
