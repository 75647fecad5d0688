"""Laws of the label graph: exact, without itself, and blind to label numbers."""

import logging
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache.storage import LocalStorage
from pipeline import neighbors as module
from pipeline.edges import MODES, Edges, curate
from pipeline.label_graph import FROM, read_graph, write_graph
from pipeline.neighbors import build_graph
from schemas.graph import NeighborGraph
from tests.fakes import fake_plan

LAWS = settings(derandomize=True, deadline=None, max_examples=60)


@st.composite
def coarse_embeddings(draw: st.DrawFn):
    """Draw few distinct directions for many labels: copies and ties everywhere."""
    num_labels, dim = draw(st.integers(2, 40)), draw(st.integers(1, 3))
    entries = st.integers(-2, 2).map(float)
    label_emb = draw(hnp.arrays(np.float64, (num_labels, dim), elements=entries))
    label_emb[~label_emb.any(axis=1), 0] = 1.0  # no zero rows
    return label_emb


@st.composite
def generic_embeddings(draw: st.DrawFn):
    """Draw random directions without ties among a label's cosines."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    label_emb = rng.standard_normal((draw(st.integers(3, 40)), 8))
    unit = label_emb / np.linalg.norm(label_emb, axis=1, keepdims=True)
    gaps = np.diff(np.sort(unit @ unit.T, axis=1), axis=1)
    assume(gaps.min() > 1e-5)
    return label_emb


def brute_force(label_emb: np.ndarray, k: int):
    """Sort all cosines, rounded to 1e-6, falling; equal ones by label; without y itself."""
    rows = []
    for y, a in enumerate(label_emb):
        ranked = sorted(
            (-round(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)), 6), j)
            for j, b in enumerate(label_emb)
            if j != y
        )
        rows.append(ranked[:k])
    return np.array([[j for _, j in row] for row in rows]), -np.array(
        [[value for value, _ in row] for row in rows]
    )


@LAWS
@given(label_emb=coarse_embeddings(), data=st.data())
def test_the_graph_equals_brute_force_whatever_ties(
    label_emb: np.ndarray, data: st.DataObject
) -> None:
    """Ties are where an approximate candidate list and an exact ranking part."""
    k = data.draw(st.integers(1, len(label_emb) - 1))
    graph = build_graph(label_emb, k)
    neighbors, similarity = brute_force(label_emb, k)
    np.testing.assert_array_equal(graph.neighbors, neighbors)
    np.testing.assert_allclose(graph.similarities, similarity, atol=1e-9)


@LAWS
@given(
    label_emb=coarse_embeddings(),
    block_numbers=st.integers(1, 500),
    search_rows=st.integers(1, 50),
    data=st.data(),
)
def test_the_size_of_blocks_does_not_show(
    label_emb: np.ndarray, block_numbers: int, search_rows: int, data: st.DataObject
) -> None:
    """Blocks bound the memory; one label at a time or all at once, the graph is the same."""
    k = data.draw(st.integers(1, len(label_emb) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_NUMBERS", block_numbers)
        patch.setattr(module, "_SEARCH_ROWS", search_rows)
        graph = build_graph(label_emb, k)
    neighbors, similarity = brute_force(label_emb, k)
    np.testing.assert_array_equal(graph.neighbors, neighbors)
    np.testing.assert_allclose(graph.similarities, similarity, atol=1e-9)


@LAWS
@given(label_emb=coarse_embeddings(), k=st.integers(1, 60))
def test_a_row_holds_distinct_other_labels_from_near_to_far(label_emb: np.ndarray, k: int) -> None:
    """No self-edge, no label twice, K or all others: what every target builder relies on."""
    logging.disable(logging.WARNING)  # K shrinks in many of the examples
    try:
        graph = build_graph(label_emb, k)
    finally:
        logging.disable(logging.NOTSET)
    num_labels = len(label_emb)
    assert graph.neighbors.shape == graph.similarities.shape == (num_labels, min(k, num_labels - 1))
    for y, row in enumerate(graph.neighbors.tolist()):
        assert set(row) <= set(range(num_labels)) - {y}
        assert len(set(row)) == len(row)
    assert (np.diff(graph.similarities, axis=1) <= 0).all()
    assert np.abs(graph.similarities).max() <= 1


@LAWS
@given(label_emb=generic_embeddings(), data=st.data())
def test_permuting_labels_permutes_the_graph(label_emb: np.ndarray, data: st.DataObject) -> None:
    """With an exact index and no ties, a label's number must not matter."""
    order = np.array(data.draw(st.permutations(range(len(label_emb)))))
    place = np.argsort(order)
    graph, permuted = build_graph(label_emb, 2), build_graph(label_emb[order], 2)
    np.testing.assert_array_equal(permuted.neighbors, place[graph.neighbors[order]])
    np.testing.assert_array_equal(permuted.similarities, graph.similarities[order])


