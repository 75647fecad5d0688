"""Exact search by inner product against a sorted float64 product."""

import numpy as np
import pytest

from pipeline.search import top_k


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
