"""The catalog on disk: same seed same bytes, readable pictures, a stamp written last."""

import csv
import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.demo import catalog
from pipeline.demo.catalog import ITEMS_SCHEMA, leaves, write_catalog
from schemas.errors import PipelineError

NUM_ITEMS = 320


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one small catalog for the module."""
    path = tmp_path_factory.mktemp("catalog")
    write_catalog(path, num_items=NUM_ITEMS, seed=0, workers=1)
    return path


def digest(folder: Path) -> dict[str, str]:
    """Give every file's SHA-256 by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_gives_same_bytes_with_any_number_of_workers(
    folder: Path, tmp_path: Path
) -> None:
    """A demo whose figures change from run to run proves nothing."""
    write_catalog(tmp_path, num_items=NUM_ITEMS, seed=0, workers=2)
    assert digest(tmp_path) == digest(folder)


def test_another_seed_gives_other_pictures_and_titles(folder: Path, tmp_path: Path) -> None:
    """Training data of the encoder and the demo differ by their seed alone."""
    write_catalog(tmp_path, num_items=NUM_ITEMS, seed=1, workers=1)
    ours, theirs = digest(folder), digest(tmp_path)
    assert ours["labels.csv"] == theirs["labels.csv"]
    assert ours["items.parquet"] != theirs["items.parquet"]
    pictures = [path for path in ours if path.endswith(".jpg")]
    assert not any(ours[path] == theirs[path] for path in pictures)


def test_pictures_are_jpegs_of_at_least_128_pixels(folder: Path) -> None:
    """Smaller ones would be blurred by the usual 224 px encoders."""
    sizes = set()
    for row in pq.read_table(folder / "items.parquet").to_pylist():
        with Image.open(folder / row["image_path"]) as image:
            image.load()
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            assert min(image.size) >= 128
            sizes.add(image.size)
    assert len(sizes) > 20


def test_items_and_labels_fit_together(folder: Path) -> None:
    """Every item's label stands in labels.csv, and the path ends with the name."""
    items = pq.read_table(folder / "items.parquet")
    assert items.schema.equals(ITEMS_SCHEMA)
    assert len(set(items["item_id"].to_pylist())) == items.num_rows == NUM_ITEMS
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        labels = list(csv.DictReader(file))
    assert len(labels) == len(leaves())
    assert {row["label_id"] for row in labels} == set(items["label_id"].to_pylist())
    assert all(row["path"].split(" > ")[-1] == row["name"] for row in labels)


def test_a_finished_catalog_is_reused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run of the demo should take seconds."""
    monkeypatch.setattr(catalog, "_run_chunks", lambda *_, **__: pytest.fail("drew again"))
    write_catalog(folder, num_items=NUM_ITEMS, seed=0, workers=1)


def test_progress_counts_every_item_and_the_stamp_comes_last(tmp_path: Path) -> None:
    """A killed run must not look finished."""
    done: list[int] = []

    def note(num_items: int) -> None:
        assert not (tmp_path / "catalog.json").exists()
        done.append(num_items)

    (tmp_path / "catalog.json").write_text('{"num_items": 9}', encoding="utf-8")
    write_catalog(tmp_path, num_items=260, seed=2, workers=1, progress=note)
    assert sum(done) == 260
    stamp = json.loads((tmp_path / "catalog.json").read_text(encoding="utf-8"))
    assert stamp["seed"] == 2
    assert stamp["num_items"] == 260


def test_too_few_items_for_the_categories_is_one_clear_error(tmp_path: Path) -> None:
    """Otherwise some labels would silently have no item."""
    with pytest.raises(PipelineError) as caught:
        write_catalog(tmp_path, num_items=10)
    assert "num_items" in caught.value.where
    assert str(len(leaves())) in caught.value.fix
    assert not (tmp_path / "catalog.json").exists()
