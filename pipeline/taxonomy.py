"""Distances in the category tree, read from label paths such as `Shoes > Boots > Rain Boots`.

    d(a, b) = levels of the longer of the two paths below their lowest common ancestor; d(a, a) = 0

For leaves of equal depth this is the height of the ancestor above them (Bertinetto et al., CVPR
2020). A node is known by all names from the root down, so a name may occur twice, even in one path.

C labels, L levels of the deepest path. DESIGN.md section 8.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int, Int64

from schemas.errors import CatalogError

SEPARATOR = " > "
_BLOCK_ROWS = 256


class Taxonomy:
    """The tree above the labels."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Read the tree.

        Args:
            paths: of the labels in order, levels joined by " > ".
        Raises: CatalogError if a path is empty or has a level without a name.
        """
        levels = [path.split(SEPARATOR) for path in paths]
        bad = [number for number, names in enumerate(levels) if not all(map(str.strip, names))]
        if bad:
            raise CatalogError(
                f"{len(bad)} paths have a level without a name, the first {paths[bad[0]]!r}",
                where=f"labels, column path, label {bad[0]}",
                fix='write every level, as in "Shoes > Boots > Rain Boots"',
            )
        self.depth: Int64[np.ndarray, " C"] = np.array([len(names) for names in levels])
        self._nodes: Int64[np.ndarray, "C L"] = np.full((len(levels), max(self.depth)), -1)
        numbers: dict[tuple[str, ...], int] = {}
        for label, names in enumerate(levels):
            for level in range(len(names)):
                node = numbers.setdefault(tuple(names[: level + 1]), len(numbers))
                self._nodes[label, level] = node

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.depth)

    @property
    def largest(self) -> int:
        """The largest distance between two labels; 0 for a single one."""
        num_shared = int((self._nodes == self._nodes[0]).all(axis=0).sum())  # above all labels
        return int(self.depth.max()) - num_shared

    def distance(
        self, a: Int[np.ndarray, "..."], b: Int[np.ndarray, "..."]
    ) -> Int64[np.ndarray, "..."]:
        """Return d of labels, broadcast against each other."""
        one, other = self._nodes[a], self._nodes[b]
        # A node stands for all names above it too; beyond the end of both, -1 equals -1.
        num_common = ((one == other) & (one >= 0)).sum(axis=-1)
        return np.maximum(self.depth[a], self.depth[b]) - num_common

    def matrix(self) -> Float32[np.ndarray, "C C"]:
        """Return d of all pairs, made some rows at a time."""
        everyone = np.arange(self.num_labels)
        found = np.empty((self.num_labels, self.num_labels), np.float32)
        for first in range(0, self.num_labels, _BLOCK_ROWS):
            rows = everyone[first : first + _BLOCK_ROWS]
            found[rows] = self.distance(rows[:, None], everyone)
        return found
