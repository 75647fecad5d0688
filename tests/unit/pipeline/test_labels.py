"""Labels: reading, texts, finding."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.labels import find_label, label_prompts, label_texts, labels_sha256, read_labels
from schemas.errors import CatalogError, LabelNotFoundError

GOOD = "label_id,name,path\n1,Cowboy Boots,Shoes > Boots > Cowboy Boots\n02,Rain Boots,\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def labels(*names: str) -> pa.Table:
    paths = [f"Shoes > {name}" for name in names]
    ids = [str(i) for i in range(len(names))]
    return pa.table({"label_id": ids, "name": list(names), "path": paths})


def test_csv_and_parquet_give_the_same_labels(tmp_path: Path) -> None:
    """Ids of digits stay text: 02 is not 2."""
    found = read_labels(write(tmp_path, GOOD.replace("Boots,\n", "Boots,Shoes > Rain Boots\n")))
    assert found["label_id"].to_pylist() == ["1", "02"]
    pq.write_table(found, tmp_path / "labels.parquet")
    assert read_labels(tmp_path / "labels.parquet") == found


def test_labels_are_read_from_a_store() -> None:
    """They stand beside the items, wherever these are."""
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/shelf/labels.csv", b'label_id,name\n1,"Boots\nand shoes"\n2,Hats\n')
    found = read_labels("memory://shelf/labels.csv")
    assert found["name"].to_pylist() == ["Boots\nand shoes", "Hats"]
    with pytest.raises(CatalogError, match="no such labels file") as caught:
        read_labels("memory://shelf/typo.csv")
    assert caught.value.where == "memory://shelf/typo.csv"


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_a_labels_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path, name: str) -> None:
    """Not a stack trace from Arrow."""
    (tmp_path / name).write_bytes(b"label_id,name\n1,caf\xe9\n2,b\n")
    with pytest.raises(CatalogError, match="cannot be read") as caught:
        read_labels(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_labels_without_paths_are_fine(tmp_path: Path) -> None:
    """Not every shop has a tree."""
    found = read_labels(write(tmp_path, "label_id,name\n1,A\n2,B\n"))
    assert found["path"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name\nA\nB\n", "missing columns: label_id"),
        ("label_id,name\n1,A\n1,B\n2,C\n", "1 duplicate label ids: 1"),
        ("label_id,name\n1,A\n,B\n", "1 labels without an id or name: row 1"),
        ("label_id,name\n1,A\n2,\n", "1 labels without an id or name: row 1"),
        ("label_id,name,path\n1,A,X > A\n2,B,X > C\n", "1 paths that do not end"),
        ("label_id,name\n1,A\n", "expected at least 2"),
    ],
)
def test_wrong_labels_are_named(tmp_path: Path, text: str, problem: str) -> None:
    """One error before work starts, with count and the first of them."""
    with pytest.raises(CatalogError, match=problem):
        read_labels(write(tmp_path, text))


def test_a_missing_labels_file_is_one_clear_error(tmp_path: Path) -> None:
    """Also a mistyped one."""
    with pytest.raises(CatalogError, match="no such labels file"):
        read_labels(tmp_path / "nothing.csv")


def test_label_texts_follow_the_choice() -> None:
    """Name, path, or a prompt as CLIP was trained on."""
    table = labels("Boots", "Hats")
    assert label_texts(table, "name") == ["Boots", "Hats"]
    assert label_texts(table, "path") == ["Shoes > Boots", "Shoes > Hats"]
    assert label_texts(table, "a photo of a {name}") == ["a photo of a Boots", "a photo of a Hats"]


def test_several_templates_give_each_label_several_texts() -> None:
    """Prompts are separated as alternatives are in a pattern; the words name and path count too."""
    table = labels("Boots", "Hats")
    assert label_prompts(table, "a {name}") == [("a Boots",), ("a Hats",)]
    assert label_prompts(table, "name | a photo of a {name} | path") == [
        ("Boots", "a photo of a Boots", "Shoes > Boots"),
        ("Hats", "a photo of a Hats", "Shoes > Hats"),
    ]
    assert label_prompts(table, "{name}|{path}") == [
        ("Boots|Shoes > Boots",),
        ("Hats|Shoes > Hats",),
    ]


@pytest.mark.parametrize("label_text", ["a {name} | a photo", "{name} | ", " | name"])
def test_one_template_without_a_label_is_enough_to_refuse_them(label_text: str) -> None:
    """It would pull the embeddings of all labels towards one direction."""
    with pytest.raises(CatalogError, match="not a template") as caught:
        label_prompts(labels("Boots", "Hats"), label_text)
    assert caught.value.where == "--label-text"


def test_a_blank_path_is_no_path(tmp_path: Path) -> None:
    """CSV writes null so."""
    assert read_labels(write(tmp_path, GOOD))["path"].to_pylist()[1] is None


@pytest.mark.parametrize(
    "template",
    [
        "a photo",
        "a {thing}",
        "a {name",
        "{0}",
        "{} {name}",
        "{name:d}",
        "{name:{path}}",
        "{name!r}",
    ],
)
def test_a_template_without_a_label_is_refused(template: str) -> None:
    """It would give every label the same embedding."""
    with pytest.raises(CatalogError) as caught:
        label_texts(labels("Boots", "Hats"), template)
    assert caught.value.where == "--label-text"


def test_a_label_is_found_by_name_path_or_id() -> None:
    """As a person would type it."""
    table = labels("Boots", "Hats")
    assert [find_label(table, text) for text in ("hats", "Shoes > Hats", "1")] == [1, 1, 1]


def test_an_unknown_label_suggests_the_nearest() -> None:
    """A typo costs one look, not a search through 4,350 names."""
    with pytest.raises(LabelNotFoundError) as caught:
        find_label(labels("Boots", "Hats", "Gloves"), "Glove")
    assert "one of: Gloves" in caught.value.fix
    with pytest.raises(LabelNotFoundError, match="2 labels are called"):
        find_label(labels("Boots", "Boots"), "boots")


def test_the_hash_follows_ids_names_and_paths() -> None:
    """Label embeddings go stale by it."""
    assert labels_sha256(labels("A", "B")) == labels_sha256(labels("A", "B"))
    assert labels_sha256(labels("A", "B")) != labels_sha256(labels("B", "A"))
