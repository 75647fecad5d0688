"""A catalog that changes: what is right stays embedded, what is gone takes part in nothing."""

import contextlib
import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import cli
from cache.reader import Cache, read_all_items, read_labels, read_plan
from cache.storage import LocalStorage
from cache.verify import shard_states
from pipeline.catalog_changes import append_items, delete_items, relabel_items
from pipeline.clean import clean
from pipeline.embedding_files import open_folder
from pipeline.export_embeddings import export_embeddings
from pipeline.fit import fit
from pipeline.import_embeddings import import_embeddings
from pipeline.items import find_items, read_places
from pipeline.label_changes import UNLABELED, update_labels
from pipeline.neighbors import write_neighbors
from pipeline.plan import make_plan
from pipeline.plan_update import PlanChange, changing_plan
from pipeline.status import read_status
from pipeline.tensors import FitData
from pipeline.verify import verify
from schemas.clean import CleanConfig
from schemas.configs import to_json
from schemas.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    CatalogError,
    ConfigError,
    LeaseError,
    NeighborsError,
    PlanMismatchError,
    PlanNotFoundError,
)
from schemas.plan import ItemsSource
from schemas.run import FitConfig
from tests.fakes import CPU, HashEncoder, chunk_path, items_path, picture_bytes, write_catalog
from tests.unit.pipeline.test_embed import planned, run

NUM_ITEMS = 100  # in seven shards of 16, the last of 4
QUICK = {"epochs": 2, "batch_size": 16, "hidden_dim": 16, "lr": 0.01}


