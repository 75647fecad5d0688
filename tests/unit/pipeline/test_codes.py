"""Binary codes of labels: what their bits mean, and the artifact that holds them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.layout import parquet_bytes
from cache.storage import LocalStorage
from cache.writer import write_labels
from pipeline.codes import (
    ancestor_bits,
    code_distances,
    codes_table,
    distinct_signs,
    embedding_bits,
    make_codes,
)
from pipeline.label_codes import codes_place, read_codes
from pipeline.neighbors import build_graph, write_neighbors
from schemas.codes import LabelCodes
from schemas.errors import CacheIncompleteError, CodesError
from schemas.plan import Plan
from tests.fakes import fake_workspace

ROOT = Path(__file__).parents[3]
PATHS = ["A > x > 1", "A > x > 2", "A > y", "B > z > 1", "B > z > 2", "B", "C > 9"]


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    return fake_workspace(workspace)


def clustered(num_labels: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return embeddings of which tens are alike."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((num_labels // 10, dim))
    noise = rng.standard_normal((num_labels, dim))
    return (centers[np.arange(num_labels) % len(centers)] + 0.3 * noise).astype(np.float32)


def test_a_category_above_some_labels_but_not_all_is_a_bit() -> None:
    """Of categories with the same labels the topmost: `B` stands for itself, `z` for two of it."""
    features, bits = ancestor_bits(PATHS)
    assert features == ["A", "A > x", "B", "B > z"]
    columns = {"A": [0, 1, 2], "A > x": [0, 1], "B": [3, 4, 5], "B > z": [3, 4]}
    for number, category in enumerate(features):
        assert np.flatnonzero(bits[:, number]).tolist() == columns[category]


def test_a_category_above_every_label_says_nothing() -> None:
    """A root that all share, and a chain of categories with one child each, add no bits."""
    features, _ = ancestor_bits(["R > A > B > 1", "R > A > B > 2", "R > C"])
    assert features == ["R > A"]


def test_labels_that_are_alike_share_more_bits() -> None:
    """Else the codes would say nothing that a shuffle of them does not."""
    label_emb = clustered(200, 24)
    graph = build_graph(label_emb, 5)
    codes = LabelCodes(embedding_bits(label_emb, 32, seed=0))
    near, far = code_distances(codes, graph)
    assert near < far / 2
    near, far = code_distances(codes.shuffled(0), graph)
    assert near > 0.9 * far


@pytest.mark.parametrize("num_bits", [8, 24, 64])
def test_codes_of_a_seed_are_the_same_bytes(num_bits: int) -> None:
    """Fewer bits than dimensions, as many, and more: along random directions then."""
    label_emb = clustered(100, 24)
    first = embedding_bits(label_emb, num_bits, seed=3)
    assert first.shape == (100, num_bits)
    np.testing.assert_array_equal(embedding_bits(label_emb, num_bits, seed=3), first)
    assert (embedding_bits(label_emb, num_bits, seed=4) != first).any()


def test_codes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """A run of codes would be stale in a job with another number of cores."""
    np.save(tmp_path / "emb.npy", clustered(1500, 200))
    script = (
        "import sys, hashlib, numpy; from pipeline.codes import embedding_bits; "
        "bits = embedding_bits(numpy.load(sys.argv[1]), 200, seed=0); "
        "print(hashlib.sha256(bits.tobytes()).hexdigest())"
    )
    found = set()
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "emb.npy"],
            cwd=ROOT,
            env={**os.environ, **dict.fromkeys(names, threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_labels_that_are_nearly_alike_do_not_take_forever() -> None:
    """Equal signs, other magnitudes: they share one order of flips."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(64) + 1e-4 * rng.standard_normal((6000, 64))
    assert LabelCodes(distinct_signs(values)).num_collisions == 0


def test_codes_depend_on_directions_only() -> None:
    """Cosines tell labels apart; the length of an embedding is the encoder's whim."""
    label_emb = clustered(60, 16)
    lengths = 2.0 ** np.random.default_rng(0).integers(-3, 4, (60, 1))
    np.testing.assert_array_equal(
        embedding_bits(label_emb * lengths, 16, seed=0), embedding_bits(label_emb, 16, seed=0)
    )


