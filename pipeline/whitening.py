"""Make embeddings tell items apart instead of categories.

An encoder's embeddings vary mostly between kinds of products; what tells two red mugs apart lies in
directions of little variance. Whitening gives all directions the same variance, so that a cosine
near 1 means the same product and not the same shelf.

n items, D embedding width.
Source: Jegou and Chum, ECCV 2012, section 3 (whitening for retrieval); Su et al. 2021 (of sentence
embeddings).
"""

import numpy as np
from jaxtyping import Float, Float32

# Of the mean variance, added to each: directions with less hold rounding, not products.
_FLOOR = 3e-4


class Whitening:
    """A map learned from some embeddings."""

    def __init__(self, sample: Float[np.ndarray, "n D"]) -> None:
        """Learn from a sample of unit embeddings.

        Args:
            sample: finite; a thousand times D is plenty.
        """
        wide = sample.astype(np.float64)
        self._mean = wide.mean(axis=0)
        centered = wide - self._mean
        variance, directions = np.linalg.eigh(centered.T @ centered / len(wide))
        scale = np.sqrt(np.maximum(variance, 0.0) + _FLOOR * max(variance.mean(), 1e-12))
        self._map = (directions / scale).astype(np.float32)

    def __call__(self, emb: Float[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        """Return the whitened embeddings at unit length; a row that is not finite becomes zeros."""
        found = (emb.astype(np.float32) - self._mean.astype(np.float32)) @ self._map
        norm = np.linalg.norm(found, axis=1, keepdims=True)
        is_ok = np.isfinite(norm) & (norm > 0)
        return np.where(is_ok, found / np.where(is_ok, norm, 1.0), 0.0).astype(np.float32)
