"""Laws of every label representation, over random graphs and options."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.targets.curriculum import harden
from pipeline.targets.options import SCHEDULES, WEIGHTINGS, TargetOptions
from pipeline.targets.registry import APPROACHES
from schemas.graph import NeighborGraph
from schemas.targets import DenseTargets, Targets

LAWS = settings(derandomize=True, deadline=None, max_examples=60)
ALPHAS = st.floats(0.0, 0.99)


@st.composite
def graphs(draw: st.DrawFn):
    """Draw a graph of 2..9 labels with ragged rows, zero and negative similarities."""
    num_labels = draw(st.integers(2, 9))
    k = draw(st.integers(1, num_labels - 1))
    neighbors = np.full((num_labels, k), -1)
    similarity = np.full((num_labels, k), np.nan)
    for y in range(num_labels):
        others = [j for j in range(num_labels) if j != y]
        found = draw(st.permutations(others))[: draw(st.integers(0, k))]
        cosines = st.floats(-1, 1) | st.sampled_from([0.0, 1.0])
        values = draw(st.lists(cosines, min_size=len(found), max_size=len(found)))
        neighbors[y, : len(found)] = found
        similarity[y, : len(found)] = sorted(values, reverse=True)
    return NeighborGraph(neighbors, similarity)


@st.composite
def tables(draw: st.DrawFn):
    """Draw an approach's table over a random graph."""
    name = draw(st.sampled_from(sorted(APPROACHES)))
    options = TargetOptions(
        alpha=draw(ALPHAS),
        weighting=draw(st.sampled_from(WEIGHTINGS)),
        temperature=draw(st.floats(0.01, 100)),
    )
    graph = draw(graphs())
    return APPROACHES[name].build(graph, options, paths_of(graph))


def paths_of(graph: NeighborGraph) -> list[str]:
    """Return paths of one to three levels."""
    return [
        " > ".join(["ABC"[y % 3], f"{y % 2}", f"{y}"][-1 - y % 3 :])
        for y in range(graph.num_labels)
    ]


def relabel(graph: NeighborGraph, order: np.ndarray):
    """Return the graph after label order[i] is renamed to i."""
    place = np.append(np.argsort(order), -1)  # -1 stays -1
    return NeighborGraph(place[graph.neighbors[order]], graph.similarities[order])


@LAWS
@given(table=tables())
def test_rows_are_distributions_that_start_with_the_true_class(table: Targets) -> None:
    """Rows >= 0, sum 1, index[y, 0] = y: what the loss and the curriculum take for granted."""
    dense = table.dense()
    assert dense.min() >= -1e-9
    np.testing.assert_allclose(dense.sum(1), 1, atol=1e-6)
    if isinstance(table, DenseTargets):
        return
    np.testing.assert_array_equal(table.index[:, 0], np.arange(table.num_classes))
    assert table.index.min() >= 0
    assert table.index.max() < table.num_classes


@LAWS
@given(table=tables())
def test_entropy_and_mass_off_the_true_class_equal_the_dense_ones(table: Targets) -> None:
    """Both are computed from the sparse parts; the dense matrix is the slow reference."""
    dense = table.dense().clip(0)
    logs = np.log(np.where(dense > 0, dense, 1))
    np.testing.assert_allclose(table.negative_entropy(), (dense * logs).sum(1), atol=1e-6)
    np.testing.assert_allclose(table.off_true(), 1 - np.diag(dense), atol=1e-6)


@LAWS
@given(graph=graphs(), name=st.sampled_from(["2", "3", "4", "5"]))
def test_alpha_zero_is_one_hot(graph: NeighborGraph, name: str) -> None:
    """Without smoothing mass every approach that has an alpha is the baseline."""
    options = TargetOptions(alpha=0.0, weighting="controlled")
    np.testing.assert_array_equal(
        APPROACHES[name].build(graph, options).dense(), np.eye(len(graph.neighbors))
    )


@LAWS
@given(graph=graphs(), alpha=ALPHAS, name=st.sampled_from(["2", "3", "4"]))
def test_the_true_class_keeps_one_minus_alpha_or_everything(
    graph: NeighborGraph, alpha: float, name: str
) -> None:
    """Alpha is the mass off the true class and nothing else, in each approach that has one."""
    options = TargetOptions(alpha=alpha, weighting="controlled")
    true = np.diag(APPROACHES[name].build(graph, options).dense())
    has_taker = {
        "2": np.ones(len(true), bool),
        "3": (graph.neighbors >= 0).any(1),
        "4": (np.nan_to_num(graph.similarities) > 0).any(1),
    }[name]
    np.testing.assert_allclose(true, np.where(has_taker, 1 - alpha, 1), atol=1e-6)


