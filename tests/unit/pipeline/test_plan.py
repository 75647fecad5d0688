"""Planning with a real, small encoder and real catalog files."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cache.reader import read_plan
from cache.storage import LocalStorage
from pipeline.plan import PlanReport, make_plan
from schemas.errors import CatalogError, ConfigError, PlanMismatchError, WorkspaceError
from tests.fakes import items_path, labels_path, plan_path, write_catalog


def plan(
    workspace: LocalStorage | Path, catalog: tuple[Path, Path], model: Path, **options: object
) -> PlanReport:
    given = {"shard_rows": 16, "chunk_rows": 8, "device": "cpu", "pretrained": ""} | options
    place = workspace if isinstance(workspace, LocalStorage) else LocalStorage(workspace)
    return make_plan(
        place, items=catalog[0], labels=catalog[1], model=f"local-dir:{model}", **given
    )


@pytest.fixture
def catalog(workspace: LocalStorage) -> tuple[Path, Path]:
    return write_catalog(workspace.root / "catalog", num_items=40)


def files(workspace: LocalStorage) -> dict[str, bytes]:
    return {name: workspace.read(name) for name in workspace.sizes("")}


def test_the_tables_hold_every_item_in_catalog_order(
    workspace: LocalStorage, catalog: tuple[Path, Path], small_model: Path
) -> None:
    """Row i is item i of the plan, for ever."""
    workspace = LocalStorage(workspace.root / "workspace")
    report = plan(workspace, catalog, small_model)
    assert report.is_new
    tables = [pq.read_table(items_path(workspace, shard)) for shard in range(3)]
    assert [len(table) for table in tables] == [16, 16, 8]
    ids = [value for table in tables for value in table["item_id"].to_pylist()]
    assert ids == [f"item-{i:04d}" for i in range(40)]
    assert tables[2]["row"].to_pylist() == list(range(32, 40))
    labels = pq.read_table(labels_path(workspace))
    assert labels["count"].to_pylist() == [10, 10, 10, 10]
    assert labels["label_id"].to_pylist() == ["L0", "L1", "L2", "L3"]
    assert sum(report.split_counts.values()) == 40
    assert report.items_per_second > 0


def test_the_same_plan_again_changes_no_byte(
    workspace: LocalStorage, catalog: tuple[Path, Path], small_model: Path
) -> None:
    """A job script may plan at its start, every time."""
    workspace = LocalStorage(workspace.root / "workspace")
    plan(workspace, catalog, small_model)
    before = files(workspace)
    assert not plan(workspace, catalog, small_model).is_new
    assert files(workspace) == before


def test_a_different_plan_is_refused_with_the_fields(
    workspace: LocalStorage, catalog: tuple[Path, Path], small_model: Path
) -> None:
    """Half-embedded workspaces are not to be planned anew by a typo."""
    workspace = LocalStorage(workspace.root / "workspace")
    plan(workspace, catalog, small_model)
    before = files(workspace)
    with pytest.raises(PlanMismatchError, match="seed: 0 -> 1") as caught:
        plan(workspace, catalog, small_model, seed=1)
    assert "--force" in caught.value.fix
    assert files(workspace) == before
    assert plan(workspace, catalog, small_model, seed=1, force=True).is_new
    assert read_plan(workspace).seed == 1


def test_a_shorter_forced_plan_leaves_no_old_tables(
    workspace: LocalStorage, catalog: tuple[Path, Path], small_model: Path
) -> None:
    """Readers that list the folder must not find items of the old plan."""
    workspace = LocalStorage(workspace.root / "workspace")
    plan(workspace, catalog, small_model)
    plan(workspace, catalog, small_model, limit=10, force=True)
    assert list(workspace.sizes("items")) == ["items/00000.parquet"]
    assert read_plan(workspace).num_items == 10


def test_only_the_changed_shard_gets_another_hash(
    workspace: LocalStorage, small_model: Path
) -> None:
    """A corrected title costs one shard, not twelve million items."""
    folder = workspace.root / "catalog"
    catalog = write_catalog(folder, num_items=40, with_bytes=False)
    first = plan(workspace.root / "a", catalog, small_model).plan
    titles = [f"Acme thing {i % 4} no. {i}" for i in range(40)]
    titles[20] = "Corrected"
    write_catalog(folder, num_items=40, with_bytes=False, title=titles)
    second = plan(workspace.root / "b", catalog, small_model).plan
    same = np.array(first.shards) == np.array(second.shards)
    assert same.tolist() == [True, False, True]


def test_splits_and_labels_are_not_in_the_hashes(
    workspace: LocalStorage, small_model: Path
) -> None:
    """A relabeled catalog keeps its embeddings."""
    folder = workspace.root / "catalog"
    catalog = write_catalog(folder, num_items=20, with_bytes=False)
    first = plan(workspace.root / "a", catalog, small_model).plan
    write_catalog(folder, num_items=20, with_bytes=False, label_id=["L1"] * 20)
    second = plan(workspace.root / "b", catalog, small_model, seed=5).plan
    assert first.shards == second.shards
    assert first.spec_id == second.spec_id


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"label_id": ["L0", "L9", None, "L8"]}, "3 items have a label_id.*'L9', None, 'L8'"),
        ({"item_id": ["a", "b", "a", "b"]}, "2 item ids occur more than once: 'a', 'b'"),
        ({"item_id": ["a", None, "c", ""]}, "2 items have no item_id"),
        ({"split": ["train", "tset", "val", "test"]}, "unknown split names: 'tset'"),
    ],
)
def test_wrong_items_are_counted_and_the_first_named(
    workspace: LocalStorage, small_model: Path, columns: dict[str, list[object]], problem: str
) -> None:
    """One clear error before work starts; nothing is written."""
    catalog = write_catalog(workspace.root / "catalog", num_items=4, **columns)
    with pytest.raises(CatalogError, match=problem):
        plan(workspace.root / "workspace", catalog, small_model)
    assert not (workspace.root / "workspace").exists()


def test_an_empty_catalog_is_refused(workspace: LocalStorage, small_model: Path) -> None:
    """Not a plan of zero shards that everything after it finds complete."""
    catalog = write_catalog(workspace.root / "catalog", num_items=0)
    with pytest.raises(CatalogError, match="no items"):
        plan(workspace.root / "workspace", catalog, small_model)


def test_duplicate_names_need_the_path_or_consent(
    workspace: LocalStorage, small_model: Path
) -> None:
    """Two labels with one text have one embedding and are each other's nearest neighbor."""
    catalog = write_catalog(workspace.root / "catalog", num_items=8)
    text = "label_id,name,path\n" + "".join(f"L{i},Boots,{i} > Boots\n" for i in range(4))
    catalog[1].write_text(text)
    with pytest.raises(CatalogError, match="1 label texts") as caught:
        plan(workspace.root / "workspace", catalog, small_model)
    assert "--label-text path" in caught.value.fix
    assert plan(workspace.root / "a", catalog, small_model, label_text="path").is_new
    assert plan(workspace.root / "b", catalog, small_model, allow_duplicate_names=True).is_new


