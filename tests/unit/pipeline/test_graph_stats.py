"""The figures of a label graph, on graphs small enough to count by hand."""

import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import cli
from cache.storage import LocalStorage
from pipeline.graph_plot import plot_graph
from pipeline.graph_stats import Agreement, LabelValue, graph_stats, in_degrees
from pipeline.label_graph import GRAPH
from pipeline.neighbors import write_neighbors
from schemas.graph import NeighborGraph
from tests.fakes import fake_workspace

PATHS = ["Shoes > Boots", "Shoes > Clogs", "Shoes > Kids > Boots", "Toys > Kites", "Toys > Balls"]
GRAPH_OF_5 = NeighborGraph(
    [[1, 2, 3], [0, -1, -1], [0, 1, -1], [4, 0, -1], [3, 0, -1]],
    [
        [0.9, 0.5, 0.1],
        [0.9, np.nan, np.nan],
        [0.5, 0.4, np.nan],
        [0.3, 0.2, np.nan],
        [0.3, -0.1, np.nan],
    ],
)


def labels(paths: list[str | None]) -> pa.Table:
    names = [f"name {y}" for y in range(len(paths))]
    return pa.table(
        {"label_id": [f"L{y}" for y in range(len(paths))], "name": names, "path": paths}
    )


def test_edges_and_lengths_of_rows_are_counted() -> None:
    """Empty places are no neighbors."""
    found = graph_stats(GRAPH_OF_5, labels(PATHS))
    assert (found.num_labels, found.num_edges) == (5, 10)
    assert (found.min_neighbors, found.max_neighbors) == (1, 3)


def test_similarity_is_that_of_each_rows_first_and_last_neighbor() -> None:
    """Of rows of any length; label 1 has one neighbor, which is both."""
    found = graph_stats(GRAPH_OF_5, labels(PATHS))
    nearest, last = [0.9, 0.9, 0.5, 0.3, 0.3], [0.1, 0.9, 0.4, 0.2, -0.1]
    assert found.nearest == pytest.approx(np.quantile(nearest, [0.05, 0.5, 0.95]), abs=1e-6)
    assert found.last == pytest.approx(np.quantile(last, [0.05, 0.5, 0.95]), abs=1e-6)


def test_agreement_with_the_tree_stands_beside_chance() -> None:
    """Half of the neighbors in one branch says little where there are two branches."""
    found = graph_stats(GRAPH_OF_5, labels(PATHS))
    # Same parent: 0-1, 1-0, 3-4, 4-3. Groups of 2 (Shoes), 1 (Kids) and 2 (Toys) among 4 others.
    by_chance = np.mean([1 / 4] * 3 + [1 / 4] + [0] * 2 + [1 / 4] * 4)
    assert found.same_parent == Agreement(share=0.4, by_chance=pytest.approx(by_chance))
    # Same branch: all but 0-3, 3-0, 4-0. Three labels of Shoes, two of Toys.
    by_chance = np.mean([2 / 4] * 6 + [1 / 4] * 4)
    assert found.same_branch == Agreement(share=0.7, by_chance=pytest.approx(by_chance))


def test_chance_is_what_a_random_graph_has() -> None:
    """The formula against a draw: neighbors from all others alike."""
    rng = np.random.default_rng(0)
    neighbors = [rng.permutation(np.delete(np.arange(400), y))[:20] for y in range(400)]
    graph = NeighborGraph(neighbors, np.zeros((400, 20)))
    paths = [f"{'AAAAABBC'[y % 8]} > {y % 16} > {y}" for y in range(400)]
    found = graph_stats(graph, labels(paths))
    for each in (found.same_parent, found.same_branch):
        assert each.share == pytest.approx(each.by_chance, abs=0.02)
        assert each.by_chance > 0.05


def test_one_label_without_a_path_leaves_the_tree_out() -> None:
    """Half a tree would be compared with the wrong chance."""
    found = graph_stats(GRAPH_OF_5, labels([*PATHS[:4], None]))
    assert found.same_parent is None
    assert found.same_branch is None
    assert not any("parent" in row[0] for row in found.table().rows)
    shown = [row[0] for row in graph_stats(GRAPH_OF_5, labels(PATHS)).table().rows]
    assert "neighbors with the same parent" in shown


