"""Nearest neighbors by inner product, exact or among cells; signs. The only importer of faiss.

Q queries, B base vectors, D width, K neighbors.
"""

import math
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Int64

_GPU_MOST = 2048  # faiss on a GPU refuses a larger k
_ITERATIONS = 5  # of k-means
_NUM_LOOKED_AT = 4  # cells
_ITQ_ITERATIONS = 10  # fifty, FAISS's default, come no nearer and take 48 s at Q = 512


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


class CellIndex:
    """Base vectors sorted into cells; a query is compared with those of the nearest cells only.

    Not exact: a neighbor in a cell that is not looked at is missed. Takes 2 bytes a number.
    """

    def __init__(self, sample: Float32[np.ndarray, "n D"], num_rows: int) -> None:
        """Find the cells' centers.

        Args:
            sample: of the base vectors, to learn from.
            num_rows: how many vectors will be added.
        """
        num_cells = max(1, min(2 ** round(math.log2(2 * math.sqrt(num_rows))), len(sample) // 32))
        dim = sample.shape[1]
        # Held here: the index keeps only a pointer to it.
        self._centers = faiss.IndexFlatIP(dim)
        self._index: Any = faiss.IndexIVFScalarQuantizer(
            self._centers,
            dim,
            num_cells,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
            False,  # not the difference from the center: products of unit vectors are cosines
        )
        self._index.cp.niter, self._index.cp.seed = _ITERATIONS, 0
        self._index.cp.spherical = True
        self._index.nprobe = _NUM_LOOKED_AT
        self._index.train(np.ascontiguousarray(sample, np.float32))

    def add(self, base: Float32[np.ndarray, "n D"]) -> None:
        """Add base vectors; their numbers go on from those before."""
        self._index.add(np.ascontiguousarray(base, np.float32))

    def top_k(
        self, queries: Float32[np.ndarray, "Q D"], k: int
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Do as `ExactIndex.top_k`, among the cells looked at; -1 where these have fewer than k."""
        similarity, position = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return similarity, position


def itq_rotation(vectors: Float32[np.ndarray, "B Q"], *, seed: int) -> Float32[np.ndarray, "Q Q"]:
    """Return the rotation R for which the signs of `vectors @ R` say most of the vectors.

    Args:
        vectors: centered.
        seed: of the rotation that it starts from; 0 to 2^31 - 1.
    Source: Gong and Lazebnik, CVPR 2011, "Iterative Quantization", as FAISS has it.
    """
    itq: Any = faiss.ITQMatrix(vectors.shape[1])
    itq.seed, itq.max_iter = seed, _ITQ_ITERATIONS
    itq.train(np.ascontiguousarray(vectors, np.float32))
    rotation = faiss.vector_to_array(itq.A).reshape(itq.d_out, itq.d_in)
    return np.ascontiguousarray(rotation.T)
