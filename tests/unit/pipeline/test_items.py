"""Reading catalogs: every way a user may write one, and every way it may be wrong."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import items as items_module
from pipeline import tables
from pipeline.items import PictureFile, RawItem, check_unchanged, find_items, read_rows, scan
from schemas.errors import CatalogError, SourceChangedError
from schemas.plan import ItemsSource, SourceFile
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


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """Give an empty store at memory://shop; anything that fsspec knows behaves like it."""
    fs = fsspec.filesystem("memory")
    fs.mkdir("/shop")
    yield fs
    fs.rm("/shop", recursive=True)


def put(fs: fsspec.AbstractFileSystem, folder: Path, name: str = "shop") -> None:
    """Copy the files of a folder into the store."""
    for file in folder.iterdir():
        fs.pipe_file(f"/{name}/{file.name}", file.read_bytes())


def with_path(folder: Path, name: str) -> RawItem:
    """Return the one item of a catalog whose picture has this path."""
    items, _ = write_catalog(folder, num_items=1, with_bytes=False, image_path=[name])
    return everything(find_items(items, None))[0]


def write_csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "items.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_parquet_with_bytes_gives_titles_and_pictures(tmp_path: Path) -> None:
    """The form that GPU nodes read fastest."""
    items, _ = write_catalog(tmp_path, num_items=40)
    source = find_items(items, None)
    assert source.files[0].has_image_bytes
    assert scanned(source, "item_id") == [f"item-{i:04d}" for i in range(40)]
    found = everything(source)
    assert [item.title for item in found] == [f"Acme thing {i % 4} no. {i}" for i in range(40)]
    assert found[3].image == picture_bytes((21, 120, 90))


def test_parquet_with_paths_gives_files_below_the_root(tmp_path: Path) -> None:
    """Relative paths start from the items' folder unless told otherwise."""
    items, _ = write_catalog(tmp_path, num_items=4, with_bytes=False)
    found = everything(find_items(items, None))[2].image
    assert found == PictureFile(str(tmp_path.resolve()), "0002.png")
    assert found.read() == picture_bytes((14, 80, 90))
    other = tmp_path / "other"
    other.mkdir()
    found = everything(find_items(items, other))[2].image
    assert found == PictureFile(str(other.resolve()), "0002.png")
    with pytest.raises(FileNotFoundError):
        found.read()


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
    [
        ("image", [{"data": b"x", "path": "a"}] * 2),
        ("image", [{"bytes": "x", "path": "a"}] * 2),
        ("title", [1, 2]),
        ("image", ["a", "b"]),
        ("image_path", [1, 2]),
    ],
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


def test_csv_with_a_mark_of_byte_order_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    """As Excel saves it: the first column must not get an invisible letter in its name."""
    path = write_csv(
        tmp_path,
        b"\xef\xbb\xbfitem_id,title,label_id,image_path,price\r\n\r\n1,x,L,a.jpg,5\r\n\r\n"
        b'2,"y\r\nz",L,b.jpg,6\r\n\r\n',
    )
    source = find_items(path, None)
    assert source.files[0].num_rows == 2
    assert scanned(source, "item_id") == ["1", "2"]
    assert [item.title for item in everything(source)] == ["x", "y\r\nz"]


@pytest.mark.parametrize("bad", ["3,x,L", "3,x,L,a.jpg,more"])
def test_a_csv_row_of_another_width_is_named_by_its_number(tmp_path: Path, bad: str) -> None:
    """A comma too many shifts a title into the label: better no plan than a wrong one."""
    rows = "".join(f"{i},x,L,a.jpg\n" for i in range(7))
    path = write_csv(tmp_path, f"item_id,title,label_id,image_path\n{rows}{bad}\n9,x,L,a.jpg\n")
    with pytest.raises(CatalogError, match=r"Row #9: Expected 4 columns"):
        find_items(path, None)


def test_a_quote_that_is_never_closed_is_an_error(tmp_path: Path) -> None:
    """Arrow reads the rest of the file into one value; the rows in it would be gone."""
    head = "item_id,title,label_id,image_path\n1,x,L,a.jpg\n"
    with pytest.raises(CatalogError, match="quote in row 2 is not closed"):
        find_items(write_csv(tmp_path, head + '2,x,L,"b.jpg\n3,x,L,c.jpg\n'), None)
    closed = write_csv(tmp_path, head + '2,x,L,"b\n.jpg"\n')
    assert find_items(closed, None).files[0].num_rows == 2