def test_labels_with_equal_embeddings_get_distinct_codes() -> None:
    """Two labels of one name would else be one class to a code head."""
    label_emb = np.repeat(clustered(20, 8), 3, axis=0)
    bits = embedding_bits(label_emb, 16, seed=0)
    assert LabelCodes(bits).num_collisions == 0


def test_equal_signs_are_told_apart_at_the_least_certain_bit() -> None:
    """The first keeps its code, the second flips the least certain bit, the third the next."""
    values = np.array([[3.0, -2.0, 1.0], [3.0, -0.1, 1.0], [0.2, -0.5, 0.9], [-1.0, 5.0, 5.0]])
    expected = [[1, 0, 1], [1, 1, 1], [1, 0, 0], [0, 1, 1]]  # mean magnitudes 2.1, 0.9, 1.0
    np.testing.assert_array_equal(distinct_signs(values), np.array(expected, bool))


def test_more_labels_than_codes_share_some() -> None:
    """Counted, not refused: eight labels have no room in two bits."""
    bits = distinct_signs(np.random.default_rng(0).standard_normal((8, 2)))
    assert len(np.unique(bits, axis=0)) == 4
    assert LabelCodes(np.array([[1, 0], [1, 0], [0, 1]], bool)).num_collisions == 2


def test_embeddings_of_one_direction_are_refused() -> None:
    """Bits of rounding errors would pass for codes."""
    with pytest.raises(CodesError, match="one direction"):
        embedding_bits(np.tile(clustered(20, 8)[:1], (20, 1)), 8, seed=0)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"num_bits": 0}, "--bits"),
        ({"num_bits": 5000}, "--bits"),
        ({"seed": -1}, "--seed"),
        ({"source": "names"}, "--source"),
        ({"source": "taxonomy", "embeddings": "x.npy"}, "--from"),
        ({"source": "taxonomy", "num_bits": 8, "seed": 0}, "--bits, --seed"),
    ],
)
def test_what_is_out_of_range_is_refused(
    workspace: LocalStorage, plan: Plan, change: dict[str, object], where: str
) -> None:
    """Each message names the option."""
    with pytest.raises(CodesError) as caught:
        make_codes(workspace, plan, **change)
    assert caught.value.where == where


def test_an_embedding_without_direction_is_refused() -> None:
    """Its signs would be those of rounding."""
    label_emb = clustered(20, 8)
    label_emb[7] = 0
    with pytest.raises(CodesError, match=r"the first of label 7"):
        embedding_bits(label_emb, 8, seed=0)


def test_labels_without_a_tree_have_no_bits_of_it(workspace: LocalStorage, plan: Plan) -> None:
    """Codes called `both` that are of one source would be a trap in a table."""
    for source in ("taxonomy", "both"):
        with pytest.raises(CodesError, match="no category stands above"):
            make_codes(workspace, plan, source=source)


def test_codes_are_read_as_they_were_written(workspace: LocalStorage, plan: Plan) -> None:
    """With the ids of their labels beside them, for people."""
    name, codes = make_codes(workspace, plan, source="embedding", num_bits=10)
    assert name == "embedding-10"
    np.testing.assert_array_equal(read_codes(workspace, plan, name).bits, codes.bits)
    table = pq.read_table(workspace.root / codes_place(name))
    record = json.loads(table.schema.metadata[b"shelfwise"])
    assert (record["source"], record["seed"], record["features"]) == ("embedding", 0, [""] * 10)
    assert table["label_id"].to_pylist() == [f"Thing {i}" for i in range(6)]
    assert table["code"].to_pylist() == codes.bits.tolist()


