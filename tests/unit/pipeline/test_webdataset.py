"""WebDataset tars: what a sample is, what is ignored, and how a tar may be broken."""

import gzip
import io
import json
import random
import tarfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import webdataset
from pipeline.items import RawItem, check_unchanged, find_items, read_rows, scan
from schemas.errors import CatalogError, SourceChangedError
from schemas.plan import ItemsSource

Members = list[tuple[str, bytes]]


def sample(key: str, title: str = "x", label: str = "L", picture: bytes = b"picture") -> Members:
    fields = {"title": title, "label_id": label}
    return [(f"{key}.jpg", picture), (f"{key}.json", json.dumps(fields).encode())]


def write_tar(path: Path, members: Members, kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def everything(source: ItemsSource, start: int = 0, stop: int = 10**9) -> list[RawItem]:
    return [
        item
        for number, file in enumerate(source.files)
        for batch in read_rows(source, number, start, min(stop, file.num_rows))
        for item in batch
    ]


def scanned(source: ItemsSource, column: str) -> list[object]:
    return [value for _, batch in scan(source) for value in batch[column].to_pylist()]


def only(folder: Path, members: Members) -> RawItem:
    """Return the one item of a tar with these members."""
    (item,) = everything(find_items(write_tar(folder / "items.tar", members), None))
    return item


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_a_tar_gives_ids_titles_labels_splits_and_pictures(tmp_path: Path, suffix: str) -> None:
    """Everything that the two tables give, from one sample each."""
    fields = {"item_id": 7, "title": "Boots", "label_id": 12, "split": "test", "price": 1.5}
    members = [
        ("a/0001.jpg", b"one"),
        ("a/0001.json", json.dumps(fields).encode()),
        ("./b/0002.txt", "Caf\u00e9\n".encode()),
        ("./b/0002.cls", b"L2\n"),
        ("./b/0002.PNG", b"two"),
    ]
    source = find_items(write_tar(tmp_path / f"items{suffix}", members), None)
    assert source.files[0].has_image_bytes
    assert source.files[0].num_rows == 2
    assert scanned(source, "item_id") == ["7", "b/0002"]
    assert scanned(source, "label_id") == ["12", "L2"]
    assert scanned(source, "split") == ["test", None]
    assert scanned(source, "title") == [b"Boots", "Caf\u00e9".encode()]
    assert [item.image for item in everything(source)] == [b"one", b"two"]
    assert [item.title for item in everything(source)] == ["Boots", "Caf\u00e9"]


@pytest.mark.parametrize(
    ("fields", "title", "label"),
    [
        ({"caption": "c", "text": "t", "label": "L"}, "c", "L"),
        ({"title": None, "text": "t", "label_id": "M", "label": "L"}, "t", "M"),
        ({"title": "", "caption": "c", "label": 3}, "", "3"),
    ],
)
def test_the_first_name_that_has_a_value_counts(
    tmp_path: Path, fields: dict[str, object], title: str, label: str
) -> None:
    """img2dataset writes `caption`, others `text`."""
    path = write_tar(tmp_path / "items.tar", [("1.json", json.dumps(fields).encode())])
    source = find_items(path, None)
    assert everything(source)[0].title == title
    assert scanned(source, "label_id") == [label]


def test_a_txt_comes_before_the_json_and_jpg_before_png(tmp_path: Path) -> None:
    """Whatever their order in the tar, so that a repacked tar gives the same embeddings."""
    members = [("1.png", b"png"), *sample("1", title="json", picture=b"jpg"), ("1.txt", b"txt")]
    for order in (members, members[::-1]):
        item = only(tmp_path, order)
        assert (item.image, item.title) == (b"jpg", "txt")


def test_what_a_sample_lacks_is_a_reason(tmp_path: Path) -> None:
    """An item keeps its row, whatever it lacks."""
    members = [
        ("1.cls", b"L"),
        ("2.cls", b"L"),
        ("2.jpg", b""),
        ("3.json", b'{"label": 1, "title": 5}'),
        ("4.json", b'{"label": 1, "title": "caf\xe9"}'),
        ("5.json", rb'{"label": 1, "title": "half \ud800"}'),
    ]
    source = find_items(write_tar(tmp_path / "items.tar", members), None)
    found = everything(source)
    assert [item.image_error for item in found[:3]] == ["no picture", "empty", "no picture"]
    errors = ["null", "null", "not text", "not UTF-8 at byte 3", "not UTF-8 at byte 5"]
    assert [item.title_error for item in found] == errors
    assert all(item.title is None and item.image is None for item in found)
    assert scanned(source, "title")[:3] == [None, None, None]


def test_what_is_no_sample_is_ignored(tmp_path: Path) -> None:
    """Links could name any file, and macOS adds a shadow to each."""
    path = tmp_path / "items.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("0.jpg", tarfile.SYMTYPE),
            ("1.jpg", tarfile.LNKTYPE),
            ("2.jpg", tarfile.CHRTYPE),
            ("3.jpg", tarfile.FIFOTYPE),
            ("folder.jpg", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
        for name, content in [
            *sample("9"),
            ("._9.jpg", b"shadow"),
            (".DS_Store", b"shadow"),
            ("__MACOSX/._9.json", b"shadow"),
            ("a/PaxHeaders.17/9.jpg", b"shadow"),
            ("LICENSE", b"no dot"),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    source = find_items(path, None)
    assert scanned(source, "item_id") == ["9"]
    assert [item.image for item in everything(source)] == [b"picture"]


def test_samples_without_a_label_are_counted_and_named(tmp_path: Path) -> None:
    """Members of a sample that do not stand together look so, too."""
    members = [(f"{i}.jpg", b"x") for i in range(5)] + sample("fine")
    source = find_items(write_tar(tmp_path / "items.tar", members), None)
    with pytest.raises(CatalogError, match="5 samples have no label_id: '0', '1', '2'") as caught:
        list(scan(source))
    assert caught.value.where == str(tmp_path / "items.tar")
    assert "--sort=name" in caught.value.fix


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("1.json", b"{")], "'1.json' is not JSON"),
        ([("1.json", b"[" * 100_000)], "'1.json' is not JSON"),
        ([("1.json", b"[]")], "'1.json' is not a JSON object"),
        ([("1.json", b'{"label_id": 1.5}')], "has label_id = 1.5"),
        ([("1.json", b'{"label_id": true}')], "has label_id = True"),
        ([("1.json", b'{"label_id": 1, "item_id": ["a"]}')], "has item_id ="),
        ([("1.jpg", b"x"), ("1.jpg", b"y")], "'1.jpg' occurs twice"),
        ([("\udce9.cls", b"L")], "column item_id is not text"),
    ],
)
def test_metadata_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path, members: Members, problem: str
) -> None:
    """At plan time, with file and member."""
    source = find_items(write_tar(tmp_path / "items.tar", members), None)
    with pytest.raises(CatalogError, match=problem) as caught:
        list(scan(source))
    assert caught.value.where == str(tmp_path / "items.tar")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_truncated_tar_is_refused_at_plan_time(tmp_path: Path, suffix: str) -> None:
    """Most cuts look to tarfile like the end; the rows behind them would be gone silently."""
    noise = random.Random(0).randbytes
    members = [each for i in range(4) for each in sample(str(i), picture=noise(3000))]
    path = write_tar(tmp_path / f"items{suffix}", members)
    whole = path.read_bytes()
    # Within a header, at its end, within a picture, between two members, before the end mark.
    cuts = (
        (100, 512, 2000, 3584, 3584 + 1024, 4 * (3584 + 1024)) if suffix == ".tar" else (20, 5000)
    )
    for cut in (0, *cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(CatalogError) as caught:
            find_items(path, None)
        assert caught.value.where == str(path), cut
    path.write_bytes(whole)
    assert find_items(path, None).files[0].num_rows == 4


def test_a_damaged_header_and_a_second_archive_are_refused(tmp_path: Path) -> None:
    """Both look to tarfile like the end of the archive."""
    path = write_tar(tmp_path / "items.tar", sample("1") + sample("2"))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[2048:2148] = b"\xff" * 100
    for content in (bytes(damaged), whole + whole):
        path.write_bytes(content)
        with pytest.raises(CatalogError, match="no end-of-archive mark at byte"):
            find_items(path, None)


def test_what_is_no_tar_is_one_clear_error(tmp_path: Path) -> None:
    """Not a stack trace."""
    for name in ("items.tar", "items.tgz"):
        (tmp_path / name).write_bytes(b"<html>not found</html>" * 100)
        with pytest.raises(CatalogError, match="cannot be read") as caught:
            find_items(tmp_path / name, None)
        assert caught.value.where == str(tmp_path / name)


def test_an_empty_tar_has_no_rows(tmp_path: Path) -> None:
    """A day without new products."""
    source = find_items(write_tar(tmp_path / "items.tar", []), None)
    assert (source.files[0].num_rows, everything(source), scanned(source, "title")) == (0, [], [])


def test_a_member_declared_too_large_is_a_reason_and_not_read(tmp_path: Path) -> None:
    """A hole in a file costs nothing to write and all memory to read."""
    path = tmp_path / "items.tar"
    large = tarfile.TarInfo("1.jpg")
    large.size = 600 << 20
    with path.open("wb") as file:
        file.write(large.tobuf())
        file.seek(large.size, io.SEEK_CUR)
        rest = write_tar(tmp_path / "rest.tar", [("1.cls", b"L"), *sample("2")])
        file.write(rest.read_bytes())
    source = find_items(path, None)
    found = everything(source)
    assert [item.image_error for item in found] == ["larger than 512 MB", None]
    assert found[1].image == b"picture"


def test_a_text_member_too_large_is_a_reason_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A title may be missing; a label may not."""
    monkeypatch.setattr(webdataset, "MAX_TEXT_BYTES", 100)
    item = only(tmp_path, [*sample("1"), ("1.txt", bytes(101))])
    assert item.title is None
    assert item.title_error.startswith("larger than")
    source = find_items(write_tar(tmp_path / "b.tar", sample("1", title="x" * 100)), None)
    with pytest.raises(CatalogError, match=r"'1.json' is larger"):
        list(scan(source))


def test_a_header_that_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Extended headers are read whole; a few kB of gzip can hold a huge one."""
    monkeypatch.setattr(webdataset, "MAX_PICTURE_BYTES", 1 << 20)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 << 20
    path = tmp_path / "items.tgz"
    path.write_bytes(gzip.compress(header.tobuf() + bytes(8 << 20)))
    assert path.stat().st_size < 10_000
    with pytest.raises(CatalogError, match="a header of 8388608 bytes"):
        find_items(path, None)


def bytes_read() -> int:
    """Return how many bytes this process has asked files for."""
    fields = Path("/proc/self/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


def test_planning_seeks_over_the_pictures(tmp_path: Path) -> None:
    """12M pictures of 100 kB are 1.2 TB; their headers and titles are 20 GB."""
    members = [each for i in range(20) for each in sample(str(i), picture=bytes(1 << 20))]
    path = write_tar(tmp_path / "items.tar", members)
    before = bytes_read()
    source = find_items(path, None)
    assert len(scanned(source, "item_id")) == 20
    check_unchanged(source)
    assert bytes_read() - before < 2 << 20
    everything(source)
    assert bytes_read() - before > 20 << 20


def test_a_changed_tar_is_noticed(tmp_path: Path) -> None:
    """Rows of the new file would get embeddings under the old ids."""
    path = write_tar(tmp_path / "items.tar", sample("1") + sample("2"))
    source = find_items(path, None)
    check_unchanged(source)
    write_tar(path, sample("2") + sample("1"))
    with pytest.raises(SourceChangedError, match="other content"):
        check_unchanged(source)
    write_tar(path, sample("1", picture=b"picturf") + sample("2"))
    check_unchanged(source)  # same names and sizes: what the hash cannot see


def test_folders_of_tars_and_their_braces_are_read_in_order(tmp_path: Path) -> None:
    """As img2dataset and WebDataset name their shards."""
    for i in (2, 0, 1):
        write_tar(tmp_path / f"{i:05d}.tar", sample(f"k{i}"))
    for place in (tmp_path, tmp_path / "{00000..00002}.tar", tmp_path / "*.tar"):
        assert scanned(find_items(place, None), "item_id") == ["k0", "k1", "k2"]
    (tmp_path / "00000.parquet").write_bytes(b"img2dataset's record of its downloads")
    with pytest.raises(CatalogError, match="some files are tars") as caught:
        find_items(tmp_path, None)
    assert f"{tmp_path}/*.tar" in caught.value.fix


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_in_a_store_reads_as_a_local_one(tmp_path: Path, suffix: str) -> None:
    """GPU nodes without a shared disk read from the bucket."""
    members = [each for i in range(9) for each in sample(str(i), title=f"no. {i}")]
    path = write_tar(tmp_path / f"items{suffix}", members)
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/tars/items{suffix}", path.read_bytes())
    local, remote = find_items(path, None), find_items(f"memory://tars/items{suffix}", None)
    assert remote.files[0].sha256 == local.files[0].sha256
    assert everything(remote, 2, 7) == everything(local)[2:7]
    assert scanned(find_items(f"memory://tars/*{suffix}", None), "title") == scanned(local, "title")
    fs.pipe_file(f"/tars/items{suffix}", path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CatalogError):
        find_items(f"memory://tars/items{suffix}", None)


def test_large_pictures_come_in_small_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 pictures of 400 MB would be 100 GB."""
    monkeypatch.setattr("pipeline.items.BATCH_BYTES", 1000)
    members = [each for i in range(10) for each in sample(str(i), picture=bytes(400))]
    source = find_items(write_tar(tmp_path / "items.tar", members), None)
    assert [len(batch) for batch in read_rows(source, 0, 0, 10)] == [3, 3, 3, 1]


def test_long_names_survive_in_every_tar_format(tmp_path: Path) -> None:
    """GNU tar and pax write names over 100 letters each in their own way."""
    key = f"{'folder/' * 30}{'k' * 90}"
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / "items.tar", sample(key), kind)
        assert scanned(find_items(path, None), "item_id") == [key]


keys = st.text(
    st.characters(exclude_characters="./\0", exclude_categories=("Cs",)), min_size=1, max_size=40
)


@given(titles=st.dictionaries(keys, st.text(), max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_titles_and_keys_come_back_in_any_range(
    tmp_path_factory: pytest.TempPathFactory, titles: dict[str, str], data: st.DataObject
) -> None:
    """Emoji, line breaks and quotes included; row i is sample i."""
    path = tmp_path_factory.mktemp("tar") / "items.tar"
    members = [
        each
        for i, (key, title) in enumerate(titles.items())
        for each in sample(key, title=title, picture=b"%d" % i * 700)
    ]
    source = find_items(write_tar(path, members), None)
    assert scanned(source, "item_id") == list(titles)
    start = data.draw(st.integers(0, len(titles)))
    stop = data.draw(st.integers(start, len(titles)))
    found = everything(source, start, stop)
    assert [item.title for item in found] == list(titles.values())[start:stop]
    assert [item.image for item in found] == [b"%d" % i * 700 for i in range(start, stop)]
