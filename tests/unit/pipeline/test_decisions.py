"""Decisions and temperature against numbers worked out by hand and literal loops."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from pipeline.decisions import (
    answer_then_neighbors,
    expected_distance,
    fit_temperature,
    make_decision,
)
from pipeline.taxonomy import Taxonomy
from schemas.errors import TargetError
from schemas.graph import NeighborGraph

PATHS = ["A > a", "A > b", "B > c", "B > d"]
GRAPH = NeighborGraph(np.array([[1, 2], [0, -1], [3, 0], [2, 1]]), np.full((4, 2), 0.5))
P = torch.tensor([[0.35, 0.05, 0.32, 0.28]])


def test_crm_weighs_the_distance_of_each_answer() -> None:
    """The most probable label is 0, but its branch has less mass than that of 2 and 3."""
    distance = torch.from_numpy(Taxonomy(PATHS).matrix())
    risks = expected_distance(P.log(), distance)
    np.testing.assert_allclose(risks, [[1.25, 1.55, 1.08, 1.12]], atol=1e-6)
    decision = make_decision("crm", GRAPH, Taxonomy(PATHS), "cpu")
    assert decision(P.log()).argsort(descending=True).tolist() == [[2, 3, 0, 1]]


def test_crm_reads_the_row_of_the_answer() -> None:
    """Risk of a is sum_j C_aj p_j: with a matrix that is not symmetric, rows are answers."""
    distance = torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    risks = expected_distance(torch.tensor([[0.25, 0.75]]).log(), distance)
    np.testing.assert_allclose(risks, [[0.75, 1.25]], atol=1e-6)


def test_the_answer_is_followed_by_its_own_neighbors_then_by_probability() -> None:
    """An empty place in the graph takes no label's place."""
    log_p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.2, 0.5, 0.25, 0.05]]).log()
    ranked = answer_then_neighbors(log_p, torch.from_numpy(GRAPH.neighbors))
    assert ranked.argsort(descending=True).tolist() == [[3, 2, 1, 0], [1, 0, 2, 3]]


def test_argmax_ranks_by_probability() -> None:
    """The usual decision changes nothing."""
    decision = make_decision("argmax", GRAPH, None, "cpu")
    assert decision(P.log()).tolist() == P.log().tolist()


def test_a_decision_that_cannot_be_made_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the network runs."""
    with pytest.raises(TargetError, match="not every label has a path") as error:
        make_decision("crm", GRAPH, None, "cpu")
    assert error.value.where == "--decision"
    monkeypatch.setattr("pipeline.decisions.MAX_DENSE_CLASSES", 3)
    with pytest.raises(TargetError, match="all pairs") as error:
        make_decision("crm", GRAPH, Taxonomy(PATHS), "cpu")
    assert error.value.where == "--decision"
    with pytest.raises(TargetError, match="'best'") as error:
        make_decision("best", GRAPH, None, "cpu")
    assert "argmax, crm, neighbors" in error.value.fix


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(true_temperature: float) -> None:
    """Labels drawn from softmax(z / T) ask for T; a grid over T agrees."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4000, 6)) * 2
    log_p = log_softmax(logits / true_temperature, axis=1)
    labels = np.array([rng.choice(6, p=np.exp(row)) for row in log_p])
    found = fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found == pytest.approx(true_temperature, rel=0.1)
    grid = np.exp(np.linspace(math.log(0.2), math.log(5), 400))
    nll = [-log_softmax(logits / t, axis=1)[np.arange(4000), labels].mean() for t in grid]
    assert found == pytest.approx(grid[np.argmin(nll)], rel=0.02)