def test_the_table_compares_neighbors_with_any_labels(workspace: LocalStorage, plan: Plan) -> None:
    """Without a label graph there is nothing to compare."""
    name, codes = make_codes(workspace, plan, num_bits=32)
    assert len(codes_table(workspace, plan, name, codes).rows) == 4
    write_neighbors(workspace, plan, k=2)
    assert "from any label" in codes_table(workspace, plan, name, codes).rows[4][1]


def test_codes_from_a_file_do_not_need_the_cache(workspace: LocalStorage, plan: Plan) -> None:
    """And stay valid when its label embeddings change; the label graph is not looked at then."""
    file = workspace.root / "emb.npy"
    np.save(file, clustered(60, 8)[:6])
    write_neighbors(workspace, plan, k=2)
    (workspace.root / "cache" / "commits" / "labels.json").unlink()
    name, codes = make_codes(workspace, plan, num_bits=9, embeddings=file)
    assert len(codes_table(workspace, plan, name, codes).rows) == 4
    assert read_codes(workspace, plan, "embedding-9").num_bits == 9
    with pytest.raises(CacheIncompleteError):
        make_codes(workspace, plan, source="embedding", num_bits=8)


def test_codes_of_other_label_embeddings_are_stale(workspace: LocalStorage, plan: Plan) -> None:
    """The message names the command with the same options."""
    make_codes(workspace, plan, source="embedding", num_bits=8, seed=3)
    label_emb = np.random.default_rng(9).standard_normal((6, 16))
    write_labels(workspace, plan, label_emb, compute_dtype="float32", seconds=0.0)
    with pytest.raises(CodesError, match="stale") as caught:
        read_codes(workspace, plan, "embedding-8")
    assert caught.value.fix == "run `python cli.py codes --source embedding --bits 8 --seed 3`"


def without_a_row(table: pa.Table) -> pa.Table:
    return table.slice(1)


def with_a_flipped_bit(table: pa.Table) -> pa.Table:
    codes = table["code"].to_pylist()
    codes[2][0] = not codes[2][0]
    return table.set_column(2, table.schema.field("code"), pa.array(codes))


def with_a_short_code(table: pa.Table) -> pa.Table:
    codes = table["code"].to_pylist()
    return table.set_column(2, table.schema.field("code"), pa.array([codes[0][1:], *codes[1:]]))


def without_metadata(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)


@pytest.mark.parametrize(
    "damage", [without_a_row, with_a_flipped_bit, with_a_short_code, without_metadata]
)
def test_damaged_codes_are_refused(
    workspace: LocalStorage, plan: Plan, damage: Callable[[pa.Table], pa.Table]
) -> None:
    """A network trained on shifted codes would learn wrong ones without a word."""
    make_codes(workspace, plan, num_bits=8)
    path = workspace.root / codes_place("embedding-8")
    path.write_bytes(parquet_bytes(damage(pq.read_table(path))))
    with pytest.raises(CodesError) as caught:
        read_codes(workspace, plan, "embedding-8")
    assert "codes --source embedding --bits 8" in caught.value.fix


def test_missing_codes_name_the_command_and_what_is_there(
    workspace: LocalStorage, plan: Plan
) -> None:
    """And a name that could be a path elsewhere is none."""
    make_codes(workspace, plan, num_bits=8)
    with pytest.raises(CodesError) as caught:
        read_codes(workspace, plan, "both-128")
    assert "codes --source both --bits 128" in caught.value.fix
    assert "embedding-8" in caught.value.fix
    (workspace.root / codes_place("embedding-8")).write_bytes(b"not Parquet")
    with pytest.raises(CodesError, match="cannot be read"):
        read_codes(workspace, plan, "embedding-8")
    for name in ("../plan", "both", "embedding-0", "embedding-016", "taxonomy-8"):
        with pytest.raises(CodesError, match="no name of codes"):
            read_codes(workspace, plan, name)


def test_codes_of_another_form_are_refused() -> None:
    """A mistake of ours, or of who makes codes in Python."""
    for bits in (np.zeros((2, 3), np.uint8), np.zeros(3, bool), np.zeros((2, 0), bool)):
        with pytest.raises(CodesError):
            LabelCodes(bits)
