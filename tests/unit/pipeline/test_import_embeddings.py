"""Importing embeddings made elsewhere: every layout, every refusal, and the same guarantees."""

import io
import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cli
from cache.reader import Cache, read_plan
from cache.storage import LocalStorage
from pipeline.embed import embed
from pipeline.embedding_files import Source, open_files, open_folder
from pipeline.embedding_rows import to_float32
from pipeline.export_embeddings import export_embeddings
from pipeline.import_embeddings import import_embeddings
from pipeline.plan import make_plan
from schemas.configs import to_json
from schemas.errors import EmbeddingFilesError, SpecMismatchError, TooManyBadRowsError
from schemas.plan import Plan
from tests.fakes import (
    HashEncoder,
    chunk_path,
    commit_path,
    fake_embeddings,
    fake_plan,
    fake_spec,
    fake_workspace,
    plan_path,
    write_catalog,
    write_shard,
)

NUM_ITEMS = 300


def no_encoder() -> HashEncoder:
    raise AssertionError("the encoder was loaded")


def ids_of(plan: Plan) -> list[str]:
    return [f"item-{row:06d}" for row in range(plan.num_items)]


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    return fake_plan(workspace, num_items=NUM_ITEMS)


@pytest.fixture
def folder(workspace: LocalStorage) -> Path:
    path = workspace.root / "source"
    path.mkdir()
    return path


def save(folder: Path, plan: Plan, embeddings: dict[str, np.ndarray] | None = None) -> dict:
    """Write image.npy, title.npy and ids.txt; return them as options of open_files."""
    for name, matrix in (embeddings or fake_embeddings(plan)).items():
        np.save(folder / f"{name}.npy", matrix)
    (folder / "ids.txt").write_text("\n".join(ids_of(plan)) + "\n")
    return {
        "image_emb": str(folder / "image.npy"),
        "title_emb": str(folder / "title.npy"),
        "ids": str(folder / "ids.txt"),
    }


def run(workspace: LocalStorage, plan: Plan, source: Source, **options: object) -> Cache:
    import_embeddings(workspace, plan, source, no_encoder, trust=True, **options)
    return Cache(workspace, plan)


def check_cache(cache: Cache, expected: dict[str, np.ndarray]) -> None:
    for name, matrix in expected.items():
        np.testing.assert_array_equal(cache.read(name), matrix)


# --- layouts ---


def write_folder(
    folder: Path,
    plan: Plan,
    cuts: list[int],
    order: np.ndarray,
    id_column: str = "item_id",
    numbers: list[int] | None = None,
) -> None:
    """Write embeddings as clip-retrieval does."""
    ids = np.array(ids_of(plan))
    found = fake_embeddings(plan)
    borders = [0, *cuts, plan.num_items]
    for part, (start, stop) in enumerate(itertools.pairwise(borders)):
        number = numbers[part] if numbers else part
        rows = order[start:stop]
        for name, below in (("image", "img_emb"), ("title", "text_emb")):
            (folder / below).mkdir(parents=True, exist_ok=True)
            np.save(folder / below / f"{below}_{number}.npy", found[name][rows])
        (folder / "metadata").mkdir(exist_ok=True)
        table = pa.table({"caption": ["?"] * len(rows), id_column: ids[rows]})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


@pytest.mark.parametrize("id_column", ["item_id", "key", "image_path"])
def test_the_output_of_clip_retrieval_is_read_in_numeric_order(
    workspace: LocalStorage, plan: Plan, folder: Path, id_column: str
) -> None:
    """Sorted as text, file 10 would come before file 2 and 9."""
    order = np.random.default_rng(0).permutation(NUM_ITEMS)
    write_folder(folder, plan, [7, 150], order, id_column, numbers=[2, 9, 10])
    cache = run(workspace, plan, open_folder(plan, str(folder)))
    check_cache(cache, fake_embeddings(plan))
    assert {commit.compute_dtype for commit in cache.commits.values()} == {"imported"}


