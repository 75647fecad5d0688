"""Nearest neighbors by inner product, exact. The only importer of faiss.

Q queries, B base vectors, D width, K neighbors.
"""

from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Int64

_GPU_MOST = 2048  # faiss on a GPU refuses a larger k


class ExactIndex:
    """Base vectors, held where they are searched: given once, asked many times."""

    def __init__(self, base: Float32[np.ndarray, "B D"]) -> None:
        """Copy the base vectors, also to the GPUs where faiss has any.

        Args:
            base: finite.
        """
        self._on_cpu: Any = faiss.IndexFlatIP(base.shape[1])
        self._on_cpu.add(np.ascontiguousarray(base, np.float32))
        has_gpus = faiss.get_num_gpus() > 0
        self._fast: Any = faiss.index_cpu_to_all_gpus(self._on_cpu) if has_gpus else self._on_cpu

    def top_k(
        self, queries: Float32[np.ndarray, "Q D"], k: int
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Return the k largest inner products of each query and the base rows they belong to.

        Values are float32 and the order of equal ones depends on the device and on the number of
        queries: who needs more recomputes them.

        Args:
            queries: finite.
            k: at most B.
        """
        index = self._fast if k <= _GPU_MOST else self._on_cpu
        similarity, position = index.search(np.ascontiguousarray(queries, np.float32), k)
        return similarity, position


def top_k(
    queries: Float32[np.ndarray, "Q D"], base: Float32[np.ndarray, "B D"], k: int
) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
    """Do as `ExactIndex.top_k` where the base is asked only once."""
    return ExactIndex(base).top_k(queries, k)