@LAWS
@given(graph=graphs(), name=st.sampled_from(["3", "4"]), weighting=st.sampled_from(WEIGHTINGS))
def test_mass_stays_on_the_label_and_its_neighbors(
    graph: NeighborGraph, name: str, weighting: str
) -> None:
    """The graph is directed: N(y) belongs to y, and an empty place belongs to nobody."""
    options = TargetOptions(weighting=weighting, temperature=0.3)
    dense = APPROACHES[name].build(graph, options).dense()
    for y, row in enumerate(dense):
        assert set(np.flatnonzero(row).tolist()) <= {y, *graph.neighbors[y].tolist()}


@LAWS
@given(graph=graphs(), weighting=st.sampled_from(WEIGHTINGS))
def test_a_more_similar_neighbor_never_weighs_less(graph: NeighborGraph, weighting: str) -> None:
    """It is what approach 4 is for."""
    options = TargetOptions(weighting=weighting, temperature=0.3)
    dense = APPROACHES["4"].build(graph, options).dense()
    for y, row in enumerate(dense):
        weights = row[[j for j in graph.neighbors[y] if j >= 0]]
        assert (np.diff(weights) <= 1e-9).all()  # similarity falls along a row


@LAWS
@given(
    graph=graphs(),
    data=st.data(),
    name=st.sampled_from(sorted(APPROACHES)),
    weighting=st.sampled_from(WEIGHTINGS),
)
def test_renaming_labels_renames_targets(
    graph: NeighborGraph, data: st.DataObject, name: str, weighting: str
) -> None:
    """A label's number carries no meaning."""
    order = np.array(data.draw(st.permutations(range(len(graph.neighbors)))))
    options = TargetOptions(weighting=weighting, temperature=0.3)
    paths = paths_of(graph)
    before = APPROACHES[name].build(graph, options, paths).dense()
    renamed = [paths[label] for label in order]
    after = APPROACHES[name].build(relabel(graph, order), options, renamed).dense()
    np.testing.assert_allclose(after, before[np.ix_(order, order)], atol=1e-6)


@LAWS
@given(table=tables(), schedule=st.sampled_from(SCHEDULES), progress=st.floats(0, 1))
def test_a_hardened_row_is_a_distribution_with_the_same_proportions(
    table: Targets,
    schedule: str,
    progress: float,
) -> None:
    """At any progress: other classes keep their ratios, whatever the true class gains."""
    start, hard = table.dense(), harden(table, progress, schedule=schedule).dense()
    assert hard.min() >= -1e-7
    np.testing.assert_allclose(hard.sum(1), 1, atol=1e-6)
    for y, (before, after) in enumerate(zip(start, hard, strict=True)):
        others = np.arange(len(start)) != y
        scale = after[others].sum() / before[others].sum() if before[others].sum() > 1e-6 else 0
        np.testing.assert_allclose(after[others], before[others] * scale, atol=1e-6)


@LAWS
@given(
    table=tables(), schedule=st.sampled_from(SCHEDULES), one=st.floats(0, 1), two=st.floats(0, 1)
)
def test_the_true_class_never_loses_mass_as_the_run_goes_on(
    table: Targets,
    schedule: str,
    one: float,
    two: float,
) -> None:
    """Hardening only hardens, from the start table on."""
    early, late = sorted((one, two))
    masses = [
        harden(table, progress, schedule=schedule).off_true() for progress in (0.0, early, late)
    ]
    np.testing.assert_allclose(masses[0], table.off_true(), atol=1e-6)
    assert (masses[1] <= masses[0] + 1e-6).all()
    assert (masses[2] <= masses[1] + 1e-6).all()


@LAWS
@given(table=tables(), schedule=st.sampled_from(SCHEDULES))
def test_at_the_end_at_most_one_percent_is_off_the_true_class(
    table: Targets, schedule: str
) -> None:
    """Every schedule ends as good as one-hot, however soft it started."""
    left = harden(table, 1.0, schedule=schedule).off_true()
    assert left.max() <= (1e-6 if schedule == "linear" else 0.01 + 1e-6)