def test_rows_tables_are_as_embed_writes_them(
    workspace: LocalStorage, plan: Plan, folder: Path
) -> None:
    """Whoever reads the cache must not need to know where it came from."""
    found = fake_embeddings(plan)
    rows = run(workspace, plan, open_files(plan, **save(folder, plan))).read_rows()
    assert rows["item_id"].to_pylist() == ids_of(plan)
    assert rows["error"].null_count == rows["image_sha256"].null_count == NUM_ITEMS
    expected = np.einsum(
        "rd,rd->r", found["image"].astype(np.float32), found["title"].astype(np.float32)
    )
    np.testing.assert_array_equal(rows["image_title_cosine"].to_numpy(), expected)


def as_npy_text(path: Path, ids: list[str]) -> Path:
    np.save(path.with_suffix(".npy"), np.array(ids))
    return path.with_suffix(".npy")


def as_npy_bytes(path: Path, ids: list[str]) -> Path:
    np.save(path.with_suffix(".npy"), np.array(ids, "S"))
    return path.with_suffix(".npy")


def as_csv(path: Path, ids: list[str]) -> Path:
    table = pa.table({"price": range(len(ids)), "sku": ids})
    pa.csv.write_csv(table, path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def as_parquet_folder(path: Path, ids: list[str]) -> Path:
    """In files whose numbers have no leading zeros, as a dictionary column."""
    path.mkdir()
    for part, number in enumerate((3, 20, 100)):
        mine = pa.array(ids[part * 100 : part * 100 + 100]).dictionary_encode()
        pq.write_table(pa.table({"sku": mine}), path / f"part_{number}.parquet")
    return path


@pytest.mark.parametrize("write", [as_npy_text, as_npy_bytes, as_csv, as_parquet_folder])
def test_ids_come_in_every_layout(
    workspace: LocalStorage,
    plan: Plan,
    folder: Path,
    write: Callable[[Path, list[str]], Path],
) -> None:
    """Nobody should have to convert the list of their own products."""
    files = save(folder, plan) | {"ids": str(write(folder / "skus", ids_of(plan)))}
    cache = run(workspace, plan, open_files(plan, **files, id_column="sku"))
    check_cache(cache, fake_embeddings(plan))


def test_integer_ids_match_their_digits(workspace: LocalStorage, small_model: Path) -> None:
    """As plan reads a catalog with integer ids."""
    plan = planned(workspace, small_model, item_id=list(range(500, 540)))
    files = save(workspace.root, plan)
    np.save(workspace.root / "ids.npy", np.arange(539, 499, -1))
    source = open_files(plan, **files | {"ids": str(workspace.root / "ids.npy")})
    check_cache(
        run(workspace, plan, source),
        {name: matrix[::-1] for name, matrix in fake_embeddings(plan).items()},
    )


def test_folders_of_npy_with_a_folder_of_parquet(
    workspace: LocalStorage, plan: Plan, folder: Path
) -> None:
    """The layout parquet_npy of embedding-reader; files need not be cut at the same rows."""
    for name, matrix in fake_embeddings(plan).items():
        (folder / name).mkdir()
        for number, part in enumerate(np.split(matrix, [0, 11, 12, 200])):
            np.save(folder / name / f"{number + 8}.npy", part)
    ids = as_parquet_folder(folder / "skus", ids_of(plan))
    source = open_files(
        plan,
        image_emb=str(folder / "image"),
        title_emb=str(folder / "title"),
        ids=str(ids),
        id_column="sku",
    )
    check_cache(run(workspace, plan, source), fake_embeddings(plan))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float16()),
        pa.list_(pa.float32(), 16),
    ],
)
def test_parquet_with_columns_of_lists(
    workspace: LocalStorage, plan: Plan, folder: Path, kind: pa.DataType
) -> None:
    """The layout parquet of embedding-reader; the ids stand beside; a null list is no embedding."""
    found = {name: matrix.astype(np.float32) for name, matrix in fake_embeddings(plan).items()}
    for number, rows in enumerate(np.split(np.arange(NUM_ITEMS), [100, 100])):
        columns = {"item_id": [ids_of(plan)[row] for row in rows]}
        for name, column in (("image", "picture"), ("title", "text_embedding")):
            lists = [None if row == 5 else list(found[name][row]) for row in rows]
            columns[column] = pa.array(lists).cast(kind) if lists else pa.array([], kind)
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    source = open_files(
        plan, image_emb=str(folder), title_emb=str(folder), ids=None, image_column="picture"
    )
    cache = run(workspace, plan, source)
    expected = fake_embeddings(plan)
    for matrix in expected.values():
        matrix[5] = np.nan
    check_cache(cache, expected)
    assert cache.read_rows()["error"][5].as_py().startswith("image: embedding is not finite")


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_type_and_memory_order(
    workspace: LocalStorage, plan: Plan, folder: Path, dtype: str, order: str
) -> None:
    """A row that has unit length stays as it is, so the float16 values come back exactly."""
    found = fake_embeddings(plan)
    files = save(folder, plan, {name: m.astype(dtype, order=order) for name, m in found.items()})
    check_cache(run(workspace, plan, open_files(plan, **files)), found)