def columns(num_items: int = NUM_ITEMS, num_labels: int = 4) -> dict[str, list]:
    """Return a catalog whose every picture and title is its own."""
    return {
        "item_id": [f"item-{i:04d}" for i in range(num_items)],
        "title": [f"thing {i % num_labels} no. {i}" for i in range(num_items)],
        "label_id": [f"L{i % num_labels}" for i in range(num_items)],
        "image": [picture_bytes((i % 256, 40 * (i % 4), i // 256)) for i in range(num_items)],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> LocalStorage:
    workspace = LocalStorage(tmp_path_factory.mktemp("made"))
    plan = planned(workspace, small_model, **{"num_items": NUM_ITEMS} | columns())
    run(workspace, plan, with_labels=True)
    return workspace


@pytest.fixture
def workspace(made: LocalStorage, tmp_path: Path) -> LocalStorage:
    """Return an embedded workspace to change."""
    shutil.copytree(made.root, tmp_path / "workspace")
    return LocalStorage(tmp_path / "workspace")


def write_items(path: Path, table: dict[str, list]) -> Path:
    pq.write_table(pa.table(table), path)
    return path


def some(table: dict[str, list], rows: list[int], **changes: list) -> dict[str, list]:
    """Return some rows of a catalog, with other columns in place of theirs."""
    return {name: [values[row] for row in rows] for name, values in table.items()} | changes


def append(workspace: LocalStorage, table: dict[str, list]) -> PlanChange:
    count = len(list(workspace.root.glob("append*")))
    return append_items(workspace, write_items(workspace.root / f"append{count}.parquet", table))


def embed_missing(workspace: LocalStorage) -> HashEncoder:
    """Embed what is missing; the encoder knows how much that was."""
    encoder = HashEncoder()
    run(workspace, read_plan(workspace), encoder, with_labels=True, max_bad=1.0)
    return encoder


def live(workspace: LocalStorage) -> dict[str, dict]:
    """Return what the catalog says of each item that is in it, and its embeddings."""
    plan = read_plan(workspace)
    cache = Cache(workspace, plan)
    items, rows = read_all_items(workspace, plan).to_pylist(), cache.read_rows().to_pylist()
    image, title = (cache.read(name) for name in ("image", "title"))
    assert len(items) == len(rows) == len(image) == plan.num_rows
    found = {}
    for row, (item, embedded) in enumerate(zip(items, rows, strict=True)):
        assert item["row"] == embedded["row"] == row
        assert item["item_id"] == embedded["item_id"]
        if item["item_id"] is None:  # between shards
            assert np.isnan(image[row]).all()
            assert not embedded["image_ok"]
        if item["split"] is not None:
            assert item["item_id"] not in found
            found[item["item_id"]] = {**item, "image": image[row], "title": title[row]}
    return found


def tables(workspace: LocalStorage) -> dict[str, bytes]:
    """Return the plan and its tables, and what may be left beside them."""
    names = [name for name in workspace.sizes("") if "cache" not in name and "append" not in name]
    return {name: workspace.read(name) for name in names}


def committed(workspace: LocalStorage) -> dict[str, bytes]:
    """Return chunks, rows and commits of all shards that are done."""
    names = [name for name in workspace.sizes("cache") if "/c/" in name or "/rows/" in name]
    names += [name for name in workspace.sizes("cache/commits") if "labels" not in name]
    return {name: workspace.read(name) for name in names if "label" not in name}


def test_new_items_are_embedded_and_committed_shards_are_left_alone(
    workspace: LocalStorage,
) -> None:
    """A day's hundred new products must not cost a night of GPU."""
    before = committed(workspace)
    every = columns(NUM_ITEMS + 20)
    change = append(workspace, some(every, list(range(NUM_ITEMS, NUM_ITEMS + 20))))
    assert (change.counts["new items"], change.shards) == (20, range(7, 9))
    encoder = embed_missing(workspace)
    assert (encoder.num_images, encoder.num_texts) == (20, 20)
    after = committed(workspace)
    assert {name: after[name] for name in before} == before
    plan = read_plan(workspace)
    assert plan.shard_items == (16,) * 6 + (4, 16, 4)
    assert [plan.shard_range(shard) for shard in (6, 7, 8)] == [(96, 100), (112, 128), (128, 132)]
    assert set(live(workspace)) == set(every["item_id"])
    verify(workspace, plan, range(plan.num_shards)).check()
    assert {state.state for state in shard_states(workspace, plan, range(9))} == {"done"}


def test_a_changed_item_gets_a_new_row_and_keeps_its_split(workspace: LocalStorage) -> None:
    """A new title, another picture or a lost one; an item as it was stays where it is."""
    before, table = live(workspace), columns()
    rows = [3, 40, 50, 60, 99]
    given = some(table, rows)
    given["title"][0] = "corrected"
    given["image"][1] = picture_bytes((1, 2, 3))
    given["image"][2] = None
    change = append(workspace, given)
    assert list(change.counts.values()) == [0, 3, 0, 0, 2]
    encoder = embed_missing(workspace)
    assert (encoder.num_images, encoder.num_texts) == (2, 3)
    after = live(workspace)
    assert set(after) == set(before)
    moved = [name for name in after if after[name]["row"] != before[name]["row"]]
    assert moved == ["item-0003", "item-0040", "item-0050"]
    for name in moved:
        assert after[name]["split"] == before[name]["split"]
        assert after[name]["label"] == before[name]["label"]
    assert np.isnan(after["item-0050"]["image"]).all()
    labels = read_labels(workspace, read_plan(workspace))
    assert labels["count"].to_pylist() == [25] * 4
    assert read_status(workspace, read_plan(workspace)).num_retired == 3


def test_what_is_given_twice_changes_nothing_the_second_time(workspace: LocalStorage) -> None:
    """Before and after it is embedded: a nightly job may repeat itself."""
    every = columns(NUM_ITEMS + 5)
    given = some(every, [1, 2, *range(NUM_ITEMS, NUM_ITEMS + 5)])
    given["title"][0] = "corrected"
    assert append(workspace, given).is_changed
    for again in range(2):
        before = tables(workspace)
        change = append(workspace, given)
        assert not change.is_changed
        assert list(change.counts.values()) == [0, 0, 0, 0, 7]
        assert tables(workspace) == before
        if not again:
            embed_missing(workspace)


def test_an_item_whose_old_source_is_gone_counts_as_changed(
    made: LocalStorage, tmp_path: Path
) -> None:
    """Nobody knows what an unembedded row was once its file was overwritten."""
    workspace = LocalStorage(tmp_path / "unembedded")
    for name in ("plan.json", "labels.parquet", "items"):
        source = made.root / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        workspace.root.mkdir(exist_ok=True)
        copy(source, workspace.root / name)
    plan = read_plan(workspace)
    moved = shutil.copy(plan.items.files[0].path, tmp_path / "items.parquet")
    file = replace(plan.items.files[0], path=str(moved))
    moved_plan = replace(plan, items=replace(plan.items, files=(file,)))
    workspace.write("plan.json", to_json(moved_plan).encode())
    given = some(columns(), [5, 6])
    assert not append(workspace, given).is_changed
    Path(moved).unlink()
    assert append(workspace, given).counts["changed items, their old rows retired"] == 2


def test_another_label_is_taken_without_embedding(workspace: LocalStorage) -> None:
    """Given with the item, or alone in a list; labels are in no embedding."""
    before = committed(workspace)
    change = append(workspace, some(columns(), [0, 1, 2], label_id=["L3", "L1", "L3"]))
    assert list(change.counts.values()) == [0, 0, 2, 0, 1]
    pa.csv.write_csv(
        pa.table(
            {"item_id": ["item-0000", "item-0005", "item-0006"], "label_id": ["L2", "L2", ""]}
        ),
        workspace.root / "relabel.csv",
    )
    change = relabel_items(workspace, workspace.root / "relabel.csv")
    assert list(change.counts.values()) == [2, 0, 1]
    found = live(workspace)
    assert [found[f"item-{i:04d}"]["label"] for i in (0, 1, 2, 5, 6)] == [2, 1, 3, 2, 2]
    assert read_labels(workspace, read_plan(workspace))["count"].to_pylist() == [24, 24, 26, 26]
    assert not relabel_items(workspace, workspace.root / "relabel.csv").is_changed
    assert committed(workspace) == before
    assert embed_missing(workspace).num_texts == 0


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_deleted_items_take_part_in_nothing(workspace: LocalStorage, kind: str) -> None:
    """Their rows stay in the cache, and no reader takes them."""
    gone = [f"item-{i:04d}" for i in range(0, 30, 3)]
    path = workspace.root / f"gone.{kind}"
    if kind == "txt":
        path.write_text("\n".join(gone) + "\n")
    elif kind == "csv":
        pa.csv.write_csv(pa.table({"item_id": gone, "why": [1] * 10}), path)
    else:
        pq.write_table(pa.table({"item_id": gone}), path)
    before = committed(workspace)
    assert list(delete_items(workspace, path).counts.values()) == [10, 0]
    assert list(delete_items(workspace, path).counts.values()) == [0, 10]
    assert committed(workspace) == before
    plan = read_plan(workspace)
    assert set(live(workspace)) == set(columns()["item_id"]) - set(gone)
    assert read_labels(workspace, plan)["count"].to_pylist() == [22, 23, 23, 22]
    write_neighbors(workspace, plan, k=2)
    data = FitData(workspace, plan, torch.device("cpu"))
    rows = torch.cat([data.train, data.val, data.test]).tolist()
    assert sorted(rows) == [i for i in range(100) if f"item-{i:04d}" not in gone]
    found = clean(workspace, plan, CleanConfig(mismatch_quantile=0.0))
    assert found.table["keep"].to_pylist() == [f"item-{i:04d}" not in gone for i in range(100)]
    export_embeddings(workspace, plan, str(workspace.root / "out"))
    exported = [
        row
        for shard in range(7)
        for row in pq.read_table(
            workspace.root / "out" / "metadata" / f"metadata_{shard:05d}.parquet"
        ).to_pylist()
    ]
    matrices = sorted((workspace.root / "out" / "img_emb").iterdir())
    exported_emb = np.concatenate([np.load(path) for path in matrices])
    assert [row["item_id"] for row in exported] == sorted(set(columns()["item_id"]) - set(gone))
    np.testing.assert_array_equal(
        exported_emb, Cache(workspace, plan).read("image")[[row["row"] for row in exported]]
    )


def test_an_item_may_come_back(workspace: LocalStorage) -> None:
    """As a new row: the old one may be of another product by then."""
    (workspace.root / "gone.txt").write_text("item-0007\n")
    before = live(workspace)["item-0007"]
    delete_items(workspace, workspace.root / "gone.txt")
    assert append(workspace, some(columns(), [7])).counts["new items"] == 1
    embed_missing(workspace)
    after = live(workspace)["item-0007"]
    assert after["row"] == 112
    np.testing.assert_array_equal(after["image"], before["image"])
    assert list(delete_items(workspace, workspace.root / "gone.txt").counts.values()) == [1, 0]


def test_any_row_of_changes_ends_as_a_plan_of_the_final_catalog(
    workspace: LocalStorage, small_model: Path, tmp_path: Path
) -> None:
    """The law behind all of this: items, labels and embeddings are those of planning anew."""
    rng = np.random.default_rng(0)
    catalog = {row["item_id"]: row for row in pa.table(columns()).to_pylist()}
    for step in range(6):
        ids = sorted(catalog)
        changed = {}
        for item_id in rng.choice(ids, 12, replace=False).tolist():
            row = dict(catalog[item_id])
            kind = rng.integers(4)
            if kind == 0:
                row["title"] = f"title of step {step} for {item_id}"
            elif kind == 1:
                row["image"] = picture_bytes((step, int(rng.integers(256)), 7))
            elif kind == 2:
                row["label_id"] = f"L{rng.integers(4)}"
            changed[item_id] = row
        for number in range(int(rng.integers(5))):
            name = f"new-{step}-{number}"
            changed[name] = {
                "item_id": name,
                "title": name,
                "label_id": f"L{number % 4}",
                "image": picture_bytes((step, number, 200)),
            }
        gone = rng.choice([each for each in ids if each not in changed], 5, replace=False).tolist()
        (workspace.root / "gone.txt").write_text("\n".join(gone))
        delete_items(workspace, workspace.root / "gone.txt")
        append(workspace, pa.Table.from_pylist(list(changed.values())).to_pydict())
        if step % 2:
            embed_missing(workspace)
        catalog = {key: row for key, row in (catalog | changed).items() if key not in gone}
    anew = LocalStorage(tmp_path / "anew")
    final = pa.Table.from_pylist(list(catalog.values())).to_pydict()
    run(anew, planned(anew, small_model, num_items=len(catalog), **final), with_labels=True)
    expected, found = live(anew), live(workspace)
    assert found.keys() == expected.keys()
    for item_id, item in expected.items():
        assert found[item_id]["label"] == item["label"]
        for name in ("image", "title"):
            np.testing.assert_array_equal(found[item_id][name], item[name])
    counts = [read_labels(each, read_plan(each))["count"] for each in (anew, workspace)]
    assert counts[0].to_pylist() == counts[1].to_pylist()


def test_stages_after_it_work_on_shards_that_are_not_full(workspace: LocalStorage) -> None:
    """Rows between shards are no items: in memory, from disk and in exports."""
    every = columns(NUM_ITEMS + 40)
    append(workspace, some(every, list(range(NUM_ITEMS, NUM_ITEMS + 40))))
    embed_missing(workspace)
    plan = read_plan(workspace)
    write_neighbors(workspace, plan, k=2)
    host = fit(workspace, plan, FitConfig(approach="4", **QUICK), runtime=CPU)
    streamed = fit(
        workspace,
        plan,
        FitConfig(approach="4", **QUICK, seed=1),
        runtime=replace(CPU, residency="stream"),
    )
    assert {host.metrics.num_items, streamed.metrics.num_items} == {14}
    out = workspace.root / "out"
    export_embeddings(workspace, plan, str(out))
    before = {name: Cache(workspace, plan).read(name) for name in ("image", "title")}
    shutil.rmtree(workspace.root / "cache")
    import_embeddings(workspace, plan, open_folder(plan, str(out)), HashEncoder, trust=True)
    cache = Cache(workspace, plan)
    for name, matrix in before.items():
        np.testing.assert_array_equal(cache.read(name), matrix)
        np.testing.assert_array_equal(
            cache.read_random(name, np.array([99, 112])), matrix[[99, 112]]
        )
    found = clean(workspace, plan, CleanConfig(mismatch_quantile=0.1))
    assert len(found.table) == plan.num_rows
    assert sum(found.table["keep"].to_pylist()) == 126
    chunk = chunk_path(workspace, "image", 12)
    chunk.write_bytes(bytes(100) + chunk.read_bytes()[100:])
    with pytest.raises(CacheCorruptError, match="rows 96 to 99"):
        Cache(workspace, plan).read("image")


def test_new_items_are_held_out_in_the_shares_of_the_catalog(workspace: LocalStorage) -> None:
    """So that a test split stays a fair sample; a column `split` has the last word."""
    every = columns(NUM_ITEMS + 1000)
    table = some(every, list(range(NUM_ITEMS, NUM_ITEMS + 1000)))
    table["split"] = ["val", "train"] + [None] * 998
    append(workspace, table)
    items = read_all_items(workspace, read_plan(workspace)).slice(112)
    splits = [each for each in items["split"].to_pylist() if each]
    assert splits[:2] == ["val", "train"]
    assert 70 < splits.count("test") < 130
    assert 70 < splits.count("val") < 130


def test_a_new_catalog_may_have_pictures_in_another_folder(
    workspace: LocalStorage, tmp_path: Path
) -> None:
    """Yesterday's in a Parquet file, today's beside a table of paths."""
    items, _ = write_catalog(tmp_path / "today", num_items=20, with_bytes=False)
    table = pq.read_table(items)
    ids = pa.array([f"today-{i}" for i in range(20)])
    pq.write_table(table.set_column(0, "item_id", ids), items)
    append_items(workspace, items)
    embed_missing(workspace)
    found = live(workspace)
    assert len(found) == NUM_ITEMS + 20
    assert not any(np.isnan(item["image"]).any() for item in found.values())
    assert read_plan(workspace).items.files[1].root == str(tmp_path / "today")


@pytest.mark.parametrize(
    ("change", "content", "problem"),
    [
        (delete_items, "item_id\nitem-0001\nnobody\n", "1 item ids are not in the plan: 'nobody'"),
        (delete_items, "item_id\na\na\n", "1 item ids occur more than once: 'a'"),
        (delete_items, 'item_id\n""\n', "1 rows have no item_id: row 1"),
        (delete_items, "id\na\n", "missing columns: item_id; found: id"),
        (relabel_items, "item_id,label_id\nitem-0001,L9\n", "1 label ids are not in the labels"),
        (relabel_items, "item_id,label_id\nnobody,L1\n", "1 item ids are not in the plan"),
        (relabel_items, "item_id\nitem-0001\n", "missing columns: label_id"),
    ],
)
def test_a_list_that_cannot_be_right_changes_nothing(
    workspace: LocalStorage,
    change: Callable[[LocalStorage, Path], PlanChange],
    content: str,
    problem: str,
) -> None:
    """Counted, the first named, and before anything is written."""
    path = workspace.root / "list.csv"
    path.write_text(content)
    before = {name: workspace.read(name) for name in workspace.sizes("")}
    with pytest.raises(CatalogError, match=problem) as caught:
        change(workspace, path)
    assert caught.value.where == str(path)
    assert {name: workspace.read(name) for name in workspace.sizes("")} == before
    with pytest.raises(CatalogError, match="no such file"):
        change(workspace, workspace.root / "absent.csv")
    with pytest.raises(PlanNotFoundError):
        change(LocalStorage(workspace.root / "empty"), path)


def test_new_items_need_labels_of_the_plan(workspace: LocalStorage) -> None:
    """Else they could not be trained on; the labels come first."""
    with pytest.raises(CatalogError, match="1 items have a label_id that is not in the labels"):
        append(workspace, some(columns(), [1], label_id=["L9"]))


class Dying(LocalStorage):
    """Dies before its n-th write or removal."""

    def __init__(self, root: Path, num_steps: int) -> None:
        super().__init__(root)
        self.num_left = num_steps

    def _step(self, step: str, name: str) -> None:
        if step in ("opens", "removes"):
            self.num_left -= 1
            if self.num_left < 0:
                raise KeyboardInterrupt


def test_a_change_that_is_killed_anywhere_is_whole_after_the_next_call(
    made: LocalStorage, tmp_path: Path
) -> None:
    """The old plan or the new one, never a mixture that is taken for either."""
    every = columns(NUM_ITEMS + 3)
    given = some(every, [0, 20, *range(NUM_ITEMS, NUM_ITEMS + 3)], label_id=["L3"] * 5)
    given["title"][1] = "corrected"
    items = write_items(tmp_path / "append.parquet", given)

    shutil.copytree(made.root, tmp_path / "whole")
    append_items(LocalStorage(tmp_path / "whole"), items)
    expected = tables(LocalStorage(tmp_path / "whole"))
    old = tables(made)
    num_steps = 0
    while True:
        root = tmp_path / f"killed-{num_steps}"
        shutil.copytree(made.root, root)
        try:
            append_items(Dying(root, num_steps), items)
            break
        except KeyboardInterrupt:
            workspace = LocalStorage(root)
            workspace.remove("cache/leases/plan.json")  # of a process that is dead in earnest
            if workspace.read("plan.json") == old["plan.json"]:
                with contextlib.suppress(CacheIncompleteError):  # which names the command below
                    read_all_items(workspace, read_plan(workspace))
            append_items(workspace, items)
            assert tables(workspace) == expected
            shutil.rmtree(root)
        num_steps += 1
    assert num_steps > 10


def test_a_catalog_rewritten_in_place_stays_whole(workspace: LocalStorage) -> None:
    """The usual way of a nightly export: the same name, all items, twice before it is embedded."""
    plan = read_plan(workspace)
    mine = shutil.copy(plan.items.files[0].path, workspace.root / "items.parquet")
    file = replace(plan.items.files[0], path=str(mine))
    workspace.write("plan.json", to_json(replace(plan, items=ItemsSource(files=(file,)))).encode())
    for num_items in (NUM_ITEMS + 10, NUM_ITEMS + 20):
        write_items(workspace.root / "items.parquet", columns(num_items))
        change = append_items(workspace, workspace.root / "items.parquet")
        assert change.counts["items as they were"] == NUM_ITEMS
    assert not append_items(workspace, workspace.root / "items.parquet").is_changed
    encoder = embed_missing(workspace)
    assert encoder.num_images == 20  # and not the ten that were retired before they were embedded
    found = live(workspace)
    assert set(found) == set(columns(NUM_ITEMS + 20)["item_id"])
    assert not any(np.isnan(item["image"]).any() for item in found.values())
    # A damaged chunk of an old shard is mended from the new file.
    chunk = chunk_path(workspace, "title", 0)
    whole = chunk.read_bytes()
    chunk.write_bytes(bytes(len(whole)))
    embed_missing(workspace)
    assert chunk.read_bytes() == whole


def test_retired_items_need_no_source(workspace: LocalStorage) -> None:
    """A shard of nothing else is done without reading; its rows say why they are empty."""
    every = columns(NUM_ITEMS + 5)
    change = append(workspace, some(every, list(range(NUM_ITEMS, NUM_ITEMS + 5))))
    ids = "\n".join(every["item_id"][NUM_ITEMS:])
    (workspace.root / "gone.txt").write_text(ids)
    delete_items(workspace, workspace.root / "gone.txt")
    Path(change.plan.items.files[1].path).unlink()
    encoder = HashEncoder()
    run(workspace, read_plan(workspace), encoder)  # and no row of them counts as bad
    assert encoder.num_images == 0
    rows = Cache(workspace, read_plan(workspace)).read_rows().slice(112)
    assert rows["error"].to_pylist() == ["image: retired; title: retired"] * 5
    assert set(live(workspace)) == set(columns()["item_id"])


def test_imported_items_are_not_thrown_away_unseen(workspace: LocalStorage) -> None:
    """Without their source nobody knows whether they changed: that is said, not assumed."""
    out, plan = str(workspace.root / "out"), read_plan(workspace)
    export_embeddings(workspace, plan, out)
    shutil.rmtree(workspace.root / "cache")
    file = replace(plan.items.files[0], path=str(workspace.root / "gone.parquet"))
    workspace.write("plan.json", to_json(replace(plan, items=ItemsSource(files=(file,)))).encode())
    source = open_folder(read_plan(workspace), out)
    import_embeddings(workspace, read_plan(workspace), source, HashEncoder, trust=True)
    with pytest.raises(CatalogError, match="was imported") as caught:
        append(workspace, columns(NUM_ITEMS + 1))
    assert "other names" in caught.value.fix


def test_two_changes_at_once_are_one_after_the_other(workspace: LocalStorage) -> None:
    """The second would write over what the first has not put in place yet."""
    (workspace.root / "gone.txt").write_text("item-0001\n")
    with changing_plan(workspace), pytest.raises(LeaseError, match="the plan is being written"):
        delete_items(workspace, workspace.root / "gone.txt")
    assert delete_items(workspace, workspace.root / "gone.txt").is_changed


def test_embedding_goes_on_while_items_are_relabeled(workspace: LocalStorage) -> None:
    """Jobs on GPU nodes take days, and labels are in no embedding."""
    every = columns(NUM_ITEMS + 40)
    append(workspace, some(every, list(range(NUM_ITEMS, NUM_ITEMS + 40))))
    table = pa.table({"item_id": every["item_id"][NUM_ITEMS:], "label_id": ["L3"] * 40})
    pq.write_table(table, workspace.root / "relabel.parquet")

    class Relabeling(HashEncoder):
        def encode_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:
            if not self.num_texts:
                relabel_items(workspace, workspace.root / "relabel.parquet")
            return super().encode_texts(texts, batch_size)

    run(workspace, read_plan(workspace), Relabeling())
    assert len(live(workspace)) == NUM_ITEMS + 40
    plan = read_plan(workspace)
    another = replace(plan, shards=("0" * 64,) * plan.num_shards)
    with pytest.raises(PlanMismatchError, match="planned anew"):
        run(workspace, another)


def test_a_split_that_was_emptied_fills_again(
    workspace: LocalStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """Else fit would refuse the plan for ever."""
    items = live(workspace)
    gone = [item_id for item_id, item in items.items() if item["split"] == "test"]
    (workspace.root / "gone.txt").write_text("\n".join(gone))
    delete_items(workspace, workspace.root / "gone.txt")
    assert "no test items are left" in caplog.text
    every = columns(NUM_ITEMS + 300)
    append(workspace, some(every, list(range(NUM_ITEMS, NUM_ITEMS + 300))))
    splits = read_all_items(workspace, read_plan(workspace))["split"].to_pylist()
    assert splits.count("test") > 10


def test_a_given_split_moves_an_item(workspace: LocalStorage) -> None:
    """The column has the last word for items that are there already, too."""
    append(workspace, some(columns(), [0, 1, 2], split=["val", None, "test"]))
    found = live(workspace)
    assert (found["item-0000"]["split"], found["item-0002"]["split"]) == ("val", "test")
    change = append(workspace, some(columns(), [0, 2], split=["train", "test"]))
    assert change.counts["items in another split"] == 1
    assert not append(workspace, some(columns(), [0, 2], split=["train", "test"])).is_changed


def test_a_plan_that_grew_is_not_a_broken_cache(workspace: LocalStorage) -> None:
    """Between a change and its embedding readers may go on with what is there."""
    append(workspace, some(columns(NUM_ITEMS + 5), list(range(NUM_ITEMS, NUM_ITEMS + 5))))
    plan = read_plan(workspace)
    verify(workspace, plan, range(7)).check()
    assert len(Cache(workspace, plan, allow_partial=True).read("image")) == 117


def test_a_shard_of_retired_items_is_exported_empty(workspace: LocalStorage) -> None:
    """An .npy without rows beside metadata without rows."""
    (workspace.root / "gone.txt").write_text("\n".join(columns()["item_id"][16:32]))
    delete_items(workspace, workspace.root / "gone.txt")
    export_embeddings(workspace, read_plan(workspace), str(workspace.root / "out"))
    assert np.load(workspace.root / "out" / "img_emb" / "img_emb_00001.npy").shape == (0, 16)


def test_places_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    """New shards hold rows from here and there; each must get its own picture."""
    table = columns(600)
    source = find_items(write_items(tmp_path / "items.parquet", table), None)
    rows = np.array([5, 6, 9, 300, 299, 599, 0])
    found = list(read_places(source, np.zeros(7, int), rows))
    assert [item.title for item in found] == [table["title"][row] for row in rows]
    assert [item.image for item in found] == [table["image"][row] for row in rows]
    assert list(read_places(source, np.zeros(0, int), np.zeros(0, int))) == []


# Labels


def write_labels_file(workspace: LocalStorage, labels: list[tuple[str, str]]) -> Path:
    ids, names = zip(*labels, strict=True)
    table = {"label_id": ids, "name": names, "path": [f"Things > {name}" for name in names]}
    pa.csv.write_csv(pa.table(table), workspace.root / "new-labels.csv")
    return workspace.root / "new-labels.csv"


def test_another_taxonomy_keeps_items_and_embeds_only_new_texts(workspace: LocalStorage) -> None:
    """Add, rename, split and remove: the shelves change, the products stay."""
    before, embedded = committed(workspace), live(workspace)
    path = write_labels_file(
        workspace,
        [("new", "New"), ("L3", "Thing 3"), ("L0", "Thing 0, renamed"), ("L1a", "A"), ("L1b", "B")],
    )
    change = update_labels(workspace, path)
    assert list(change.counts.values()) == [3, 1, 0, 2, 1, 2, 50]
    assert "unlabeled.csv" in change.note
    assert committed(workspace) == before
    plan = read_plan(workspace)
    with pytest.raises(NeighborsError):
        FitData(workspace, plan, torch.device("cpu"))
    encoder = embed_missing(workspace)
    assert (encoder.num_images, encoder.num_texts) == (0, 4)
    found = live(workspace)
    assert {item["label"] for item in found.values()} == {1, 2}
    for item_id, item in found.items():
        old = embedded[item_id]
        assert item["label"] == {3: 1, 0: 2}[old["label"]]
        assert item["split"] == old["split"]
    assert read_labels(workspace, plan)["count"].to_pylist() == [0, 25, 25, 0, 0]
    write_neighbors(workspace, plan, k=2)
    assert fit(workspace, plan, FitConfig(approach="4", **QUICK), runtime=CPU).metrics.top1 >= 0
    rows = pa.csv.read_csv(workspace.path(UNLABELED)).to_pylist()
    assert {(row["old_label_id"], row["old_name"]) for row in rows} == {
        ("L1", "Thing 1"),
        ("L2", "Thing 2"),
    }
    assert [row["item_id"] for row in rows] == [
        item_id for item_id, item in embedded.items() if item["label"] in (1, 2)
    ]


def test_the_list_of_unlabeled_items_is_filled_in_and_given_back(workspace: LocalStorage) -> None:
    """In several goes: what was filled in and what items were once is not lost."""
    labels = [("L0", "Thing 0"), ("L3", "Thing 3"), ("L1a", "A")]
    update_labels(workspace, write_labels_file(workspace, labels))
    rows = pa.csv.read_csv(workspace.path(UNLABELED)).to_pylist()
    for row in rows:
        row["label_id"] = "L1a" if row["old_label_id"] == "L1" else ""
    pa.csv.write_csv(pa.Table.from_pylist(rows), workspace.path(UNLABELED))
    assert relabel_items(workspace, workspace.path(UNLABELED)).counts == {
        "items with another label": 25,
        "items as they were": 0,
        "rows without a label_id": 25,
    }
    (workspace.root / "gone.txt").write_text("item-0002\n")
    delete_items(workspace, workspace.root / "gone.txt")
    change = update_labels(workspace, write_labels_file(workspace, labels[1:]))
    assert change.counts["items that need a new label"] == 25 + 24
    rows = pa.csv.read_csv(workspace.path(UNLABELED)).to_pylist()
    assert [row["old_label_id"] for row in rows].count("L2") == 24
    assert [row["old_label_id"] for row in rows].count("L0") == 25
    filled = [(row["item_id"], "L3") for row in rows]
    table = pa.table(dict(zip(("item_id", "label_id"), zip(*filled, strict=True), strict=True)))
    pq.write_table(table, workspace.root / "all.parquet")
    relabel_items(workspace, workspace.root / "all.parquet")
    assert not update_labels(workspace, workspace.root / "new-labels.csv").is_changed
    assert len(live(workspace)) == NUM_ITEMS - 1
    assert read_labels(workspace, read_plan(workspace))["count"].to_pylist() == [74, 25]


def test_a_killed_change_of_labels_never_loses_what_items_were(
    made: LocalStorage, tmp_path: Path
) -> None:
    """After the change nobody could tell which items had the label that went."""
    path = write_labels_file(LocalStorage(tmp_path), [("L0", "Thing 0"), ("L3", "Thing 3")])
    num_steps = 0
    while True:
        root = tmp_path / f"killed-{num_steps}"
        shutil.copytree(made.root, root)
        workspace = LocalStorage(root)
        try:
            update_labels(Dying(root, num_steps), path)
            break
        except KeyboardInterrupt:
            workspace.remove("cache/leases/plan.json")  # of a process that is dead in earnest
            update_labels(workspace, path)
            rows = pa.csv.read_csv(workspace.path(UNLABELED)).to_pylist()
            assert [row["old_label_id"] for row in rows] == ["L1", "L2"] * 25
            shutil.rmtree(root)
        num_steps += 1
    assert num_steps > 10


def test_an_old_answer_is_not_given_again(workspace: LocalStorage) -> None:
    """An item that got a label and loses it again starts with an empty cell."""
    every = [(f"L{i}", f"Thing {i}") for i in range(4)]
    update_labels(workspace, write_labels_file(workspace, every[1:]))
    rows = pa.csv.read_csv(workspace.path(UNLABELED)).to_pylist()
    filled = [row | {"label_id": "L1"} for row in rows]
    pa.csv.write_csv(pa.Table.from_pylist(filled), workspace.path(UNLABELED))
    relabel_items(workspace, workspace.path(UNLABELED))
    update_labels(workspace, write_labels_file(workspace, every[2:]))
    rows = pa.csv.read_csv(workspace.path(UNLABELED)).to_pylist()
    assert {row["label_id"] for row in rows} <= {None, ""}
    assert {row["old_label_id"] for row in rows} == {"L1"}
    assert len(rows) == 50


def test_labels_that_only_grow_leave_every_items_table_alone(workspace: LocalStorage) -> None:
    """Numbers stay, so there is nothing to write at 12M items."""
    before = [items_path(workspace, shard).stat().st_mtime_ns for shard in range(7)]
    labels = [(f"L{i}", f"Thing {i}") for i in range(6)]
    assert list(update_labels(workspace, write_labels_file(workspace, labels)).counts.values()) == [
        2, 0, 0, 0, 4, 0, 0,
    ]  # fmt: skip
    assert [items_path(workspace, shard).stat().st_mtime_ns for shard in range(7)] == before
    assert embed_missing(workspace).num_texts == 2
    assert not workspace.path(UNLABELED).exists()


def test_labels_that_cannot_be_used_change_nothing(workspace: LocalStorage) -> None:
    """The same rules as for a first plan."""
    before = workspace.read("plan.json")
    path = write_labels_file(workspace, [("a", "Same"), ("b", "Same")])
    with pytest.raises(CatalogError, match="occur more than once"):
        update_labels(workspace, path)
    assert workspace.read("plan.json") == before
    assert update_labels(workspace, path, allow_duplicate_names=True).is_changed


def test_exported_items_without_a_label_say_so(workspace: LocalStorage) -> None:
    """Not the last label of the list, which -1 would be."""
    labels = [("L0", "Thing 0"), ("L3", "Thing 3")]
    update_labels(workspace, write_labels_file(workspace, labels))
    embed_missing(workspace)
    export_embeddings(workspace, read_plan(workspace), str(workspace.root / "out"))
    rows = pq.read_table(workspace.root / "out" / "metadata" / "metadata_00000.parquet")
    assert rows["label_id"].to_pylist() == ["L0", None, None, "L3"] * 4


def test_the_command_line_makes_one_change_at_a_time(workspace: LocalStorage) -> None:
    """An option that would be ignored is refused, and the next command is named."""
    place = ["--workspace", workspace.location]

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.main, ["plan", *arguments, *place])
        return done.exit_code, done.output

    (workspace.root / "gone.txt").write_text("item-0001\n")
    gone = str(workspace.root / "gone.txt")
    items = str(write_items(workspace.root / "new.parquet", some(columns(105), [101, 102])))
    labels = str(write_labels_file(workspace, [("L0", "Thing 0"), ("L1", "Other")]))
    assert call("--delete", gone, "--append", items)[0] == 2
    code, output = call("--delete", gone, "--seed", "1")
    assert code == 2
    assert "leave out --seed" in output
    assert "give --items and --labels, or a change" in call("--items", items)[1]
    assert "next: python cli.py status" in call("--delete", gone)[1]
    assert "next: python cli.py embed --shards 7-7" in call("--append", items)[1]
    assert "next: python cli.py embed --labels" in call("--update-labels", labels)[1]
    assert call("--relabel", gone)[0] == 1


def test_a_plan_of_another_version_is_replaced_by_force(
    workspace: LocalStorage, small_model: Path
) -> None:
    """The error names --force, so --force has to work."""
    text = workspace.read("plan.json").decode().replace('"shard_items"', '"num_items"')
    workspace.write("plan.json", text.encode())
    with pytest.raises(ConfigError, match="num_items") as caught:
        read_plan(workspace)
    assert "--force" in caught.value.fix
    items, labels = write_catalog(workspace.root / "catalog", num_items=20)
    plan = functools.partial(
        make_plan, workspace, items=items, labels=labels, pretrained="", device="cpu"
    )
    model = f"local-dir:{small_model}"
    with pytest.raises(ConfigError):
        plan(model=model)
    assert plan(model=model, force=True).is_new
    assert read_plan(workspace).num_items == 20
