"""The label graph against brute force in float64, ties and all."""

import logging
import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pipeline import neighbors as module
from pipeline.neighbors import build_graph
from pipeline.search import ExactIndex
from schemas.errors import NeighborsError

ROOT = Path(__file__).parents[3]


def brute_force(label_emb: np.ndarray, k: int):
    """Sort all cosines, rounded to 1e-6, falling; equal ones by label; without y itself."""
    num_labels = len(label_emb)
    found, cosines = [], []
    for y in range(num_labels):
        ranked = []
        for j in range(num_labels):
            if j != y:
                a, b = label_emb[y].astype(np.float64), label_emb[j].astype(np.float64)
                cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
                ranked.append((-round(cosine, 6), j))
        ranked.sort()
        found.append([j for _, j in ranked[:k]])
        cosines.append([-value for value, _ in ranked[:k]])
    return np.array(found), np.array(cosines)


def assert_same(label_emb: np.ndarray, k: int) -> None:
    """Compare the graph with brute force, entry by entry."""
    graph = build_graph(label_emb, k)
    expected, cosines = brute_force(label_emb, k)
    np.testing.assert_array_equal(graph.neighbors, expected)
    np.testing.assert_allclose(graph.similarities, cosines, atol=1e-9)


def gaussian(num_labels: int, dim: int, seed: int = 0):
    """Return embeddings of differing lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.1, 10, (num_labels, 1))
    return (lengths * rng.standard_normal((num_labels, dim))).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_graph_equals_brute_force(k: int) -> None:
    """Cosines, not products: the lengths differ a hundredfold here."""
    assert_same(gaussian(120, 16), k)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type_is_ranked_in_float64(dtype: type) -> None:
    """float16 products would tie by the dozen and order labels by number."""
    assert_same(gaussian(60, 32).astype(dtype), 10)


def test_cosines_that_differ_in_the_sixth_digit_are_told_apart() -> None:
    """To label 0, labels 1 and 2 differ by 4e-6, 2 and 3 by 5e-8: only those are a tie."""
    angles = np.array([0.0, 0.5, 0.5 - 8e-6, 0.5 - 8.1e-6, 2.0])
    label_emb = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    graph = build_graph(label_emb, 3)
    assert graph.neighbors[0].tolist() == [2, 3, 1]
    assert_same(label_emb, 3)


def test_cosines_equal_to_six_digits_are_ordered_by_label() -> None:
    """Equal labels were seen to differ by 1.2e-7 from device to device; rounding hides that."""
    steps = np.array([0, 4, 1, 3, 2]) * 1e-9
    angles = np.concatenate([[0.0], 0.7 + steps])
    label_emb = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert build_graph(label_emb, 3).neighbors[0].tolist() == [1, 2, 3]


def test_similarities_are_rounded_and_fall_along_a_row() -> None:
    """The artifact's bytes must not carry the digits that differ between devices."""
    similarity = build_graph(gaussian(50, 8), 12).similarities
    np.testing.assert_array_equal(similarity, similarity.round(6))
    assert (np.diff(similarity, axis=1) <= 0).all()


@pytest.mark.parametrize("num_copies", [2, 5, 14, 15, 40])
def test_copies_of_a_label_tie_and_are_ordered_by_number(num_copies: int) -> None:
    """More copies than K plus any margin: the search has to be widened past all of them."""
    distinct = gaussian(30, 8)
    label_emb = np.concatenate([np.repeat(distinct[:2], num_copies, axis=0), distinct])
    order = np.random.default_rng(1).permutation(len(label_emb))
    assert_same(label_emb[order], 5)


def test_a_tie_at_the_border_takes_the_lowest_labels() -> None:
    """60 labels share one place in the list; FAISS proposes any of them."""
    twin = np.array([0.6, 0.8])
    label_emb = np.concatenate(
        [[[1.0, 0.0], [0.99, math.sqrt(1 - 0.99**2)]], np.tile(twin, (60, 1))]
    )
    graph = build_graph(label_emb[::-1].copy(), 4)
    assert graph.neighbors[61].tolist() == [60, 0, 1, 2]


def test_all_labels_equal_is_the_worst_tie() -> None:
    """Nothing separates them, so each row is the lowest labels but its own."""
    graph = build_graph(np.ones((50, 4)), k=3)
    for y, row in enumerate(graph.neighbors.tolist()):
        assert row == [j for j in range(4) if j != y][:3]
    np.testing.assert_array_equal(graph.similarities, np.ones((50, 3)))


def test_a_label_is_never_its_own_neighbor() -> None:
    """Copies have cosine 1 as well, so dropping the first column is not enough."""
    label_emb = np.repeat(gaussian(12, 4), 3, axis=0)
    neighbors = build_graph(label_emb, 8).neighbors
    assert (neighbors != np.arange(36)[:, None]).all()
    assert all(len(set(row)) == 8 for row in neighbors.tolist())


def test_opposite_labels_have_negative_similarity() -> None:
    """A graph of few labels reaches that far; targets clip it, the graph must not."""
    graph = build_graph(np.array([[1.0, 0], [-1, 0], [0, 1]]), 2)
    assert graph.neighbors[0].tolist() == [2, 1]
    assert graph.similarities[0].tolist() == [0.0, -1.0]


def test_permuting_the_labels_permutes_the_graph() -> None:
    """Without ties a label's number must not matter."""
    label_emb = gaussian(70, 12)
    order = np.random.default_rng(2).permutation(70)
    place = np.argsort(order)
    graph, permuted = build_graph(label_emb, 6), build_graph(label_emb[order], 6)
    np.testing.assert_array_equal(permuted.neighbors, place[graph.neighbors[order]])
    np.testing.assert_array_equal(permuted.similarities, graph.similarities[order])