# --- rows ---


def test_rows_are_brought_to_unit_length(workspace: LocalStorage, plan: Plan, folder: Path) -> None:
    """CLIP's encode_image does not normalize; huge and tiny lengths must not overflow."""
    found = {name: m.astype(np.float32) for name, m in fake_embeddings(plan).items()}
    lengths = np.logspace(-30, 30, NUM_ITEMS, dtype=np.float32)[:, None]
    files = save(folder, plan, {name: m * lengths for name, m in found.items()})
    cache = run(workspace, plan, open_files(plan, **files))
    for name, matrix in found.items():
        here = cache.read(name).astype(np.float32)
        np.testing.assert_allclose(np.linalg.norm(here, axis=1), 1, atol=1e-3)
        np.testing.assert_allclose(here, matrix, atol=2e-3)


def test_what_is_no_embedding_becomes_an_error(
    workspace: LocalStorage, plan: Plan, folder: Path
) -> None:
    """And costs its neighbors nothing."""
    found = fake_embeddings(plan)
    found["image"][3, 2], found["image"][4, 0], found["title"][4] = np.nan, -np.inf, 0
    cache = run(workspace, plan, open_files(plan, **save(folder, plan, found)))
    rows = cache.read_rows(("error", "image_ok", "title_ok", "image_title_cosine")).to_pylist()
    assert [row for row, each in enumerate(rows) if each["error"]] == [3, 4]
    assert rows[3] == {
        "error": "image: embedding is not finite",
        "image_ok": False,
        "title_ok": True,
        "image_title_cosine": None,
    }
    assert rows[4]["error"] == "image: embedding is not finite; title: embedding is zero"
    found["image"][3:5], found["title"][4] = np.nan, np.nan
    check_cache(cache, found)
    assert cache.commits[0].reasons == {
        "image: embedding is not finite": 2,
        "title: embedding is zero": 1,
    }


def test_halves_widen_exactly() -> None:
    """The fast way against NumPy's, for every value of float16."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(256, 256)
    is_finite = np.isfinite(halves)
    wide = to_float32(halves)
    np.testing.assert_array_equal(wide[is_finite], halves.astype(np.float32)[is_finite])
    assert (np.abs(wide[~is_finite]) >= 65536).all()


def test_items_that_are_not_in_the_source_have_rows_that_say_so(
    workspace: LocalStorage, plan: Plan, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many of them end the command with an error, after every shard is committed."""
    files = save(folder, plan)
    ids = ids_of(plan)
    ids[:20] = [f"other-{row}" for row in range(20)]
    (folder / "ids.txt").write_text("\r\n".join(ids))
    source = open_files(plan, **files)
    with pytest.raises(TooManyBadRowsError, match="20 of 128 rows") as caught:
        run(workspace, plan, source)
    assert "00000.parquet" in caught.value.where
    assert "20 'image: not imported', 20 'title: not imported'" in caught.value.what
    assert "20 rows of the source are not in the plan" in caplog.text
    cache = Cache(workspace, plan)
    assert cache.read_rows()["error"][0].as_py() == "image: not imported; title: not imported"
    assert np.flatnonzero(np.isnan(cache.read("image")).all(1)).tolist() == list(range(20))
    run(workspace, plan, source, max_bad=0.2)
    # With a fuller source the same command mends it.
    cache = run(workspace, plan, open_files(plan, **save(folder, plan)))
    check_cache(cache, fake_embeddings(plan))


