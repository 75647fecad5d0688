"""Whitening against a solve with the covariance, and what it is for."""

import numpy as np

from pipeline.whitening import Whitening


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_products_are_those_of_the_inverse_covariance() -> None:
    """X' C^-1 y between centered rows, at unit length: the definition, without eigenvectors."""
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))
    found = Whitening(sample)(sample)
    centered = sample - sample.mean(axis=0)
    covariance = centered.T @ centered / len(sample)
    covariance += 3e-4 * np.trace(covariance) / 6 * np.eye(6)
    products = centered @ np.linalg.solve(covariance, centered.T)
    norms = np.sqrt(np.diag(products))
    np.testing.assert_allclose(found @ found.T, products / np.outer(norms, norms), atol=1e-4)


def test_a_shelf_mate_is_far_and_a_copy_is_near() -> None:
    """Raw cosines of both are close to 1 where embeddings vary mostly between shelves."""
    rng = np.random.default_rng(1)
    shelves = 3 * rng.standard_normal((20, 32))
    emb = unit(shelves[np.arange(2000) % 20] + 0.4 * rng.standard_normal((2000, 32)))
    copy = unit(emb[0] + 0.003 * rng.standard_normal((1, 32)))
    assert emb[0] @ emb[20] > 0.95
    first, mate, again = Whitening(emb)(np.vstack([emb[:1], emb[20:21], copy]))
    assert first @ mate < 0.7
    assert first @ again > 0.95


def test_rows_without_an_embedding_are_near_nothing() -> None:
    """NaN in the cache; a product with it would make every comparison false or true at will."""
    sample = np.random.default_rng(2).standard_normal((50, 4))
    found = Whitening(sample)(np.array([[np.nan] * 4, [1.0, 2.0, 3.0, 4.0]]))
    assert found[0].tolist() == [0.0] * 4
    assert abs(np.linalg.norm(found[1]) - 1) < 1e-6
    assert found.dtype == np.float32


def test_equal_embeddings_only_are_no_error() -> None:
    """A catalog of one picture has no variance at all."""
    found = Whitening(np.ones((5, 3)))(np.ones((5, 3)))
    assert np.isfinite(found).all()