def test_hubs_are_who_most_others_list() -> None:
    """Equal ones by label."""
    assert in_degrees(GRAPH_OF_5).tolist() == [4, 2, 1, 2, 1]
    found = graph_stats(GRAPH_OF_5, labels(PATHS))
    assert [each.label_id for each in found.hubs] == ["L0", "L1", "L3", "L2", "L4"]
    assert found.hubs[0] == LabelValue(label_id="L0", name="name 0", value=4)
    assert found.num_unlisted == 0
    star = NeighborGraph([[1], [0], [0], [0], [0], [0], [0]], np.full((7, 1), 0.5))
    found = graph_stats(star, labels(PATHS + PATHS[:2]))
    assert found.num_unlisted == 5
    assert len(found.hubs) == 5


def test_the_isolated_are_far_even_from_their_nearest() -> None:
    """Their neighbors are so by default only; a person should look at them."""
    found = graph_stats(GRAPH_OF_5, labels(PATHS))
    assert [each.label_id for each in found.isolated] == ["L3", "L4", "L2", "L0", "L1"]
    assert [each.value for each in found.isolated] == pytest.approx([0.3, 0.3, 0.5, 0.9, 0.9])


def test_unknown_similarities_are_said_to_be_unknown() -> None:
    """A graph made by hand may have none; a label without neighbors is not isolated at NaN."""
    graph = NeighborGraph([[1, -1], [-1, -1], [0, 1]], np.full((3, 2), np.nan))
    found = graph_stats(graph, labels(PATHS[:3]))
    assert found.nearest is None
    assert found.last is None
    assert found.isolated == ()
    assert ("similarity of the nearest", "not known") in found.table().rows
    assert plot_graph(graph).startswith(b"\x89PNG")


def run(workspace: LocalStorage, *arguments: str | Path) -> Result:
    call = ["neighbors", *map(str, arguments), "--workspace", workspace.location]
    return CliRunner().invoke(cli.main, call)


def test_the_command_prints_and_draws_the_graph_as_it_is(workspace: LocalStorage) -> None:
    """Nothing is built; the picture lies beside the other reports."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=2)
    before = workspace.read(GRAPH)
    result = run(workspace, "--stats")
    assert result.exit_code == 0, result.output
    for words in ("neighbors a label", "5%:", "by chance", "Thing", "report/neighbors.png"):
        assert words in result.output
    picture = workspace.read("report/neighbors.png")
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > height > 300
    assert workspace.read(GRAPH) == before


def test_json_says_the_same_and_nothing_else(workspace: LocalStorage) -> None:
    """Stdout is for programs then."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=2)
    found = json.loads(run(workspace, "--stats", "--json").stdout)
    assert found["num_edges"] == 12
    assert set(found["nearest"]) == {"5%", "50%", "95%"}
    assert found["hubs"][0].keys() == {"label_id", "name", "value"}
    assert isinstance(found["hubs"][0]["value"], int)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stats", "--k", "3"],
        ["--stats", "--edges", "x.csv"],
        ["--stats", "--from", "x.npy"],
        ["--stats", "--show", "Thing 0"],
        ["--json"],
        ["--json", "--show", "Thing 0"],
    ],
)
def test_stats_goes_with_no_option_that_it_would_ignore(
    workspace: LocalStorage, arguments: list[str]
) -> None:
    """Exit code 2; a new K that changes nothing would be believed."""
    write_neighbors(workspace, fake_workspace(workspace), k=2)
    result = run(workspace, *arguments)
    assert result.exit_code == 2
    assert workspace.size("report/neighbors.png") is None


def test_stats_of_no_graph_name_the_command_that_makes_one(workspace: LocalStorage) -> None:
    """Reading is all it does."""
    fake_workspace(workspace)
    result = run(workspace, "--stats")
    assert result.exit_code == 1
    assert "python cli.py neighbors" in result.output
