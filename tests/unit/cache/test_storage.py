"""Files that are whole or absent."""

import os
from pathlib import Path

import pytest

from cache import storage
from cache.storage import atomic_write
from schemas.errors import WorkspaceError


def test_parts_are_joined_and_folders_made(tmp_path: Path) -> None:
    """A chunk is matrix and footer, written without joining them in memory."""
    path = tmp_path / "new" / "file.bin"
    atomic_write(path, b"abc", memoryview(b"def"))
    assert path.read_bytes() == b"abcdef"
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must cost the new file only."""
    path = tmp_path / "file.bin"
    atomic_write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match="No space left") as caught:
        atomic_write(path, b"new")
    assert caught.value.where == str(path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]


def test_the_data_is_flushed_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut leaves an empty file under the final name."""
    calls: list[str] = []
    fsync, replace, sync_folder = os.fsync, Path.replace, storage._sync_folder

    def log_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def log_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    def log_folder(folder: Path) -> None:
        calls.append("folder")
        sync_folder(folder)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "replace", log_replace)
    monkeypatch.setattr(storage, "_sync_folder", log_folder)
    atomic_write(tmp_path / "file", b"x")
    assert calls == ["fsync", "rename", "folder", "fsync"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """A file where a folder should be: also what a mistyped workspace gives."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceError):
        atomic_write(tmp_path / "file" / "below", b"x")
