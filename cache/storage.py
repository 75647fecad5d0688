"""Files that are either whole or absent.

A write goes to a temporary name in the same folder, is flushed to the disk, renamed, and the
folder flushed, so that a process killed at any instant leaves the old file or the new one.
"""

import contextlib
import os
import uuid
from pathlib import Path

from schemas.errors import WorkspaceError


def atomic_write(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts one after another as one file, durably and all at once.

    Raises: WorkspaceError if the place cannot be written (rights, a full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _cannot_write(path, error) from error


def remove(path: Path) -> None:
    """Delete a file, if it is there.

    Raises: WorkspaceError if the place cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> WorkspaceError:
    return WorkspaceError(
        f"cannot write: {error.strerror or error}",
        where=str(path),
        fix="free space or rights there, then run the same command again",
    )


def _sync_folder(folder: Path) -> None:
    # Without this a power cut may forget the rename although the file's bytes are safe.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
