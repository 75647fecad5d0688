"""Reading catalogs: every way a user may write one, and every way it may be wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.items import RawItem, check_unchanged, find_items, read_rows, scan
from schemas.errors import CatalogError, SourceChangedError
from schemas.plan import ItemsSource
from tests.fakes import picture_bytes, write_catalog


def everything(source: ItemsSource, start: int = 0, stop: int = 10**9) -> list[RawItem]:
    return [
        item
        for number, file in enumerate(source.files)
        for batch in read_rows(source, number, start, min(stop, file.num_rows))
        for item in batch
    ]


def scanned(source: ItemsSource, column: str) -> list[object]:
    return [value for _, batch in scan(source) for value in batch[column].to_pylist()]


def write_csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "items.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_parquet_with_bytes_gives_titles_and_pictures(tmp_path: Path) -> None:
    """The form that GPU nodes read fastest."""
    items, _ = write_catalog(tmp_path, num_items=40)
    source = find_items(items, None)
    assert source.has_image_bytes
    assert scanned(source, "item_id") == [f"item-{i:04d}" for i in range(40)]
    found = everything(source)
    assert [item.title for item in found] == [f"Acme thing {i % 4} no. {i}" for i in range(40)]
    assert found[3].image == picture_bytes((21, 120, 90))


def test_parquet_with_paths_gives_files_below_the_root(tmp_path: Path) -> None:
    """Relative paths start from the items' folder unless told otherwise."""
    items, _ = write_catalog(tmp_path, num_items=4, with_bytes=False)
    assert everything(find_items(items, None))[2].image == tmp_path.resolve() / "0002.png"
    other = tmp_path / "other"
    other.mkdir()
    assert everything(find_items(items, other))[2].image == other.resolve() / "0002.png"


def test_a_range_of_rows_is_what_the_whole_has_there(tmp_path: Path) -> None:
    """A shard reads only its rows; row groups of 16 must not show at its borders."""
    items, _ = write_catalog(tmp_path, num_items=70)
    source = find_items(items, None)
    whole = everything(source)
    for start, stop in ((0, 70), (0, 1), (15, 17), (16, 32), (33, 70), (69, 70), (20, 64)):
        assert everything(source, start, stop) == whole[start:stop]


def test_a_folder_of_parquet_files_is_read_in_name_order(tmp_path: Path) -> None:
    """Row order is frozen by the plan, so it must not depend on the file system."""
    for name in ("b", "a"):
        write_catalog(tmp_path / name, num_items=3, item_id=[f"{name}{i}" for i in range(3)])
        (tmp_path / name / "items.parquet").rename(tmp_path / f"{name}.parquet")
    source = find_items(tmp_path, None)
    assert scanned(source, "item_id") == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_csv_reads_commas_line_breaks_and_numbers_as_text(tmp_path: Path) -> None:
    """Titles hold everything, and label ids of digits stay what they are."""
    path = write_csv(
        tmp_path,
        'item_id,title,label_id,image_path\n1,"Boots, ""red""\nsize 9",007,a.jpg\n2,,8,b.jpg\n',
    )
    source = find_items(path, None)
    assert scanned(source, "label_id") == ["007", "8"]
    assert [item.title for item in everything(source)] == ['Boots, "red"\nsize 9', ""]


def test_a_title_that_is_not_utf8_is_a_reason_not_a_crash(tmp_path: Path) -> None:
    """One bad byte in 12M titles must not stop the plan, nor change the title silently."""
    path = write_csv(
        tmp_path, b"item_id,title,label_id,image_path\n1,caf\xe9,L,a.jpg\n2,ok,L,b.jpg\n"
    )
    found = everything(find_items(path, None))
    assert (found[0].title, found[0].title_error) == (None, "not UTF-8 at byte 3")
    assert found[1].title == "ok"


def test_nulls_and_empty_pictures_have_reasons(tmp_path: Path) -> None:
    """An item keeps its row, whatever it lacks."""
    items, _ = write_catalog(
        tmp_path, num_items=3, title=[None, "", "x"], image=[b"", None, picture_bytes()]
    )
    found = everything(find_items(items, None))
    assert [item.title_error for item in found] == ["null", None, None]
    assert [item.image_error for item in found] == ["empty", "null", None]
    assert found[1].title == ""


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "a/../../secret.png"])
def test_a_path_that_leaves_the_root_is_not_read(tmp_path: Path, name: str) -> None:
    """A catalog comes from many hands; it must not read what lies beside it."""
    root = tmp_path / "root"
    items, _ = write_catalog(root, num_items=1, with_bytes=False, image_path=[name])
    item = everything(find_items(items, None))[0]
    assert item.image is None
    assert item.image_error == "path leaves the image root"


