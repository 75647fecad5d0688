"""Binary codes of labels: which features a label has. Labels that share features share bits.

C classes, Q bits.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from schemas.errors import CodesError


@dataclass(frozen=True)
class LabelCodes:
    """One code a label. Source: Yang 2022, the second proposal ("binary codes")."""

    bits: Bool[np.ndarray, "C Q"]
    """Equal rows are labels that the codes cannot tell apart."""

    def __post_init__(self) -> None:
        """Check the shape and the type.

        Raises: CodesError.
        """
        bits = self.bits
        if bits.ndim != 2 or bits.dtype != bool or not bits.size:
            raise CodesError(
                f"codes are {bits.dtype} of shape {bits.shape}, expected bool [C, Q]",
                where="LabelCodes",
                fix="correct what made them",
            )

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.bits)

    @property
    def num_bits(self) -> int:
        """Q."""
        return self.bits.shape[1]

    @property
    def num_collisions(self) -> int:
        """Labels whose code another label has, too."""
        _, counts = np.unique(np.packbits(self.bits, axis=1), axis=0, return_counts=True)
        return int(counts[counts > 1].sum())

    def shuffled(self, seed: int) -> "LabelCodes":
        """Return the same codes, each given to another label: the control that says nothing.

        Every label gets the code of the next in a random circle, so none keeps its own.
        """
        circle = np.random.default_rng(seed).permutation(self.num_labels)
        bits = np.empty_like(self.bits)
        bits[circle] = self.bits[np.roll(circle, -1)]
        return LabelCodes(bits)

    def sha256(self) -> str:
        """Hash shape and bits."""
        shape = np.array(self.bits.shape, "<i8").tobytes()
        return hashlib.sha256(shape + np.packbits(self.bits).tobytes()).hexdigest()