@pytest.mark.parametrize(("given", "absent"), [("image", "title"), ("title", "image")])
def test_one_modality_alone(
    workspace: LocalStorage, plan: Plan, folder: Path, given: str, absent: str
) -> None:
    """Then its rows are not bad, the other's say why; the second may not erase the first."""
    files = save(folder, plan)
    cache = run(workspace, plan, open_files(plan, **files | {f"{absent}_emb": None}))
    rows = cache.read_rows()
    assert rows["error"].unique().to_pylist() == [f"{absent}: not imported"]
    assert set(rows[f"{given}_ok"].to_pylist()) == {True}
    assert set(rows[f"{absent}_ok"].to_pylist()) == {False}
    check_cache(cache, {given: fake_embeddings(plan)[given]})
    with pytest.raises(EmbeddingFilesError, match=f"has 128 {given} embeddings") as caught:
        run(workspace, plan, open_files(plan, **files | {f"{given}_emb": None}))
    assert f"--{given}-emb" in caught.value.fix
    check_cache(run(workspace, plan, open_files(plan, **files)), fake_embeddings(plan))


# --- guarantees ---


def chunk_files(workspace: LocalStorage) -> dict[str, bytes]:
    found = sorted(workspace.root.glob("cache/*.zarr/c/*/0"))
    found += sorted(workspace.root.glob("cache/rows/*"))
    return {str(path.relative_to(workspace.root)): path.read_bytes() for path in found}


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    num_items=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    shares=st.lists(st.floats(0, 1), max_size=4),
)
def test_files_and_order_do_not_matter(num_items: int, seed: int, shares: list[float]) -> None:
    """Any cut into files and any order of rows gives the same bytes, and export gives them back."""
    with tempfile.TemporaryDirectory() as place:
        one, two = LocalStorage(Path(place) / "one"), LocalStorage(Path(place) / "two")
        plan = fake_plan(one, num_items=num_items)
        fake_plan(two, num_items=num_items)
        order = np.random.default_rng(seed).permutation(num_items)
        cuts = sorted(int(share * num_items) for share in shares)
        write_folder(Path(place) / "source", plan, cuts, order)
        run(one, plan, open_folder(plan, str(Path(place) / "source")))
        export_embeddings(one, plan, str(Path(place) / "out"), allow_partial=True)
        run(two, plan, open_folder(plan, str(Path(place) / "out")))
        assert chunk_files(one) == chunk_files(two)
        check_cache(Cache(two, plan), fake_embeddings(plan))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_export_and_import_give_the_same_bytes(
    workspace: LocalStorage, tmp_path: Path, dtype: str
) -> None:
    """Also of a cache that was embedded, with rows that have no embedding."""
    plan = fake_workspace(workspace)
    found = fake_embeddings(plan)
    found["image"][5] = np.nan
    write_shard(workspace, plan, 0, found)
    export_embeddings(workspace, plan, str(tmp_path / "out"), dtype=dtype)
    other = LocalStorage(tmp_path / "other")
    fake_plan(other, num_items=300, num_labels=6)
    cache = run(other, plan, open_folder(plan, str(tmp_path / "out")))
    check_cache(cache, found)
    for name in ("image", "title"):
        for chunk in range(5):
            theirs = chunk_path(workspace, name, chunk).read_bytes()
            assert chunk_path(other, name, chunk).read_bytes() == theirs


class Killed(BaseException):
    """Stands for kill -9."""


class DyingStorage(LocalStorage):
    """Dies before the nth chunk file is renamed."""

    num_left = 5

    def _step(self, step: str, name: str) -> None:
        if step == "has flushed" and ".zarr/c/" in name:
            self.num_left -= 1
            if self.num_left < 0:
                raise Killed