def test_labels_may_share_some_of_their_texts_but_not_all(
    workspace: LocalStorage, small_model: Path
) -> None:
    """The mean of several prompts tells two labels apart if one of the prompts does."""
    catalog = write_catalog(workspace.root / "catalog", num_items=8)
    text = "label_id,name,path\n" + "".join(f"L{i},Boots,{i} > Boots\n" for i in range(4))
    catalog[1].write_text(text)
    with pytest.raises(CatalogError, match="1 label texts occur more than once: 'a Boots'"):
        plan(workspace.root / "a", catalog, small_model, label_text="a {name} | the {name}")
    report = plan(workspace.root / "b", catalog, small_model, label_text="a {name} | {path}")
    assert report.plan.label_text == "a {name} | {path}"


def test_labels_without_items_only_warn(
    workspace: LocalStorage, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A taxonomy is planned before its items exist."""
    catalog = write_catalog(workspace.root / "catalog", num_items=4, label_id=["L0"] * 4)
    report = plan(workspace.root / "workspace", catalog, small_model)
    assert "3 of 4 labels have no items" in caplog.text
    assert report.class_counts.tolist() == [4, 0, 0, 0]


def test_chunks_that_do_not_divide_the_shard_are_refused(
    workspace: LocalStorage, catalog: tuple[Path, Path], small_model: Path
) -> None:
    """A shard owns whole chunks."""
    with pytest.raises(ConfigError, match="not a multiple"):
        plan(workspace.root / "workspace", catalog, small_model, chunk_rows=9)


def test_a_workspace_that_cannot_be_written_is_one_clear_error(
    workspace: LocalStorage, catalog: tuple[Path, Path], small_model: Path
) -> None:
    """A file stands where the folder should be."""
    (workspace.root / "file").write_text("x")
    with pytest.raises(WorkspaceError):
        plan(workspace.root / "file" / "workspace", catalog, small_model)
    assert not plan_path(workspace).exists()


def test_the_report_says_what_matters(
    workspace: LocalStorage, catalog: tuple[Path, Path], small_model: Path
) -> None:
    """A person decides by it whether to spend GPU hours."""
    text = plan(workspace.root / "workspace", catalog, small_model).table().markdown()
    for words in ("40 in 1 files", "items a label", "shards", "disk", "items/s", "spec_id"):
        assert words in text
