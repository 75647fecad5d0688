"""Exact search by inner product against a sorted float64 product."""

import numpy as np
import pytest

from pipeline import search as module
from pipeline.search import ExactIndex, top_k


def brute_force(queries: np.ndarray, base: np.ndarray, k: int):
    """Return the k largest products and their rows, best first."""
    products = queries.astype(np.float64) @ base.astype(np.float64).T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, axis=1), order


@pytest.mark.parametrize("k", [1, 7, 50])
def test_search_returns_the_largest_inner_products_best_first(k: int) -> None:
    """Approximate search would quietly change the label graph; k may be everything there is."""
    rng = np.random.default_rng(0)
    queries, base = rng.standard_normal((9, 12)), rng.standard_normal((50, 12))
    similarity, position = top_k(queries.astype(np.float32), base.astype(np.float32), k)
    expected_similarity, expected_position = brute_force(queries, base, k)
    np.testing.assert_array_equal(position, expected_position)
    np.testing.assert_allclose(similarity, expected_similarity, atol=1e-5)


def test_search_ranks_by_product_and_not_by_distance() -> None:
    """The far row in the same direction wins; by Euclidean distance it would come last."""
    base = np.array([[1, 0], [10, 0], [-1, 0], [0.9, 0.1]], np.float32)
    similarity, position = top_k(np.array([[1, 0]], np.float32), base, 4)
    assert position.tolist() == [[1, 0, 3, 2]]
    assert similarity.tolist() == [pytest.approx([10, 1, 0.9, -1])]


def test_search_takes_arrays_in_any_memory_order_and_leaves_them_alone() -> None:
    """Slices and transposes are common; faiss reads raw memory and would mix up rows."""
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((12, 40)).astype(np.float32)
    queries, base = wide.T[::4], wide.T
    before = wide.copy()
    _, position = top_k(queries, base, 5)
    np.testing.assert_array_equal(position, brute_force(queries, base, 5)[1])
    np.testing.assert_array_equal(wide, before)


def test_search_returns_the_dtypes_of_the_contract() -> None:
    """Positions index arrays, similarities are float32 and to be recomputed by who needs more."""
    similarity, position = top_k(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 2)
    assert (similarity.dtype, position.dtype) == (np.float32, np.int64)
    assert similarity.shape == position.shape == (3, 2)


def test_an_index_answers_as_often_as_it_is_asked() -> None:
    """Any number of queries, any k, the same base: what blocks of labels rely on."""
    rng = np.random.default_rng(2)
    base = rng.standard_normal((80, 6)).astype(np.float32)
    index = ExactIndex(base)
    for rows, k in ((slice(0, 1), 3), (slice(5, 70), 9), (slice(0, 80), 80)):
        _, position = index.top_k(base[rows], k)
        np.testing.assert_array_equal(position, brute_force(base[rows], base, k)[1])


class OneGpu:
    """An index on a GPU, as far as its limit goes."""

    def __init__(self, on_cpu: object) -> None:
        self.on_cpu, self.asked = on_cpu, []

    def search(self, queries: np.ndarray, k: int):
        assert k <= 2048, "faiss on a GPU refuses more"
        self.asked.append(k)
        return self.on_cpu.search(queries, k)


def test_a_gpu_answers_what_it_can_and_the_cpu_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU faiss refuses k above 2048, which thousands of equal labels need."""
    gpus = []
    monkeypatch.setattr(module.faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(
        module.faiss, "index_cpu_to_all_gpus", lambda index: gpus.append(OneGpu(index)) or gpus[-1]
    )
    base = np.eye(2100, 4, dtype=np.float32)
    index = ExactIndex(base)
    for k in (1, 2048, 2049):
        assert index.top_k(base[:2], k)[1][:, 0].tolist() == [0, 1]
    assert [gpu.asked for gpu in gpus] == [[1, 2048]]
