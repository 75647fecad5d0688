"""Both kinds of storage keep the same promises: files are whole or absent, one of many wins."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import storage
from cache.object_storage import ObjectStorage
from cache.storage import LocalStorage, Storage, is_temporary, open_storage
from schemas.errors import WorkspaceError


@pytest.fixture(params=["local", "object"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Return a folder, or a store in memory."""
    return LocalStorage(tmp_path) if request.param == "local" else ObjectStorage("memory://")


def test_parts_are_joined_and_read_back_in_parts(place: Storage) -> None:
    """A chunk is matrix and footer, written and read without joining them in memory."""
    place.write("new/file.bin", b"abc", memoryview(b"defg"))
    assert place.read("new/file.bin") == b"abcdefg"
    assert place.sizes("new") == {"new/file.bin": 7}
    first, second = bytearray(3), bytearray(2)
    assert place.read_into("new/file.bin", memoryview(first), memoryview(second)) == 7
    assert (bytes(first), bytes(second)) == (b"abc", b"de")
    longer = bytearray(9)
    assert place.read_into("new/file.bin", memoryview(longer)) == 7
    assert place.read_ranges("new/file.bin", [4, 0], 2) == [b"ef", b"ab"]


def test_what_is_not_there_is_said_the_same_way(place: Storage) -> None:
    """Callers tell absent from broken by FileNotFoundError alone."""
    assert place.size("nothing") is None
    assert place.sizes("nothing") == {}
    for read in (
        lambda: place.read("nothing"),
        lambda: place.read_into("nothing", memoryview(bytearray(1))),
        lambda: place.read_ranges("nothing", [0], 1),
    ):
        with pytest.raises(FileNotFoundError):
            read()
    place.remove("nothing")
    place.write("file", b"1")
    place.remove("file")
    assert place.size("file") is None


def test_the_check_stops_a_write_before_it_appears(place: Storage) -> None:
    """It asks whether the lease is still ours: if not, nothing of ours may appear."""

    def lost() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - any error of the check
        place.write("file", b"1", check=lost)
    assert place.sizes("") == {}


def in_threads(function: Callable[[int], bool], num: int = 8) -> list[bool]:
    barrier, found = threading.Barrier(num), [False] * num

    def run(number: int) -> None:
        barrier.wait()
        found[number] = function(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_exactly_one_creates_and_exactly_one_seizes(place: Storage) -> None:
    """Two workers that both think a shard is theirs would write over each other."""
    for attempt in range(20):
        name = f"leases/{attempt}"
        won = in_threads(lambda number, name=name: place.create(name, b"%d" % number))
        assert won.count(True) == 1
        holder = b"%d" % won.index(True)
        assert place.read(name) == holder
        won = in_threads(
            lambda number, name=name, old=holder: place.seize(name, b"new %d" % number, old)
        )
        assert won.count(True) == 1
        assert place.read(name) == b"new %d" % won.index(True)
        assert place.sizes(name.partition("/")[0]).keys() == {
            f"leases/{i}" for i in range(attempt + 1)
        }


def test_a_file_that_changed_is_neither_seized_nor_refreshed(place: Storage) -> None:
    """The holder showed life, or somebody else was faster."""
    place.create("lease", b"theirs")
    assert not place.seize("lease", b"mine", b"old")
    assert not place.refresh("lease", b"mine", b"old")
    assert place.read("lease") == b"theirs"
    assert not place.refresh("nothing", b"mine", b"old")
    assert not place.seize("nothing", b"mine", b"old")
    assert place.refresh("lease", b"theirs 2", b"theirs")
    assert place.read("lease") == b"theirs 2"


def test_a_library_may_write_into_a_folder(place: Storage) -> None:
    """TensorBoard's event files have no other way."""
    with place.folder("runs/a") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "events").write_bytes(b"1")
    assert place.read("runs/a/deep/events") == b"1"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must cost the new file only."""
    place = LocalStorage(tmp_path)
    place.write("file.bin", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match="No space left") as caught:
        place.write("file.bin", b"new")
    assert caught.value.where == str(tmp_path / "file.bin")
    assert place.read("file.bin") == b"old"
    assert place.sizes("") == {"file.bin": 3}


def test_the_data_is_flushed_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut leaves an empty file under the final name."""
    calls: list[str] = []
    fsync, replace, sync_folder = os.fsync, Path.replace, storage._sync

    def log_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def log_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    def log_folder(folder: Path) -> None:
        calls.append(f"folder {folder.name}")
        sync_folder(folder)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "replace", log_replace)
    monkeypatch.setattr(storage, "_sync", log_folder)
    root = tmp_path / "root"
    LocalStorage(root).write("new/file", b"1")
    made = [f"folder {tmp_path.name}", "fsync", "folder root", "fsync"]
    assert calls == [*made, "fsync", "rename", "folder new", "fsync"]


def test_a_file_in_the_way_is_an_error_with_its_place(tmp_path: Path) -> None:
    """A file where a folder should be: also what a mistyped workspace gives."""
    (tmp_path / "file").write_bytes(b"")
    place = LocalStorage(tmp_path / "file")
    with pytest.raises(WorkspaceError) as caught:
        place.write("cache/x", b"1")
    assert str(tmp_path / "file") in caught.value.where
    with pytest.raises(WorkspaceError):
        place.check_writable()
    with pytest.raises(FileNotFoundError):
        place.read("cache/x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WorkspaceError, match="cannot be read"):
        LocalStorage(tmp_path).read("folder")


def test_temporary_names_are_told_apart() -> None:
    """`verify` lists them, and must never list a real file."""
    assert is_temporary("cache/image.zarr/c/0/.0.12.0a1b2c3d.tmp")
    assert not is_temporary("cache/image.zarr/c/0/0")
    assert not is_temporary("runs/a.tmp/metrics.json")


def test_an_address_that_cannot_be_used_is_one_error() -> None:
    """With what a right one looks like."""
    for url in ("s3://", "ftp://host/x", "nonsense://x"):
        with pytest.raises(WorkspaceError) as caught:
            open_storage(url)
        assert "s3://bucket/prefix" in caught.value.fix


@pytest.mark.parametrize(
    ("number", "is_passed_over"),
    [(errno.EACCES, True), (errno.ENOENT, True), (errno.ESTALE, False)],
)
def test_a_listing_passes_over_what_is_not_ours_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_passed_over: bool
) -> None:
    """A disk's lost+found is root's; a server out of reach must not look like an empty folder."""
    workspace = LocalStorage(tmp_path)
    workspace.write("cache/a", b"abc")
    workspace.write("cache/other/b", b"b")
    scandir = os.scandir

    def refuse(place: str) -> object:
        if place.endswith("other"):
            raise OSError(number, os.strerror(number))
        return scandir(place)

    monkeypatch.setattr("os.scandir", refuse)
    if is_passed_over:
        assert workspace.sizes("cache") == {"cache/a": 3}
        return
    with pytest.raises(WorkspaceError) as caught:
        workspace.sizes("cache")
    assert caught.value.can_retry
