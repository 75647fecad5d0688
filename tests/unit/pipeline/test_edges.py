"""Curated neighbors: what a file may say, and what becomes of the computed graph."""

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import cli
from cache.storage import LocalStorage
from pipeline import targets
from pipeline.edges import Edges, curate, read_edges
from pipeline.label_graph import read_graph
from pipeline.neighbors import build_graph, neighbors_table, write_neighbors
from schemas.errors import CatalogError, NeighborsError
from schemas.graph import NeighborGraph
from tests.fakes import fake_workspace

IDS = pa.chunked_array([["a", "b"], ["c", "d"]])
COMPUTED = NeighborGraph([[1, 2], [0, 2], [3, 0], [2, 0]], np.tile([0.9, 0.5], (4, 1)))


def write(folder: Path, text: str, name: str = "edges.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def edges(*rows: tuple[int, int, float]) -> Edges:
    label, neighbor, similarity = zip(*rows, strict=True)
    return Edges(
        label=np.array(label),
        neighbor=np.array(neighbor),
        similarity=np.array(similarity),
        sha256="",
    )


def label_emb(workspace: LocalStorage) -> np.ndarray:
    """Return what fake_workspace wrote, in float64."""
    shape = (6, 16)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32).astype(np.float64)


def test_csv_and_parquet_give_the_same_edges(tmp_path: Path) -> None:
    """A spreadsheet and a notebook; blank and null both leave a similarity to the embeddings."""
    rows = "label_id,neighbor_id,similarity\nd,a,0.25\na,c,\n"
    found = read_edges(write(tmp_path, rows), IDS)
    assert found.label.tolist() == [3, 0]
    assert found.neighbor.tolist() == [0, 2]
    np.testing.assert_array_equal(found.similarity, [0.25, np.nan])
    table = pa.table(
        {"label_id": ["d", "a"], "neighbor_id": ["a", "c"], "similarity": [0.25, None]}
    )
    pq.write_table(table, tmp_path / "edges.parquet")
    same = read_edges(tmp_path / "edges.parquet", IDS)
    np.testing.assert_array_equal(same.label, found.label)
    np.testing.assert_array_equal(same.neighbor, found.neighbor)
    np.testing.assert_array_equal(same.similarity, found.similarity)
    assert same.sha256 != found.sha256


def test_ids_of_digits_stay_text(tmp_path: Path) -> None:
    """Google's taxonomy has numbers for ids; 02 is not 2."""
    ids = pa.chunked_array([["02", "2", "7"]])
    found = read_edges(write(tmp_path, "label_id,neighbor_id\n2,7\n02,2\n"), ids)
    assert found.label.tolist() == [1, 0]
    assert np.isnan(found.similarity).all()


def test_edges_are_read_from_a_store() -> None:
    """They may lie beside the labels, wherever these are."""
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/shelf/edges.csv", b"label_id,neighbor_id\na,b\n")
    assert read_edges("memory://shelf/edges.csv", IDS).neighbor.tolist() == [1]
    with pytest.raises(CatalogError, match="no such file") as caught:
        read_edges("memory://shelf/typo.csv", IDS)
    assert "--edges" in caught.value.fix


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("a,b,1\nx,b,1\na,y,1\nz,w,1\n", "4 label ids that no label has: 'x', 'z', 'y'"),
        ("a,b,1\nx,b,1\nx,c,1\n", "1 label ids that no label has: 'x'"),
        ("x,b,1\na,x,1\n", "1 label ids that no label has: 'x'"),
        (",b,1\n", "1 label ids that no label has: ''"),
        ("a,b,1\nb,b,1\nc,c,1\n", "2 labels that neighbor themselves: 'b' -> 'b', 'c' -> 'c'"),
        ("a,b,1\nb,a,1\na,b,0.5\n", "1 edges that stand there before: 'a' -> 'b'"),
        ("a,b,1.1\nb,a,-1.1\nc,a,1\n", "2 similarities that are not in [-1, 1]: 'a' -> 'b'"),
        ("a,b,nan\nb,a,inf\nc,a,\n", "2 similarities that are not in [-1, 1]: 'a' -> 'b'"),
        ("", "no edges"),
    ],
)
def test_wrong_edges_are_counted_and_the_first_named(
    tmp_path: Path, rows: str, problem: str
) -> None:
    """An edge that is left out without a word would be missed in no table."""
    path = write(tmp_path, "label_id,neighbor_id,similarity\n" + rows)
    with pytest.raises(NeighborsError) as caught:
        read_edges(path, IDS)
    assert problem in caught.value.what
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_a_cosine_that_rounding_puts_over_one_is_one(tmp_path: Path) -> None:
    """Cosines of equal labels in float32 come out as 1.0000001."""
    path = write(tmp_path, "label_id,neighbor_id,similarity\na,b,1.0000001\nb,a,0.12345649\n")
    assert read_edges(path, IDS).similarity.tolist() == [1.0, 0.123456]