def test_a_killed_import_goes_on_where_it_was(
    workspace: LocalStorage, plan: Plan, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole shards and whole chunks are kept; the end is that of one uninterrupted run."""
    source = open_files(plan, **save(folder, plan))
    with pytest.raises(Killed):
        run(DyingStorage(workspace.root), plan, source)
    kept = chunk_path(workspace, "image", 0).stat().st_mtime_ns
    assert not commit_path(workspace, 1).exists()
    check_cache(run(workspace, plan, source), fake_embeddings(plan))
    assert chunk_path(workspace, "image", 0).stat().st_mtime_ns == kept
    assert "172 rows of 2 shards" in caplog.text  # 300 - 128
    before = {path: path.stat().st_mtime_ns for path in workspace.root.glob("cache/*/*")}
    run(workspace, plan, source)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_damaged_chunk_is_imported_again(
    workspace: LocalStorage, plan: Plan, folder: Path
) -> None:
    """Done means that the checksums agree; only the broken chunk is written."""
    source = open_files(plan, **save(folder, plan))
    run(workspace, plan, source)
    kept = chunk_path(workspace, "image", 0).stat().st_mtime_ns
    path = chunk_path(workspace, "image", 1)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    check_cache(run(workspace, plan, source), fake_embeddings(plan))
    assert chunk_path(workspace, "image", 0).stat().st_mtime_ns == kept


def test_redo_imports_what_is_done(workspace: LocalStorage, plan: Plan, folder: Path) -> None:
    """Without it another source changes nothing."""
    run(workspace, plan, open_files(plan, **save(folder, plan)))
    other = fake_embeddings(plan, seed=9)
    source = open_files(plan, **save(folder, plan, other))
    check_cache(run(workspace, plan, source), fake_embeddings(plan))
    check_cache(run(workspace, plan, source, redo=True), other)


# --- refusals ---


def test_repeated_ids_are_refused(workspace: LocalStorage, plan: Plan, folder: Path) -> None:
    """Which of the two rows would be the item's?"""
    files = save(folder, plan)
    ids = ids_of(plan)
    ids[10:15] = ["item-000001", "item-000001", "item-000002", "item-000003", "item-000004"]
    (folder / "ids.txt").write_text("\n".join(ids))
    with pytest.raises(EmbeddingFilesError, match="4 ids stand in more") as caught:
        run(workspace, plan, open_files(plan, **files))
    assert "['item-000001', 'item-000002', 'item-000003']" in caught.value.what
    assert not list(workspace.root.glob("cache/*"))


def test_ids_that_match_nothing_are_refused(
    workspace: LocalStorage, plan: Plan, folder: Path
) -> None:
    """The wrong column; both sides are shown."""
    files = save(folder, plan)
    (folder / "ids.txt").write_text("\n".join(f"{row}.jpg" for row in range(NUM_ITEMS)))
    with pytest.raises(EmbeddingFilesError, match=r"0\.jpg.*item-000000") as caught:
        run(workspace, plan, open_files(plan, **files))
    assert "--id-column" in caught.value.fix


def test_other_numbers_of_rows_are_refused(plan: Plan, folder: Path) -> None:
    """Naming both files and both numbers."""
    files = save(folder, plan)
    (folder / "ids.txt").write_text("\n".join(ids_of(plan)[1:]))
    with pytest.raises(EmbeddingFilesError, match=r"image.npy has 300 rows.*ids.txt has 299"):
        open_files(plan, **files)
    write_folder(folder, plan, [100], np.arange(NUM_ITEMS))
    np.save(folder / "text_emb" / "text_emb_1.npy", np.zeros((7, 16), np.float16))
    with pytest.raises(EmbeddingFilesError, match=r"text_emb_1.npy has 7 rows.*has 200 ids"):
        open_folder(plan, str(folder))
    (folder / "text_emb" / "text_emb_1.npy").unlink()
    with pytest.raises(EmbeddingFilesError, match=r"same file numbers.*\[1\]"):
        open_folder(plan, str(folder))


def write_wide(folder: Path) -> None:
    np.save(folder / "image.npy", np.zeros((NUM_ITEMS, 17), np.float16))


def write_wide_lists(folder: Path) -> None:
    table = pa.table({"image_embedding": [[0.5] * 17], "item_id": ["a"]})
    pq.write_table(table, folder / "image.parquet")
    (folder / "image.npy").unlink()


@pytest.mark.parametrize("write", [write_wide, write_wide_lists])
def test_another_width_is_refused(plan: Plan, folder: Path, write: Callable[[Path], None]) -> None:
    """They come from another encoder."""
    files = save(folder, plan)
    write(folder)
    image = next(folder.glob("image.*"))
    with pytest.raises(SpecMismatchError, match="D=17, plan says D=16") as caught:
        open_files(plan, **files | {"image_emb": str(image)})
    assert caught.value.where == str(image)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros((2, 16)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("image.npy", pickled(), "Python objects"),
        ("image.npy", b"", "cannot be read"),
        ("image.npy", b"\x80\x04N.", "cannot be read"),
        ("image.npy", npy(np.zeros((NUM_ITEMS, 16)))[:-1], "cannot be read"),
        ("image.npy", npy(np.zeros(16)), r"shape \(16,\)"),
        ("image.npy", npy(np.zeros((NUM_ITEMS, 16), np.int8)), "type int8"),
        ("image.npy", npz(), "npz archive"),
        ("image.npz", npz(), "not of a known kind"),
        ("image.parquet", b"nonsense", "cannot be read"),
        ("ids.npy", npy(np.zeros(NUM_ITEMS)), "type float64"),
        ("ids.npy", npy(np.array([b"\xff"])), "cannot be read"),
        ("ids.csv", b"price\n1\n", "no column item_id or key or image_path; found: price"),
        ("ids.parquet", b"nonsense", "cannot be read"),
        ("ids.json", b"[]", "not of a known kind"),
    ],
)
def test_files_that_cannot_be_taken(
    plan: Plan, folder: Path, name: str, data: bytes, problem: str
) -> None:
    """Before anything is written, naming the file; nothing pickled is ever loaded."""
    files = save(folder, plan)
    (folder / name).write_bytes(data)
    option = "ids" if name.startswith("ids") else "image_emb"
    with pytest.raises(EmbeddingFilesError, match=problem) as caught:
        open_files(plan, **files | {option: str(folder / name)})
    assert caught.value.where == str(folder / name)


