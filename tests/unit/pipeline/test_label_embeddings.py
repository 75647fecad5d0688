"""Label embeddings made elsewhere: matched to the labels, or refused."""

import hashlib
import io
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import cli
from cache.storage import LocalStorage
from pipeline.label_embeddings import read_label_embeddings
from pipeline.label_graph import read_graph
from pipeline.neighbors import build_graph, write_neighbors
from schemas.errors import CatalogError, EmbeddingFilesError, NeighborsError
from tests.fakes import fake_plan

IDS = pa.chunked_array([["a", "b"], ["c"]])
MATRIX = np.array([[1, 0, 0, 2], [0, 3, 0, 0], [1, 1, 1, 1]], np.float32)


def npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def parquet(ids: list[object], rows: pa.Array | list[object]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"label_id": ids, "embedding": rows}), buffer)
    return buffer.getvalue()


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_npy_is_taken_row_by_row(tmp_path: Path, dtype: type) -> None:
    """Also in Fortran order, as a transposed matrix is saved."""
    matrix = np.asfortranarray(MATRIX.astype(dtype))
    path = write(tmp_path, "emb.npy", npy(matrix))
    found, sha256 = read_label_embeddings(path, IDS)
    np.testing.assert_array_equal(found, MATRIX)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 4)]
)
def test_parquet_rows_are_matched_by_id(tmp_path: Path, kind: pa.DataType) -> None:
    """In any order: a query without ORDER BY gives another one each time."""
    order = [2, 0, 1]
    rows = pa.array([list(map(np.float16, MATRIX[y])) for y in order], kind)
    path = write(tmp_path, "emb.parquet", parquet(["c", "a", "b"], rows))
    found, _ = read_label_embeddings(path, IDS)
    np.testing.assert_array_equal(found, MATRIX)


def test_integer_ids_count_as_their_digits(tmp_path: Path) -> None:
    """Pandas makes numbers of ids like Google's."""
    path = write(tmp_path, "emb.parquet", parquet([7, 5], [[1.0, 0.0], [0.0, 1.0]]))
    found, _ = read_label_embeddings(path, pa.chunked_array([["5", "7"]]))
    np.testing.assert_array_equal(found, [[0, 1], [1, 0]])


def test_embeddings_are_read_from_a_store() -> None:
    """They may lie where the model ran."""
    fsspec.filesystem("memory").pipe_file("/shelf/emb.npy", npy(MATRIX))
    found, _ = read_label_embeddings("memory://shelf/emb.npy", IDS)
    np.testing.assert_array_equal(found, MATRIX)
    with pytest.raises(CatalogError, match="no such file") as caught:
        read_label_embeddings("memory://shelf/typo.npy", IDS)
    assert "--from" in caught.value.fix