def test_an_empty_csv_is_an_error_and_one_without_rows_has_none(tmp_path: Path) -> None:
    """The plan refuses a catalog without items; the reader must get it that far."""
    with pytest.raises(CatalogError, match="Empty CSV"):
        find_items(write_csv(tmp_path, ""), None)
    source = find_items(write_csv(tmp_path, "item_id,title,label_id,image_path\n"), None)
    assert (source.files[0].num_rows, scanned(source, "item_id")) == (0, [])


def test_an_empty_parquet_file_has_no_rows(tmp_path: Path) -> None:
    """A day without new products."""
    source = find_items(
        write_catalog(tmp_path, num_items=0, image=pa.array([], pa.binary()))[0], None
    )
    assert (everything(source), scanned(source, "label_id")) == ([], [])


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """Either could be meant."""
    path = write_csv(tmp_path, "item_id,title,title,label_id,image_path\n1,x,y,L,a.jpg\n")
    with pytest.raises(CatalogError, match="more than once: title"):
        find_items(path, None)


TEXTS = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
)


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_text_columns_may_have_any_text_type(tmp_path: Path, kind: pa.DataType) -> None:
    """Pandas, Polars and DuckDB each write their own."""
    values = {"title": ["x", None], "label_id": ["L0", "L1"], "item_id": ["1", "2"]}
    values |= {"image_path": ["a.png", "b.png"], "split": ["test", None]}
    columns = {name: pa.array(each).cast(kind) for name, each in values.items()}
    if pa.types.is_dictionary(kind):
        columns = {name: pa.array(each).dictionary_encode() for name, each in values.items()}
    items, _ = write_catalog(tmp_path, num_items=2, with_bytes=False, **columns)
    source = find_items(items, None)
    for name in ("label_id", "item_id", "image_path", "split"):
        assert scanned(source, name) == values[name]
    assert scanned(source, "title") == [b"x", None]
    assert [item.title for item in everything(source)] == ["x", None]
    assert [item.image.path for item in everything(source)] == ["a.png", "b.png"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_picture_bytes_may_have_any_binary_type(tmp_path: Path, kind: pa.DataType) -> None:
    """2 GB of pictures in one array need the large one."""
    image = pa.array([b"one", None], kind)
    found = everything(find_items(write_catalog(tmp_path, num_items=2, image=image)[0], None))
    assert [(item.image, item.image_error) for item in found] == [(b"one", None), (None, "null")]


def test_hugging_face_pictures_are_bytes_or_else_files(tmp_path: Path) -> None:
    """`datasets` writes a struct; bytes null means that the path holds the picture."""
    image = [
        {"bytes": b"one", "path": "../ignored.png"},
        {"bytes": None, "path": "0001.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": "../secret.png"},
        {"bytes": b"", "path": "0001.png"},
        {"bytes": None, "path": "https://shop/a.png"},
    ]
    items, _ = write_catalog(tmp_path, num_items=7, image=image)
    source = find_items(items, None)
    assert source.files[0].has_image_bytes
    found = everything(source)
    assert found[0].image == b"one"
    assert found[1].image == PictureFile(str(tmp_path.resolve()), "0001.png")
    leaves = "path leaves the image root"
    errors = ["null", "null", leaves, "empty", leaves]
    assert [item.image_error for item in found[2:]] == errors
    assert everything(source, 3, 5) == found[3:5]


def test_a_split_that_only_some_files_have_is_kept(tmp_path: Path) -> None:
    """Files of one catalog may differ in what they add; a test item must not become training."""
    write_catalog(tmp_path, num_items=1, split=["test"])
    (tmp_path / "items.parquet").rename(tmp_path / "a.parquet")
    write_catalog(tmp_path, num_items=1, item_id=["other"], price=[5])
    assert scanned(find_items(tmp_path, None), "split") == ["test", None]


def test_files_with_and_without_pictures_do_not_mix(tmp_path: Path) -> None:
    """Half of the pictures would be missing."""
    write_catalog(tmp_path, num_items=1)
    (tmp_path / "items.parquet").rename(tmp_path / "a.parquet")
    write_catalog(tmp_path, num_items=1, with_bytes=False)
    with pytest.raises(CatalogError, match="some files have the column `image`"):
        find_items(tmp_path, None)


def test_a_glob_and_braces_name_the_files_to_read(tmp_path: Path) -> None:
    """As WebDataset users write them; braces keep their order, a glob goes by name."""
    for i in range(8, 12):
        write_catalog(tmp_path, num_items=1, item_id=[f"i{i}"])
        (tmp_path / "items.parquet").rename(tmp_path / f"part-{i:03d}.parquet")
    expected = ["i8", "i9", "i10", "i11"]
    for pattern in ("part-*.parquet", "part-{008..011}.parquet", "part-0{08,09,1{0,1}}.parquet"):
        source = find_items(tmp_path / pattern, None)
        assert scanned(source, "item_id") == expected, pattern
        assert source.files[0].root == str(tmp_path.resolve())
    with pytest.raises(CatalogError, match=r"1 of 3 files do not exist: .*part-012") as caught:
        find_items(tmp_path / "part-{010..012}.parquet", None)
    assert caught.value.where == str(tmp_path / "part-{010..012}.parquet")


def test_a_linked_catalog_keeps_its_name(tmp_path: Path) -> None:
    """The hub's cache stores files under their hash; the link has the suffix."""
    items, _ = write_catalog(tmp_path, num_items=2)
    blob = items.rename(tmp_path / "0a1b2c")
    items.symlink_to(blob)
    assert len(everything(find_items(items, None))) == 2


@pytest.mark.parametrize("with_bytes", [True, False])
def test_a_catalog_in_a_store_reads_as_a_local_one(
    tmp_path: Path, memory: fsspec.AbstractFileSystem, with_bytes: bool
) -> None:
    """GPU nodes without a shared disk read from the bucket."""
    items, _ = write_catalog(tmp_path, num_items=40, with_bytes=with_bytes)
    put(memory, tmp_path)
    local, remote = find_items(items, None), find_items("memory://shop/items.parquet", None)
    assert remote.files[0].path == "memory://shop/items.parquet"
    assert remote.files[0].sha256 == local.files[0].sha256
    assert remote.files[0].root == "memory://shop"
    assert scanned(remote, "title") == scanned(local, "title")
    found, expected = everything(remote, 5, 30), everything(local, 5, 30)
    if not with_bytes:
        assert pickle.loads(pickle.dumps(found[0].image)).read() == expected[0].image.read()
        assert [each.image.path for each in found] == [each.image.path for each in expected]
    else:
        assert found == expected


def test_folders_and_globs_in_a_store_are_listed(
    tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    """In the order of their names, as local ones are."""
    for name in ("b", "a"):
        write_catalog(tmp_path, num_items=1, item_id=[name])
        (tmp_path / "items.parquet").rename(tmp_path / f"{name}.parquet")
    put(memory, tmp_path)
    for place in ("memory://shop", "memory://shop/", "memory://shop/*.parquet"):
        source = find_items(place, None)
        assert scanned(source, "item_id") == ["a", "b"]
        assert source.files[0].root == "memory://shop"
    assert scanned(find_items("memory://shop/{b,a}.parquet", None), "item_id") == ["b", "a"]
    with pytest.raises(CatalogError, match="no items found"):
        find_items("memory://shop/missing.parquet", None)
    with pytest.raises(CatalogError, match="no such folder"):
        find_items("memory://shop", "memory://typo")


def test_a_csv_in_a_store_is_read_and_watched(
    tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    """A changed or deleted object is noticed as a changed file is."""
    text = b"item_id,title,label_id,image_path\n1,x,L,a.jpg\n"
    memory.pipe_file("/shop/items.csv", text)
    source = find_items("memory://shop/items.csv", None)
    assert scanned(source, "image_path") == ["a.jpg"]
    check_unchanged(source)
    memory.pipe_file("/shop/items.csv", text.replace(b"x", b"y"))
    with pytest.raises(SourceChangedError, match="content"):
        check_unchanged(source)
    memory.rm("/shop/items.csv")
    with pytest.raises(SourceChangedError, match="gone"):
        check_unchanged(source)


def test_only_the_files_of_a_shard_need_be_checked(tmp_path: Path) -> None:
    """Checking every tar of 12M items for each of 184 shards would walk each 184 times."""
    for name in ("a", "b"):
        write_catalog(tmp_path, num_items=1, item_id=[name])
        (tmp_path / "items.parquet").rename(tmp_path / f"{name}.parquet")
    source = find_items(tmp_path, None)
    (tmp_path / "a.parquet").unlink()
    check_unchanged(source, [1])
    with pytest.raises(SourceChangedError):
        check_unchanged(source)


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    """So that links out of the root are noticed there too."""
    items, _ = write_catalog(tmp_path, num_items=1, with_bytes=False)
    source = find_items(f"file://{items}", f"file://{tmp_path}")
    assert (source.files[0].path, source.files[0].root) == (str(items), str(tmp_path.resolve()))


def test_a_store_whose_package_is_missing_says_what_to_install() -> None:
    """The first thing that happens to a user of s3://."""
    fsspec.register_implementation("absent", "absent_package.Files", errtxt="Install it")
    with pytest.raises(CatalogError, match="absent:// needs a package") as caught:
        find_items("absent://bucket/items.parquet", None)
    assert caught.value.fix == "pip install absent_package"
    file = SourceFile(
        path="items.parquet",
        num_bytes=1,
        num_rows=1,
        sha256="",
        root="absent://bucket",
        has_image_bytes=False,
    )
    source = ItemsSource(files=(file,))
    with pytest.raises(CatalogError, match="absent:// needs a package"):
        check_unchanged(source)
    with pytest.raises(CatalogError, match="Protocol not known"):
        find_items("nonsense://bucket/items.parquet", None)


class _BrokenStore(fsspec.AbstractFileSystem):
    """A store behind a broken network; no OSError, as botocore's errors are none."""

    protocol = "broken"

    def info(self, path: str, **_: object) -> dict[str, object]:
        raise RuntimeError("credentials expired")

    def cat_file(self, path: str, **_: object) -> bytes:
        raise RuntimeError("credentials expired")


def test_a_broken_network_is_an_error_not_a_traceback() -> None:
    """At plan time it stops the plan; at a picture it is this picture's reason."""
    fsspec.register_implementation("broken", _BrokenStore, clobber=True)
    with pytest.raises(CatalogError, match="credentials expired") as caught:
        find_items("broken://bucket/items.parquet", None)
    assert "network" in caught.value.fix
    with pytest.raises(OSError, match="credentials expired") as picture:
        PictureFile("broken://bucket", "a.png").read()
    assert picture.value.strerror == "credentials expired"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "a/../../secret.png",
        "a/%2e%2e/../secret.png",
        "%2e%2e/secret.png",
        "..\\secret.png",
        "/secret.png",
        "file:///etc/hostname",
        "other://bucket/secret.png",
        "a::memory://secret.png",
        "memory://shopper/secret.png",
    ],
)
def test_a_path_that_leaves_a_root_in_a_store_is_not_read(
    memory: fsspec.AbstractFileSystem, name: str
) -> None:
    """Whoever writes the catalog must not choose what else the node reads with its rights."""
    memory.pipe_file(
        "/shop/items.csv", f"item_id,title,label_id,image_path\n1,x,L,{name}\n".encode()
    )
    item = everything(find_items("memory://shop/items.csv", None))[0]
    assert (item.image, item.image_error) == (None, "path leaves the image root")


def test_full_urls_below_the_root_are_paths_below_it(memory: fsspec.AbstractFileSystem) -> None:
    """Catalogs in a bucket often name their pictures in full."""
    memory.pipe_file("/shop/pictures/a.png", b"picture")
    memory.pipe_file(
        "/shop/items.csv",
        b"item_id,title,label_id,image_path\n1,x,L,memory://shop/pictures/a.png\n",
    )
    source = find_items("memory://shop/items.csv", None)
    assert scanned(source, "item_id") == ["1"]
    assert everything(source)[0].image.read() == b"picture"
    memory.mkdir("/shop/other")
    with pytest.raises(CatalogError, match="1 image paths are URLs"):
        list(scan(find_items("memory://shop/items.csv", "memory://shop/other")))


@pytest.mark.timeout(20)
def test_what_is_no_picture_file_is_an_error_not_a_wait(tmp_path: Path) -> None:
    """A FIFO would block a worker for ever; a folder and a device have no picture."""
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (("fifo.png", "not a regular file"), ("folder.png", "Is a directory")):
        with pytest.raises(OSError, match=reason) as caught:
            with_path(tmp_path, name).image.read()
        assert caught.value.strerror == reason
    with pytest.raises(OSError, match="not a regular file"):
        PictureFile("/dev", "zero").read()


def test_a_circle_of_links_is_a_reason(tmp_path: Path) -> None:
    """Resolving it must not crash, nor hide a link out of the root that stands behind it."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "loop").symlink_to("loop")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(OSError, match="symbolic links"):
        with_path(root, "loop").image.read()
    hidden = with_path(root, "loop/../out.png")
    assert hidden.image is None
    assert "symbolic links" in hidden.image_error


def test_a_link_within_the_root_is_followed(tmp_path: Path) -> None:
    """Only leaving is refused."""
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "b.png").symlink_to("a.png")
    assert with_path(tmp_path, "b.png").image.read() == b"picture"


def test_names_lead_where_the_whole_path_resolved_leads(tmp_path: Path) -> None:
    """Folders are resolved once, and remembered while a catalog is read."""
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "1.png").write_bytes(b"one")
    (root / "a" / "2.png").symlink_to("b/1.png")
    (root / "near").symlink_to("a/b")
    (root / "far").symlink_to(tmp_path)
    (tmp_path / "3.png").write_bytes(b"three")
    names = [
        *("a/b/1.png", "a//b/./1.png", "a/2.png", "near/1.png", "near/../2.png", "far/3.png"),
        *("far/root/a/2.png", "a/b/none.png", "none/1.png", "a/b/1.png/2", "a/b", "a/b/", "."),
        *("..", "../root/a/2.png", "../3.png", "near/..", "far/..", f"{root}/a/b/1.png"),
    ]
    rows = [f"{i},x,L,{name}" for i, name in enumerate(names * 2)]
    items = root / "items.csv"
    items.write_text("\n".join(["item_id,title,label_id,image_path", *rows, ""]))
    for name, item in zip(names * 2, everything(find_items(items, None)), strict=True):
        real = os.path.realpath(os.path.join(root, name))
        if Path(real).is_relative_to(root):
            assert item.image == PictureFile(str(root), os.path.relpath(real, root)), name
        else:
            assert item.image_error == "path leaves the image root", name


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000])
def test_a_path_that_no_file_can_have_is_a_reason(tmp_path: Path, name: str) -> None:
    """Not a crash of the worker."""
    item = with_path(tmp_path, name)
    if item.image is None:
        assert "path cannot be used" in item.image_error
    else:
        with pytest.raises(OSError, match="too long"):
            item.image.read()


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_file_too_large_for_a_picture_is_not_read(
    tmp_path: Path,
    memory: fsspec.AbstractFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    is_remote: bool,
) -> None:
    """A film among the pictures must not take a worker's memory."""
    (tmp_path / "large.png").write_bytes(bytes(1001))
    (tmp_path / "fits.png").write_bytes(bytes(1000))
    put(memory, tmp_path)
    monkeypatch.setattr(items_module, "MAX_PICTURE_BYTES", 1000)
    root = "memory://shop" if is_remote else str(tmp_path)
    with pytest.raises(OSError, match="larger than"):
        PictureFile(root, "large.png").read()
    assert PictureFile(root, "fits.png").read() == bytes(1000)


@pytest.fixture(scope="module")
def ranged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ItemsSource]:
    """The same 600 items in three forms; lists of 256 rows and row groups of 16 do not divide."""
    folder = tmp_path_factory.mktemp("ranged")
    parquet, _ = write_catalog(folder, num_items=600, image=[b"%d" % i for i in range(600)])
    table = pq.read_table(parquet).drop_columns(["image"])
    table = table.append_column("image_path", pa.array([f"{i}.png" for i in range(600)]))
    pa.csv.write_csv(table, folder / "items.csv")
    struct = [{"bytes": b"%d" % i, "path": None} for i in range(600)]
    nested, _ = write_catalog(folder / "nested", num_items=600, image=struct)
    return {
        "parquet": find_items(parquet, None),
        "csv": find_items(folder / "items.csv", None),
        "nested": find_items(nested, None),
    }


@given(
    form=st.sampled_from(["parquet", "csv", "nested"]),
    borders=st.tuples(st.integers(0, 600), st.integers(0, 600)),
)
@settings(max_examples=40, deadline=None)
def test_any_range_is_the_slice_of_the_whole(
    ranged: dict[str, ItemsSource], form: str, borders: tuple[int, int]
) -> None:
    """Shards cut the catalog anywhere; row i must be item i."""
    start, stop = sorted(borders)
    found = [item.title for item in everything(ranged[form], start, stop)]
    assert found == [f"Acme thing {i % 4} no. {i}" for i in range(start, stop)]


def test_reading_a_range_opens_only_its_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of 65,536 rows must not cost reading all 12M."""
    items, _ = write_catalog(tmp_path, num_items=160)
    source = find_items(items, None)
    asked: list[list[int]] = []

    class Watched(pq.ParquetFile):
        def iter_batches(self, *args: object, **options: object) -> Iterator[pa.RecordBatch]:
            asked.append(options["row_groups"])
            return super().iter_batches(*args, **options)

    monkeypatch.setattr(tables.pq, "ParquetFile", Watched)
    assert len(everything(source, 20, 40)) == 20
    assert asked == [[1, 2]]