def test_columns_that_hold_no_lists_or_ids(plan: Plan, folder: Path) -> None:
    """Each with the column's name."""
    files = save(folder, plan)
    table = pa.table({"item_id": pa.array(["a", None]), "f": [0.5, 1.5]})
    pq.write_table(table, folder / "a.parquet")
    with pytest.raises(EmbeddingFilesError, match="no column image_embedding; found: item_id, f"):
        open_files(plan, **files | {"image_emb": str(folder / "a.parquet")})
    with pytest.raises(EmbeddingFilesError, match="column f has the type double"):
        open_files(plan, **files | {"image_emb": str(folder / "a.parquet"), "image_column": "f"})
    for column, problem in (("f", "ids are double"), ("item_id", "1 ids are null")):
        with pytest.raises(EmbeddingFilesError, match=problem):
            open_files(plan, **files | {"ids": str(folder / "a.parquet"), "id_column": column})


@pytest.mark.parametrize("place", ["s3://bucket/emb.npy", "/nowhere/emb.npy"])
def test_places_that_are_not_local_files(plan: Plan, folder: Path, place: str) -> None:
    """An object store would be read row by row."""
    with pytest.raises(EmbeddingFilesError, match=r"local files only|does not exist"):
        open_files(plan, **save(folder, plan) | {"image_emb": place})
    with pytest.raises(EmbeddingFilesError, match=r"local files only|no output of clip-retrieval"):
        open_folder(plan, place)


def test_embeddings_without_ids_are_refused(plan: Plan, folder: Path) -> None:
    """The plan's order is never assumed."""
    with pytest.raises(EmbeddingFilesError, match="which rows are which") as caught:
        open_files(plan, **save(folder, plan) | {"ids": None})
    assert "--ids" in caught.value.fix


# --- truth ---


def planned(workspace: LocalStorage, small_model: Path, **catalog: object) -> Plan:
    """Plan with the real small model, then put the fake encoder's spec in its place."""
    items, labels = write_catalog(workspace.root / "catalog", **catalog)
    make_plan(
        workspace,
        items=items,
        labels=labels,
        model=f"local-dir:{small_model}",
        pretrained="",
        shard_rows=16,
        chunk_rows=8,
        device="cpu",
    )
    spec = fake_spec()
    plan = replace(read_plan(workspace), encoder=spec, spec_id=spec.spec_id())
    plan_path(workspace).write_text(to_json(plan))
    return plan


def embedded(workspace: LocalStorage, plan: Plan) -> Source:
    """Embed with the fake encoder, export, and forget the cache."""
    embed(
        workspace,
        plan,
        range(plan.num_shards),
        HashEncoder,
        with_labels=False,
        num_workers=0,
        max_bad=1,
    )
    folder = str(workspace.root / "out")
    export_embeddings(workspace, plan, folder, allow_partial=True)
    shutil.rmtree(workspace.root / "cache")
    return open_folder(plan, folder)