def test_a_link_that_leaves_the_root_is_not_followed(tmp_path: Path) -> None:
    """The same, one step hidden."""
    root = tmp_path / "root"
    items, _ = write_catalog(root, num_items=1, with_bytes=False, image_path=["link.png"])
    (tmp_path / "secret.png").write_bytes(picture_bytes())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    assert everything(find_items(items, None))[0].image_error == "path leaves the image root"


def test_image_urls_are_refused_before_work_starts(tmp_path: Path) -> None:
    """Downloading inside a GPU job would be slow and never twice the same."""
    items, _ = write_catalog(
        tmp_path, num_items=2, with_bytes=False, image_path=["a.jpg", "HTTPS://shop/b.jpg"]
    )
    with pytest.raises(CatalogError, match="1 image paths are URLs") as caught:
        list(scan(find_items(items, None)))
    assert "img2dataset" in caught.value.fix


def test_missing_columns_are_listed_with_the_found_ones(tmp_path: Path) -> None:
    """The commonest first mistake."""
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"id": ["1"], "title": ["x"]}), path)
    with pytest.raises(CatalogError, match=r"item_id, label_id, image_path.*found: id, title"):
        find_items(path, None)


@pytest.mark.parametrize("name", ["items.parquet", "items.csv", "items.xlsx", "missing.parquet"])
def test_a_file_that_is_no_catalog_is_one_clear_error(tmp_path: Path, name: str) -> None:
    """Not a stack trace from Arrow."""
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_bytes(b"\x00\x01 this is not a table")
    with pytest.raises(CatalogError) as caught:
        find_items(path, None)
    assert caught.value.where == str(path)


def test_bytes_in_a_csv_are_refused(tmp_path: Path) -> None:
    """CSV has no bytes; what stands there is a path under the wrong name."""
    path = write_csv(tmp_path, "item_id,title,label_id,image\n1,x,L,a.jpg\n")
    with pytest.raises(CatalogError, match="which a CSV cannot"):
        find_items(path, None)


@pytest.mark.parametrize("with_bytes", [True, False])
def test_a_changed_catalog_is_noticed(tmp_path: Path, with_bytes: bool) -> None:
    """Rows of the new file would get embeddings under the old ids."""
    items, _ = write_catalog(tmp_path, num_items=20, with_bytes=with_bytes)
    source = find_items(items, None)
    check_unchanged(source)
    write_catalog(
        tmp_path, num_items=20, with_bytes=with_bytes, title=[f"Other {i}" for i in range(20)]
    )
    with pytest.raises(SourceChangedError) as caught:
        check_unchanged(source)
    assert caught.value.where == str(items.resolve())
    items.unlink()
    with pytest.raises(SourceChangedError, match="gone"):
        check_unchanged(source)


def test_a_csv_changed_in_place_is_noticed(tmp_path: Path) -> None:
    """Same size, other content: only the hash tells."""
    path = write_csv(tmp_path, "item_id,title,label_id,image_path\n1,x,L,a.jpg\n")
    source = find_items(path, None)
    write_csv(tmp_path, "item_id,title,label_id,image_path\n1,y,L,a.jpg\n")
    with pytest.raises(SourceChangedError, match="content"):
        check_unchanged(source)


def test_a_missing_image_root_is_refused(tmp_path: Path) -> None:
    """Otherwise every picture is missing, and GPU hours go by before anyone looks."""
    items, _ = write_catalog(tmp_path, num_items=2, with_bytes=False)
    with pytest.raises(CatalogError, match="no such folder") as caught:
        find_items(items, tmp_path / "typo")
    assert "--items-root" in caught.value.fix


@pytest.mark.parametrize(
    ("column", "values"),
    [("image", [{"bytes": b"x", "path": "a"}] * 2), ("title", [1, 2]), ("image", ["a", "b"])],
)
def test_columns_of_the_wrong_type_are_refused_at_plan_time(
    tmp_path: Path, column: str, values: list[object]
) -> None:
    """Not on the GPU node, as a stack trace."""
    items, _ = write_catalog(tmp_path, num_items=2, **{column: values})
    with pytest.raises(CatalogError, match=f"column {column} has the type"):
        find_items(items, None)


def test_a_damaged_page_is_one_clear_error(tmp_path: Path) -> None:
    """Arrow reports a bad page as OSError, a bad header as ArrowException."""
    items, _ = write_catalog(tmp_path, num_items=40)
    data = bytearray(items.read_bytes())
    data[100:400] = bytes(300)
    items.write_bytes(bytes(data))
    source = find_items(items, None)
    with pytest.raises(CatalogError, match="cannot be read"):
        list(scan(source))


def test_a_blank_split_cell_is_no_split(tmp_path: Path) -> None:
    """CSV writes null so."""
    path = write_csv(
        tmp_path, "item_id,title,label_id,image_path,split\n1,x,L,a.jpg,\n2,y,L,b.jpg,test\n"
    )
    assert scanned(find_items(path, None), "split") == [None, "test"]