def test_blocks_do_not_show_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are ranked in blocks, some twice; a slip in the bookkeeping would swap rows."""
    label_emb = np.concatenate([np.ones((20, 6)), gaussian(40, 6), np.ones((20, 6))])
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 600)
    monkeypatch.setattr(module, "_SEARCH_ROWS", 7)
    assert_same(label_emb, 4)


def test_faiss_gets_the_labels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 100,000 labels an index a block would copy 200 MB 25 times, on a GPU over the bus."""
    made = []

    class CountedIndex(ExactIndex):
        def __init__(self, base: np.ndarray) -> None:
            made.append(len(base))
            super().__init__(base)

    monkeypatch.setattr(module, "ExactIndex", CountedIndex)
    monkeypatch.setattr(module, "_SEARCH_ROWS", 16)
    assert_same(np.concatenate([np.ones((30, 6)), gaussian(40, 6)]), 4)
    assert made == [70]


def test_memory_grows_with_the_labels_and_not_with_their_square() -> None:
    """100,000 labels would be 40 GB of cosines; FAISS keeps its own a block at a time too."""
    label_emb = gaussian(4000, 8)
    tracemalloc.start()
    try:
        build_graph(label_emb, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4000 * 4000 * np.dtype(np.float32).itemsize / 2


@pytest.mark.parametrize("k", [5, 20])
def test_k_shrinks_to_the_other_labels_with_a_warning(
    k: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Small catalogs work with the default K; the user should know it was not met."""
    label_emb = gaussian(5, 4)
    with caplog.at_level(logging.WARNING):
        graph = build_graph(label_emb, k)
    np.testing.assert_array_equal(graph.neighbors, brute_force(label_emb, 4)[0])
    assert f"from {k} to 4" in caplog.text


def test_k_of_all_other_labels_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The border of the rule above."""
    with caplog.at_level(logging.WARNING):
        assert build_graph(gaussian(5, 4), 4).neighbors.shape == (5, 4)
    assert not caplog.text


@pytest.mark.parametrize("k", [0, -1])
def test_a_k_below_one_is_refused(k: int) -> None:
    """An empty graph would make approaches 3 to 5 the baseline without a word."""
    with pytest.raises(NeighborsError, match=str(k)) as caught:
        build_graph(gaussian(5, 4), k)
    assert caught.value.where == "--k"
    assert caught.value.fix


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf])
def test_an_embedding_without_a_direction_is_refused(bad: float) -> None:
    """A missing chunk reads as NaN; cosines with it would rank at random."""
    label_emb = gaussian(6, 4)
    label_emb[[2, 4]] = bad
    with pytest.raises(NeighborsError, match=r"2 label embeddings .* label 2") as caught:
        build_graph(label_emb, 2)
    assert caught.value.where == "label embeddings"
    assert "embed --labels" in caught.value.fix


def test_bad_embeddings_are_counted_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are normalized some at a time; the count has to be of all, the number the label's."""
    monkeypatch.setattr(module, "_SEARCH_ROWS", 4)
    label_emb = gaussian(13, 4)
    label_emb[[6, 9, 12]] = math.nan
    with pytest.raises(NeighborsError, match=r"3 label embeddings .* label 6"):
        build_graph(label_emb, 2)


@pytest.mark.parametrize("num_labels", [0, 1])
def test_fewer_than_two_labels_have_no_graph(num_labels: int) -> None:
    """There is nobody to be a neighbor; it used to end in an IndexError."""
    with pytest.raises(NeighborsError, match=f"there are {num_labels} labels") as caught:
        build_graph(gaussian(num_labels, 4), 20)
    assert caught.value.where
    assert caught.value.fix


def test_two_labels_are_each_others_only_neighbor(caplog: pytest.LogCaptureFixture) -> None:
    """The smallest catalog there is, with the default K; opposite ones too."""
    for label_emb, cosine in (([[1, 0], [0, 1]], 0.0), ([[2, 0], [-1, 0]], -1.0)):
        graph = build_graph(np.array(label_emb, float), 20)
        assert graph.neighbors.tolist() == [[1], [0]]
        assert graph.similarities.tolist() == [[cosine], [cosine]]
    assert "from 20 to 1" in caplog.text


def test_one_nan_in_an_embedding_is_enough() -> None:
    """A partly written row is as bad as a missing one."""
    label_emb = gaussian(6, 4)
    label_emb[3, 1] = math.nan
    with pytest.raises(NeighborsError, match="label 3"):
        build_graph(label_emb, 2)


def test_the_embeddings_are_left_as_they_were() -> None:
    """Normalizing in place would change what the caller hashes or writes afterwards."""
    label_emb = gaussian(10, 4).astype(np.float64)
    before = label_emb.copy()
    build_graph(label_emb, 3)
    np.testing.assert_array_equal(label_emb, before)


def test_the_number_of_threads_does_not_show_in_the_result() -> None:
    """The graph's hash is in every run: 1 and 4 threads must give the same bytes."""
    script = (
        "import numpy as np; from pipeline.neighbors import build_graph as f;"
        "e = np.random.default_rng(0).standard_normal((400, 24));"
        "e = np.concatenate([e, e[:60], np.tile(e[:1], (40, 1))]);"
        "print(f(e.astype(np.float32), k=20).sha256())"
    )
    hashes = set()
    for threads in ("1", "4"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(done.stdout.strip())
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64