class OtherEncoder(HashEncoder):
    """Another space: what it makes of pictures, or of titles, is turned around."""

    def __init__(self, turned: str) -> None:
        super().__init__()
        self.turned = turned

    def encode_images(self, batches):  # noqa: ANN001
        for each in super().encode_images(batches):
            yield -each if self.turned == "image" else each

    def encode_texts(self, texts, batch_size=64):  # noqa: ANN001
        found = super().encode_texts(texts, batch_size)
        return -found if self.turned == "title" else found


@pytest.mark.parametrize("with_bytes", [True, False])
def test_a_sample_shows_that_the_encoder_is_the_planned_one(
    workspace: LocalStorage,
    small_model: Path,
    with_bytes: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pictures that cannot be read are left out of it."""
    images = {} if with_bytes else {"image_path": [f"{i:04d}.png" for i in range(39)] + ["no.png"]}
    plan = planned(workspace, small_model, with_bytes=with_bytes, **images)
    source = embedded(workspace, plan)
    encoder = HashEncoder()
    loaded = []
    import_embeddings(workspace, plan, source, lambda: loaded.append(1) or encoder, max_bad=0.2)
    assert len(loaded) == 1
    assert encoder.num_texts == 40
    assert encoder.num_images == (40 if with_bytes else 39)
    assert "40 titles: median cosine 1.0000" in caplog.text


@pytest.mark.parametrize("turned", ["image", "title"])
def test_embeddings_of_another_encoder_are_refused(
    workspace: LocalStorage, small_model: Path, turned: str
) -> None:
    """The cache cannot lie: nothing is written, and the error says how far off they are."""
    plan = planned(workspace, small_model)
    source = embedded(workspace, plan)
    with pytest.raises(SpecMismatchError, match=rf"{turned}s: median cosine -1\.0000.*0\.99") as e:
        import_embeddings(workspace, plan, source, lambda: OtherEncoder(turned))
    assert "--trust" in e.value.fix
    assert not list(workspace.root.glob("cache/*"))
    run(workspace, plan, source)


def test_ids_in_another_order_than_the_rows_are_refused(
    workspace: LocalStorage, small_model: Path
) -> None:
    """The costliest mistake: everything fits and every row is another item's."""
    plan = planned(workspace, small_model)
    source = embedded(workspace, plan)
    ids = source.ids.to_pylist()
    turned = replace(source, ids=pa.chunked_array([ids[1:] + ids[:1]], pa.large_string()))
    with pytest.raises(SpecMismatchError, match="titles: median cosine"):
        import_embeddings(workspace, plan, turned, HashEncoder)


def test_what_cannot_be_compared_is_said(
    workspace: LocalStorage, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, not silence."""
    plan = planned(workspace, small_model, title=[None] * 40, image=[b"<html>"] * 40)
    source = open_files(plan, **save(workspace.root, plan) | {"ids": ids_file(workspace.root)})
    import_embeddings(workspace, plan, source, no_encoder)
    assert "no image could be compared" in caplog.text
    assert "no title could be compared" in caplog.text


def ids_file(folder: Path) -> str:
    (folder / "ids.txt").write_text("\n".join(f"item-{row:04d}" for row in range(40)))
    return str(folder / "ids.txt")


# --- command line ---


def test_the_command_imports_and_says_what_is_next(
    workspace: LocalStorage, plan: Plan, folder: Path
) -> None:
    """From end to end, with both ways to name the files."""
    files = save(folder, plan)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in files.items()]
    place = ["--trust", "--workspace", str(workspace.root)]
    result = CliRunner().invoke(cli.main, ["import", *options, *place])
    assert result.exit_code == 0, result.output
    assert "embed --labels" in result.output
    check_cache(Cache(workspace, plan), fake_embeddings(plan))
    write_folder(folder, plan, [100], np.arange(NUM_ITEMS), "key")
    result = CliRunner().invoke(cli.main, ["import", "--from", str(folder), "--redo", *place])
    assert result.exit_code == 0, result.output
    for wrong in ([], ["--from", "x", "--ids", "y"]):
        assert CliRunner().invoke(cli.main, ["import", *wrong, *place]).exit_code == 2