ROWS = MATRIX.tolist()


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("emb.npy", npy(MATRIX[:2]), "2 rows, expected one for each of 3 labels"),
        ("emb.npy", npy(np.vstack([MATRIX, MATRIX])), "6 rows"),
        ("emb.npy", npy(MATRIX[0]), r"shape \(4,\)"),
        ("emb.npy", npy(MATRIX[None]), r"shape \(1, 3, 4\)"),
        ("emb.npy", npy(MATRIX.astype(int)), "type int64"),
        ("emb.npy", npy(MATRIX.astype(object), allow_pickle=True), "cannot be read: Object arrays"),
        ("emb.npy", pickle.dumps(MATRIX), "cannot be read"),
        ("emb.npy", npy(MATRIX)[:-1], "cannot be read"),
        ("emb.npy", b"", "cannot be read"),
        (
            "emb.npy",
            npy(MATRIX * [[1], [0], [1]]),
            "1 embeddings are zero or not finite: of 'b'",
        ),
        ("emb.npy", npy(MATRIX * [[np.nan], [1], [np.inf]]), "2 embeddings .*: of 'a', 'c'"),
        ("emb.npy", npy(MATRIX[:, :0]), "3 embeddings are zero"),
        ("emb.npy", npy(MATRIX.astype(float) * 1e300), "3 embeddings are zero or not finite"),
        ("emb.txt", b"1 0 0 2", "neither .npy nor .parquet"),
        ("emb.parquet", b"nonsense", "cannot be read"),
        ("emb.parquet", parquet(["a", "b"], ROWS[:2]), "1 labels have no embedding: 'c'"),
        ("emb.parquet", parquet(["a", "b", "b", "c"], [*ROWS, ROWS[0]]), "once: 'b'"),
        ("emb.parquet", parquet(["a", "b", "c", "x"], [*ROWS, ROWS[0]]), "of no label: 'x'"),
        ("emb.parquet", parquet(["a", "b", "c", None], [*ROWS, ROWS[0]]), "of no label: None"),
        ("emb.parquet", parquet(["a", "b", "c"], [*ROWS[:2], None]), "1 embeddings are null"),
        ("emb.parquet", parquet(["a", "b", "c"], [*ROWS[:2], [1.0]]), r"width: \[1, 4\]"),
        ("emb.parquet", parquet(["a", "b", "c"], [*ROWS[:2], [1.0, None, 0, 0]]), "of 'c'"),
        ("emb.parquet", parquet(["a", "b", "c"], ["x", "y", "z"]), "expected lists of floats"),
        ("emb.parquet", parquet(["a", "b", "c"], [[1], [2], [3]]), "expected lists of floats"),
    ],
)
def test_what_does_not_fit_the_labels_is_refused(
    tmp_path: Path, name: str, data: bytes, problem: str
) -> None:
    """A row too few or out of place would give every label the neighbors of another."""
    path = write(tmp_path, name, data)
    with pytest.raises(EmbeddingFilesError, match=problem) as caught:
        read_label_embeddings(path, IDS)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_a_parquet_without_its_columns_names_them(tmp_path: Path) -> None:
    """What was found tells a person what to rename."""
    pq.write_table(pa.table({"id": ["a"], "embedding": [[1.0]]}), tmp_path / "emb.parquet")
    with pytest.raises(
        EmbeddingFilesError, match="missing columns: label_id; found: id, embedding"
    ):
        read_label_embeddings(tmp_path / "emb.parquet", IDS)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """Loading one runs whatever its author wanted."""
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (ran,)

    path = write(tmp_path, "emb.npy", npy(np.array([Trap()], object), allow_pickle=True))
    with pytest.raises(EmbeddingFilesError, match="allow_pickle=False"):
        read_label_embeddings(path, IDS)
    assert not ran.exists()


def test_the_command_needs_no_label_embeddings_of_its_own(workspace: LocalStorage) -> None:
    """Any width, and no encoder ever ran in this workspace."""
    plan = fake_plan(workspace, num_items=10, num_labels=7)
    emb = np.random.default_rng(3).standard_normal((7, 5)).astype(np.float32)
    path = write(workspace.root, "emb.npy", npy(emb))
    call = ["neighbors", "--k", "3", "--from", str(path), "--workspace", workspace.location]
    result = CliRunner().invoke(cli.main, call)
    assert result.exit_code == 0, result.output
    assert read_graph(workspace, plan).sha256() == build_graph(emb, 3).sha256()


def test_edges_take_their_similarity_from_the_given_embeddings(workspace: LocalStorage) -> None:
    """Not from the cache's, which are another model's."""
    plan = fake_plan(workspace, num_items=10, num_labels=3)
    path = write(workspace.root, "emb.npy", npy(np.array([[1.0, 0], [0.6, 0.8], [0, -1]])))
    edges = write(workspace.root, "edges.csv", b"label_id,neighbor_id\nThing 2,Thing 1\n")
    graph = write_neighbors(workspace, plan, k=1, source=path, edges=edges)
    assert graph.neighbors.tolist() == [[1], [0], [1]]
    np.testing.assert_allclose(graph.similarities[:, 0], [0.6, 0.6, -0.8])


def test_embeddings_of_other_labels_write_no_graph(workspace: LocalStorage) -> None:
    """The graph that was there stays."""
    plan = fake_plan(workspace, num_items=10, num_labels=3)
    with pytest.raises(EmbeddingFilesError, match="2 rows"):
        write_neighbors(workspace, plan, source=write(workspace.root, "emb.npy", npy(np.eye(2))))
    with pytest.raises(NeighborsError, match="no label graph yet"):
        read_graph(workspace, plan)
