"""Exporting the cache: files that others read, complete and never mixed with older ones."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import cli
from cache.reader import read_label_emb
from cache.storage import LocalStorage
from pipeline.export_embeddings import export_embeddings
from schemas.errors import CacheCorruptError, CacheIncompleteError, EmbeddingFilesError
from schemas.plan import Plan
from tests.fakes import (
    chunk_path,
    commit_path,
    fake_embeddings,
    fake_plan,
    fake_workspace,
    labels_commit_path,
    write_shard,
)


@pytest.fixture
def plan(workspace: LocalStorage) -> Plan:
    return fake_workspace(workspace)


@pytest.fixture
def out(workspace: LocalStorage) -> Path:
    return workspace.root / "out"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_shard_has_its_three_files(
    workspace: LocalStorage, plan: Plan, out: Path, dtype: str
) -> None:
    """As np.load and any Parquet reader see them, rows in plan order."""
    found = fake_embeddings(plan)
    found["title"][130] = np.nan
    write_shard(workspace, plan, 1, found)
    export_embeddings(workspace, plan, str(out), dtype=dtype)
    metadata = []
    for shard in range(3):
        rows = slice(*plan.shard_range(shard))
        for name, below in (("image", "img_emb"), ("title", "text_emb")):
            matrix = np.load(out / below / f"{below}_{shard:05d}.npy", allow_pickle=False)
            assert matrix.dtype == dtype
            np.testing.assert_array_equal(matrix, found[name][rows])
        metadata += pq.read_table(out / "metadata" / f"metadata_{shard:05d}.parquet").to_pylist()
    assert [row["row"] for row in metadata] == list(range(300))
    assert metadata[7] == {
        "row": 7,
        "item_id": "item-000007",
        "label_id": "Thing 1",
        "label_name": "Thing 1",
        "split": "train",
        "image_ok": True,
        "title_ok": True,
        "error": None,
    }
    assert [row["row"] for row in metadata if not row["title_ok"]] == [130]
    assert metadata[130]["error"] == "image: absent"
    assert pq.read_table(out / "labels.parquet")["label"].to_pylist() == list(range(6))
    np.testing.assert_array_equal(np.load(out / "label_emb.npy"), read_label_emb(workspace, plan))


def test_files_have_the_header_that_embedding_reader_looks_for(
    workspace: LocalStorage, plan: Plan, out: Path
) -> None:
    """It parses the first line of an .npy file itself."""
    export_embeddings(workspace, plan, str(out))
    line = (out / "img_emb" / "img_emb_00002.npy").read_bytes().split(b"\n")[0]
    assert b"'descr': '<f2'" in line
    assert b"'shape': (44, 16)" in line


def test_a_folder_with_files_is_not_overwritten(
    workspace: LocalStorage, plan: Plan, out: Path
) -> None:
    """With --force an earlier export goes, so that its shards never mix with these."""
    (out / "img_emb").mkdir(parents=True)
    (out / "img_emb" / "img_emb_00007.npy").touch()
    (out / "img_emb" / "notes.txt").touch()
    with pytest.raises(EmbeddingFilesError, match="not empty") as caught:
        export_embeddings(workspace, plan, str(out))
    assert caught.value.where == str(out)
    assert "--force" in caught.value.fix
    export_embeddings(workspace, plan, str(out), force=True)
    names = sorted(path.name for path in (out / "img_emb").iterdir())
    assert names == ["img_emb_00000.npy", "img_emb_00001.npy", "img_emb_00002.npy", "notes.txt"]


def test_a_workspace_is_never_exported_into(workspace: LocalStorage, plan: Plan) -> None:
    """Its labels.parquet would be replaced."""
    with pytest.raises(EmbeddingFilesError, match="is a workspace"):
        export_embeddings(workspace, plan, workspace.location, force=True)
    with pytest.raises(EmbeddingFilesError, match="local folder only"):
        export_embeddings(workspace, plan, "s3://bucket/out")


def test_an_unfinished_cache_is_exported_only_on_demand(
    workspace: LocalStorage, plan: Plan, out: Path
) -> None:
    """Then its rows are NaN and say why, and label embeddings may be absent."""
    commit_path(workspace, 1).unlink()
    labels_commit_path(workspace).unlink()
    with pytest.raises(CacheIncompleteError):
        export_embeddings(workspace, plan, str(out))
    assert not out.exists()
    export_embeddings(workspace, plan, str(out), allow_partial=True)
    assert np.isnan(np.load(out / "img_emb" / "img_emb_00001.npy")).all()
    rows = pq.read_table(out / "metadata" / "metadata_00001.parquet")
    assert set(rows["error"].to_pylist()) == {"shard not embedded"}
    assert not (out / "label_emb.npy").exists()


def test_a_damaged_chunk_is_not_exported(workspace: LocalStorage, plan: Plan, out: Path) -> None:
    """Every byte is compared with its checksum on the way."""
    path = chunk_path(workspace, "title", 3)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheCorruptError, match="chunk 3"):
        export_embeddings(workspace, plan, str(out))
    assert not (out / "text_emb" / "text_emb_00001.npy").exists()


def test_the_command_exports(workspace: LocalStorage, plan: Plan, out: Path) -> None:
    """From end to end."""
    place = ["--workspace", str(workspace.root)]
    result = CliRunner().invoke(cli.main, ["export", "--out", str(out), *place])
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    again = CliRunner().invoke(cli.main, ["export", "--out", str(out), *place])
    assert again.exit_code == 1
    assert "not empty" in again.output


def test_before_anything_is_embedded_there_is_nothing_to_export(
    tmp_path: Path,
) -> None:
    """Not even with --allow-partial."""
    workspace = LocalStorage(tmp_path / "new")
    plan = fake_plan(workspace, num_items=10)
    with pytest.raises(CacheIncompleteError):
        export_embeddings(workspace, plan, str(tmp_path / "out"), allow_partial=True)
