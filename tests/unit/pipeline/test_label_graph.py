"""The label graph as an artifact: what makes it stale, and what it does not survive."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.storage import LocalStorage
from cache.writer import write_labels
from pipeline.label_graph import GRAPH, read_graph, write_graph
from pipeline.neighbors import write_neighbors
from schemas.errors import CacheIncompleteError, NeighborsError
from schemas.graph import NeighborGraph
from schemas.plan import Plan
from tests.fakes import fake_workspace


def embed_labels_again(workspace: LocalStorage, plan: Plan) -> None:
    label_emb = np.random.default_rng(9).standard_normal((plan.num_labels, 16))
    write_labels(workspace, plan, label_emb, compute_dtype="float32", seconds=0.0)


def given_files(workspace: LocalStorage) -> tuple[Path, Path]:
    np.save(workspace.root / "emb.npy", np.random.default_rng(2).standard_normal((6, 3)))
    (workspace.root / "edges.csv").write_text("label_id,neighbor_id\nThing 0,Thing 1\n")
    return workspace.root / "emb.npy", workspace.root / "edges.csv"


def made_from(workspace: LocalStorage) -> dict[str, str]:
    return json.loads(pq.read_schema(workspace.path(GRAPH)).metadata[b"shelfwise"])["made_from"]


def test_the_graph_records_the_files_it_was_made_from(workspace: LocalStorage) -> None:
    """By their content: names and dates say nothing."""
    plan = fake_workspace(workspace)
    emb, edges = given_files(workspace)
    write_neighbors(workspace, plan, k=2)
    plain = made_from(workspace)
    assert set(plain) == {"spec_id", "labels_sha256", "label_text", "label_emb_crc32c"}
    write_neighbors(workspace, plan, k=2, edges=edges, edges_mode="add")
    curated = made_from(workspace)
    assert curated == plain | {
        "edges_sha256": curated["edges_sha256"],
        "edges_mode": "add",
    }
    write_neighbors(workspace, plan, k=2, source=emb)
    given = made_from(workspace)
    assert set(given) == {"labels_sha256", "from_sha256"}
    emb.write_bytes(emb.read_bytes()[:-1] + b"\x40")
    edges.write_text(edges.read_text() + "Thing 0,Thing 2\n")
    write_neighbors(workspace, plan, k=2, source=emb, edges=edges)
    assert made_from(workspace)["from_sha256"] != given["from_sha256"]
    assert made_from(workspace)["edges_sha256"] != curated["edges_sha256"]


@pytest.mark.parametrize("with_edges", [False, True])
def test_a_graph_goes_stale_with_the_label_embeddings(
    workspace: LocalStorage, with_edges: bool
) -> None:
    """The error names the command with what it was given, so that edges are not forgotten."""
    plan = fake_workspace(workspace)
    edges = given_files(workspace)[1] if with_edges else None
    write_neighbors(workspace, plan, k=2, edges=edges)
    read_graph(workspace, plan)
    embed_labels_again(workspace, plan)
    with pytest.raises(NeighborsError, match="stale: label_emb_crc32c") as caught:
        read_graph(workspace, plan)
    given = " --edges FILE --edges-mode replace" if with_edges else ""
    assert f"`python cli.py neighbors{given}`" in caught.value.fix


def test_a_graph_from_a_file_goes_stale_with_the_labels_only(workspace: LocalStorage) -> None:
    """Its embeddings are not the cache's; its rows are these labels."""
    plan = fake_workspace(workspace)
    emb, _ = given_files(workspace)
    written = write_neighbors(workspace, plan, k=2, source=emb)
    embed_labels_again(workspace, plan)
    other_encoder = replace(plan, spec_id="another", label_text="path")
    assert read_graph(workspace, other_encoder).sha256() == written.sha256()
    with pytest.raises(NeighborsError, match="stale: labels_sha256") as caught:
        read_graph(workspace, replace(plan, labels_sha256="1" * 64))
    assert "--from FILE" in caught.value.fix


def test_a_graph_of_the_cache_is_not_read_without_its_label_embeddings(
    workspace: LocalStorage,
) -> None:
    """Nobody could say whether it is stale."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=2)
    with pytest.raises(CacheIncompleteError, match="label_text"):
        read_graph(workspace, replace(plan, label_text="path"))


def without_metadata(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)


def with_other_metadata(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({b"shelfwise": b'{"spec_id": "of an earlier version"}'})


def with_column(name: str, values: Callable[[np.ndarray], np.ndarray]):
    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        changed = pa.array(values(table[name].to_numpy()), table.schema.field(name).type)
        return table.set_column(place, table.schema.field(name), changed)

    return change


def half(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) == 3, values / 2, values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table.slice(0, len(table) - 1),
        lambda table: table.slice(0, len(table) // 2),
        lambda table: table.drop_columns(["rank"]),
        without_metadata,
        with_other_metadata,
        with_column("similarity", half),
        with_column("neighbor", lambda values: (values + 1) % 6),
        with_column("neighbor", lambda values: values + 6),
        with_column("neighbor", lambda values: values * 0),
        with_column("label", lambda values: values + 1),
        with_column("rank", lambda values: values + 1),
    ],
)
def test_a_table_that_is_not_the_one_written_is_refused(
    workspace: LocalStorage, damage: Callable[[pa.Table], pa.Table]
) -> None:
    """A shorter table reads as a graph of shorter rows: only its hash tells."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=2)
    path = workspace.path(GRAPH)
    pq.write_table(damage(pq.read_table(path)), path)
    with pytest.raises(NeighborsError, match="cannot be read") as caught:
        read_graph(workspace, plan)
    assert caught.value.where == str(path)
    assert "python cli.py neighbors" in caught.value.fix


def test_the_order_of_rows_does_not_matter(workspace: LocalStorage) -> None:
    """Label and rank say where an edge belongs; a database may give rows in any order."""
    plan = fake_workspace(workspace)
    written = write_neighbors(workspace, plan, k=2)
    path = workspace.path(GRAPH)
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    assert read_graph(workspace, plan).sha256() == written.sha256()


@pytest.mark.parametrize("num_bytes", [0, 10, -1, -40])
def test_a_file_that_was_cut_is_refused(workspace: LocalStorage, num_bytes: int) -> None:
    """As a full disk or a broken copy leaves it."""
    plan = fake_workspace(workspace)
    write_neighbors(workspace, plan, k=2)
    path = workspace.path(GRAPH)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(NeighborsError, match="cannot be read"):
        read_graph(workspace, plan)


def test_a_graph_with_empty_places_anywhere_is_read_back(workspace: LocalStorage) -> None:
    """Whoever makes one by hand may leave a gap, a row or a column without anybody."""
    plan = fake_workspace(workspace, num_labels=3)
    graph = NeighborGraph(
        [[-1, 2, -1], [-1, -1, -1], [1, 0, -1]],
        [[np.nan, 0.5, np.nan], [np.nan] * 3, [0.25, np.nan, np.nan]],
    )
    write_graph(workspace, plan, graph)
    found = read_graph(workspace, plan)
    np.testing.assert_array_equal(found.neighbors, graph.neighbors)
    np.testing.assert_array_equal(found.similarities, graph.similarities)
    assert len(pq.read_table(workspace.path(GRAPH))) == 3
