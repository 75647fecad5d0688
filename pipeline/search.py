"""Nearest neighbors by inner product, exact. The only importer of faiss.

Q queries, B base vectors, D width, K neighbors.
"""

from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Int64


def top_k(
    queries: Float32[np.ndarray, "Q D"], base: Float32[np.ndarray, "B D"], k: int
) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
    """Return the k largest inner products of each query and the base rows they belong to.

    Runs on the GPUs where faiss has any. Values are float32 and the order of equal ones depends
    on the device: who needs more recomputes them.

    Args:
        queries: finite.
        base: finite.
        k: at most B.
    """
    index: Any = faiss.IndexFlatIP(base.shape[1])
    if faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(np.ascontiguousarray(base, np.float32))
    similarity, position = index.search(np.ascontiguousarray(queries, np.float32), k)
    return similarity, position