@pytest.mark.parametrize(
    ("name", "text", "kind", "problem"),
    [
        ("edges.csv", "label_id,other\na,b\n", NeighborsError, "missing columns: neighbor_id"),
        (
            "edges.csv",
            "label_id,neighbor_id,similarity\na,b,near\n",
            CatalogError,
            "cannot be read",
        ),
        ("edges.csv", "", CatalogError, "cannot be read"),
        ("edges.parquet", "label_id,neighbor_id\na,b\n", CatalogError, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_edges_is_one_clear_error(
    tmp_path: Path, name: str, text: str, kind: type[Exception], problem: str
) -> None:
    """Not a stack trace from Arrow."""
    path = write(tmp_path, text, name)
    with pytest.raises(kind, match=problem) as caught:
        read_edges(path, IDS)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_a_column_that_is_not_used_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelled `similarity` would silently become the computed one."""
    read_edges(write(tmp_path, "label_id,neighbor_id,similarty\na,b,0.1\n"), IDS)
    assert "similarty" in caplog.text


def test_replace_gives_a_named_label_just_its_edges() -> None:
    """The others keep the computed ones; the shorter rows end with nobody."""
    found = curate(COMPUTED, edges((1, 3, 0.2), (3, 0, 0.1), (3, 1, 0.8), (3, 2, 0.1)), "replace")
    assert found.neighbors.tolist() == [[1, 2, -1], [3, -1, -1], [3, 0, -1], [1, 0, 2]]
    expected = [[0.9, 0.5, np.nan], [0.2, np.nan, np.nan], [0.9, 0.5, np.nan], [0.8, 0.1, 0.1]]
    np.testing.assert_array_equal(found.similarities, np.array(expected, np.float32))
    assert found.num_neighbors.tolist() == [2, 1, 2, 3]


def test_add_joins_the_computed_neighbors() -> None:
    """Sorted in among them; equal similarities by label, as computed ones."""
    found = curate(COMPUTED, edges((0, 3, 0.9), (2, 1, 0.5)), "add")
    assert found.neighbors.tolist() == [[1, 3, 2], [0, 2, -1], [3, 0, 1], [2, 0, -1]]
    np.testing.assert_array_equal(found.similarities[0], np.array([0.9, 0.9, 0.5], np.float32))


def test_a_curated_similarity_counts_where_both_have_the_edge() -> None:
    """A person who disputes a distance does so on purpose."""
    found = curate(COMPUTED, edges((0, 1, 0.1)), "add")
    assert found.neighbors[0].tolist() == [2, 1]
    np.testing.assert_array_equal(found.similarities[0], np.array([0.5, 0.1], np.float32))
    assert found.neighbors.shape == (4, 2)


def test_a_mode_that_nobody_knows_is_refused() -> None:
    """From a script, where no command line checks it: `merge` must not quietly mean `add`."""
    with pytest.raises(NeighborsError, match="unknown mode 'merge'") as caught:
        curate(COMPUTED, edges((0, 1, 0.1)), "merge")
    assert caught.value.where == "--edges-mode"
    assert caught.value.fix == "use one of: replace, add"


def test_replacing_every_label_narrows_the_graph() -> None:
    """No column of nobodies is left behind: it would be a K that no label has."""
    found = curate(COMPUTED, edges(*((y, (y + 1) % 4, 0.5) for y in range(4))), "replace")
    assert found.neighbors.tolist() == [[1], [2], [3], [0]]


def test_a_similarity_that_is_left_out_is_the_computed_one(workspace: LocalStorage) -> None:
    """Rounded in the same way, so that edges of both origins can be ordered together."""
    plan = fake_workspace(workspace)
    rows = "".join(f"Thing 0,Thing {j}\n" for j in (4, 2, 1))
    path = write(workspace.root, "label_id,neighbor_id\n" + rows)
    found = write_neighbors(workspace, plan, k=2, edges=path)
    everyone = build_graph(label_emb(workspace), 5)
    place = [everyone.neighbors[0].tolist().index(j) for j in found.neighbors[0].tolist()]
    assert place == sorted(place)
    assert set(found.neighbors[0].tolist()) == {1, 2, 4}
    np.testing.assert_array_equal(found.similarities[0], everyone.similarities[0][place])


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_a_ragged_graph_is_read_back_as_written(workspace: LocalStorage, mode: str) -> None:
    """Everything after reads the file, with rows of three lengths here."""
    plan = fake_workspace(workspace)
    rows = "Thing 0,Thing 3,0.5\nThing 1,Thing 0,\n" + "".join(
        f"Thing 5,Thing {j},-0.5\n" for j in range(5)
    )
    path = write(workspace.root, "label_id,neighbor_id,similarity\n" + rows)
    written = write_neighbors(workspace, plan, k=2, edges=path, edges_mode=mode)
    assert len(set(written.num_neighbors.tolist())) == 3
    found = read_graph(workspace, plan)
    np.testing.assert_array_equal(found.neighbors, written.neighbors)
    np.testing.assert_array_equal(found.similarities, written.similarities)
    assert found.sha256() == written.sha256()


def test_approaches_3_and_4_share_by_the_neighbors_that_are_there() -> None:
    """K of a ragged row is its own: alpha / 1 for one neighbor, alpha / 3 for three."""
    graph = curate(COMPUTED, edges((1, 3, 0.2), (3, 0, 0.1), (3, 1, 0.8), (3, 2, 0.1)), "replace")
    dense = {}
    for name, options in (("3", {}), ("4", {"weighting": "affinity"})):
        table = targets.build(name, graph, alpha=0.3, **options)
        dense[name] = np.zeros((4, 4))
        np.add.at(dense[name], (np.arange(4)[:, None], table.index), table.weight)
    np.testing.assert_allclose(dense["3"][1], [0, 0.7, 0, 0.3], atol=1e-6)
    np.testing.assert_allclose(dense["3"][3], [0.1, 0.1, 0.1, 0.7], atol=1e-6)
    np.testing.assert_allclose(dense["4"][1], np.array([0, 1, 0, 0.2]) / 1.2, atol=1e-6)
    np.testing.assert_allclose(dense["4"][3], np.array([0.1, 0.8, 0.1, 1]) / 2.0, atol=1e-6)


def test_the_table_of_a_label_ends_with_its_last_neighbor(workspace: LocalStorage) -> None:
    """Label -1 would print the last label's name."""
    plan = fake_workspace(workspace)
    path = write(workspace.root, "label_id,neighbor_id,similarity\nThing 2,Thing 4,0.5\n")
    write_neighbors(workspace, plan, k=3, edges=path)
    rows = neighbors_table(workspace, plan, "Thing 2").rows
    assert [row[:3] for row in rows] == [("1", "0.5000", "Thing 4")]
    assert len(neighbors_table(workspace, plan, "Thing 3").rows) == 3


def run(workspace: LocalStorage, *arguments: str | Path) -> Result:
    call = ["neighbors", *map(str, arguments), "--workspace", workspace.location]
    return CliRunner().invoke(cli.main, call)


def test_the_command_takes_edges_and_says_how_long_rows_are(workspace: LocalStorage) -> None:
    """The same file replaces by default and adds when asked to."""
    plan = fake_workspace(workspace)
    path = write(workspace.root, "label_id,neighbor_id\nThing 0,Thing 3\nThing 0,Thing 2\n")
    result = run(workspace, "--k", "1", "--edges", path)
    assert result.exit_code == 0, result.output
    assert "6 labels, 1 to 2 neighbors each" in result.output
    assert set(read_graph(workspace, plan).neighbors[0].tolist()) == {2, 3}
    assert run(workspace, "--k", "5", "--edges", path, "--edges-mode", "add").exit_code == 0
    assert set(read_graph(workspace, plan).neighbors[0].tolist()) == {1, 2, 3, 4, 5}


def test_an_edge_to_a_label_that_is_not_there_leaves_the_graph_as_it_was(
    workspace: LocalStorage,
) -> None:
    """One error with exit code 1, before anything is written."""
    plan = fake_workspace(workspace)
    before = write_neighbors(workspace, plan, k=2)
    path = write(workspace.root, "label_id,neighbor_id\nThing 0,Thing 99\n")
    result = run(workspace, "--edges", path)
    assert result.exit_code == 1
    assert "'Thing 99'" in result.output
    assert "fix:" in result.output
    assert read_graph(workspace, plan).sha256() == before.sha256()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--edges-mode", "add"], "--edges FILE"),
        (["--edges-mode", "merge", "--edges", "x.csv"], "merge"),
        (["--show", "Thing 0", "--edges", "x.csv"], "--show reads the graph as it is"),
        (["--show", "Thing 0", "--from", "x.npy"], "--show reads the graph as it is"),
        (["--show", "Thing 0", "--k", "3"], "--show reads the graph as it is"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    workspace: LocalStorage, arguments: list[str], problem: str
) -> None:
    """Wrong usage, exit code 2: never a graph other than the one that was asked for."""
    fake_workspace(workspace)
    result = run(workspace, *arguments)
    assert result.exit_code == 2
    assert problem in result.output
    assert workspace.size("neighbors.parquet") is None