@LAWS
@given(label_emb=generic_embeddings(), data=st.data())
def test_the_length_of_an_embedding_does_not_matter(
    label_emb: np.ndarray, data: st.DataObject
) -> None:
    """Cosine: CLIP does not normalize by default, and other sources may not at all."""
    lengths = st.floats(0.01, 100)
    scale = np.array(data.draw(st.lists(lengths, min_size=len(label_emb), max_size=len(label_emb))))
    graph, scaled = build_graph(label_emb, 2), build_graph(label_emb * scale[:, None], 2)
    np.testing.assert_array_equal(scaled.neighbors, graph.neighbors)
    np.testing.assert_allclose(scaled.similarities, graph.similarities, atol=1.1e-6)


@LAWS
@given(label_emb=coarse_embeddings(), data=st.data())
def test_fewer_neighbors_are_the_first_of_more(label_emb: np.ndarray, data: st.DataObject) -> None:
    """K is a cut of one ranking; K = 5 and K = 20 must not disagree on the nearest."""
    most = len(label_emb) - 1
    few = data.draw(st.integers(1, most))
    long, short = build_graph(label_emb, most), build_graph(label_emb, few)
    np.testing.assert_array_equal(short.neighbors, long.neighbors[:, :few])
    np.testing.assert_array_equal(short.similarities, long.similarities[:, :few])


@st.composite
def graphs_and_edges(draw: st.DrawFn):
    """Draw a computed graph and curated edges between its labels, some of them computed too."""
    label_emb = draw(coarse_embeddings())
    num_labels = len(label_emb)
    graph = build_graph(label_emb, draw(st.integers(1, num_labels - 1)))
    numbers = st.integers(0, num_labels - 1)
    pairs = st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1])
    chosen = np.array(draw(st.lists(pairs, min_size=1, max_size=60, unique=True)))
    cosines = st.integers(-10, 10).map(lambda tenths: tenths / 10)
    similarity = np.array(draw(st.lists(cosines, min_size=len(chosen), max_size=len(chosen))))
    edges = Edges(label=chosen[:, 0], neighbor=chosen[:, 1], similarity=similarity, sha256="")
    return graph, edges


def as_lists(graph: NeighborGraph) -> list[dict[int, float]]:
    """Return each label's neighbors with their similarities."""
    return [
        {j: s for j, s in zip(row, similarities, strict=True) if j >= 0}
        for row, similarities in zip(
            graph.neighbors.tolist(), graph.similarities.tolist(), strict=True
        )
    ]


def curated_lists(edges: Edges, num_labels: int) -> list[dict[int, float]]:
    lists: list[dict[int, float]] = [{} for _ in range(num_labels)]
    for y, j, s in zip(edges.label, edges.neighbor, edges.similarity, strict=True):
        lists[y][int(j)] = float(np.float32(s))
    return lists


@LAWS
@given(case=graphs_and_edges())
def test_adding_edges_never_removes_computed_ones(case: tuple[NeighborGraph, Edges]) -> None:
    """A row is the union of both; where both have an edge, the curated similarity counts."""
    graph, edges = case
    curated = curated_lists(edges, graph.num_labels)
    expected = [one | other for one, other in zip(as_lists(graph), curated, strict=True)]
    assert as_lists(curate(graph, edges, "add")) == expected


@LAWS
@given(case=graphs_and_edges())
def test_replacing_changes_only_the_labels_that_are_named(
    case: tuple[NeighborGraph, Edges],
) -> None:
    """Named labels have the file's neighbors and no other, all else stays."""
    graph, edges = case
    curated = curated_lists(edges, graph.num_labels)
    expected = [other or one for one, other in zip(as_lists(graph), curated, strict=True)]
    assert as_lists(curate(graph, edges, "replace")) == expected


@LAWS
@given(case=graphs_and_edges(), mode=st.sampled_from(MODES))
def test_curated_rows_are_ordered_as_computed_ones(
    case: tuple[NeighborGraph, Edges], mode: str
) -> None:
    """Similarity falls, equal ones by label, nobody last: what rank means to every reader."""
    graph = curate(*case, mode)
    for row, similarities in zip(
        graph.neighbors.tolist(), graph.similarities.tolist(), strict=True
    ):
        num = sum(j >= 0 for j in row)
        keys = [(-s, j) for s, j in zip(similarities[:num], row[:num], strict=True)]
        assert keys == sorted(keys)
        assert set(row[num:]) <= {-1}
        assert np.isnan(similarities[num:]).all()
    assert graph.num_neighbors.max() == graph.neighbors.shape[1]


@LAWS
@given(case=graphs_and_edges(), mode=st.sampled_from(MODES))
def test_a_graph_survives_its_file(case: tuple[NeighborGraph, Edges], mode: str) -> None:
    """Whatever the lengths of its rows: `fit` sees what `neighbors` built."""
    graph = curate(*case, mode)
    with tempfile.TemporaryDirectory() as folder:
        workspace = LocalStorage(Path(folder))
        plan = fake_plan(workspace, num_items=1, num_labels=graph.num_labels)
        write_graph(workspace, plan, graph, {FROM: "of a file"})
        found = read_graph(workspace, plan)
    np.testing.assert_array_equal(found.neighbors, graph.neighbors)
    np.testing.assert_array_equal(found.similarities, graph.similarities)
