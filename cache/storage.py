"""Where a workspace lives: a folder here, or a prefix in an object store (`object_storage.py`).

One small interface hides the difference. A file is known by its name, relative, with slashes. A
write is whole or absent: a process killed at any instant leaves the old file or the new one.
Leases need three more calls, in which exactly one of several writers wins.
"""

import contextlib
import errno
import os
import re
import socket
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.errors import WorkspaceError

Buffer = bytes | memoryview
# Of a network file system whose server is away for a while; a full disk needs a person.
_PASSING = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN)
)
_NOT_OURS = (FileNotFoundError, NotADirectoryError, PermissionError)  # such as lost+found
_TEMPORARY = re.compile(r"\..+\.([0-9]+)\.[0-9a-f]{8}\.tmp")


class Storage(ABC):
    """The files of one workspace."""

    location: str
    """Absolute path or URL, without a slash at the end."""

    def where(self, name: str) -> str:
        """Return how a person finds a file."""
        return f"{self.location}/{name}" if name else self.location

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises: FileNotFoundError; WorkspaceError if it cannot be read.
        """

    @abstractmethod
    def read_into(
        self, name: str, *parts: memoryview, each: Callable[[memoryview], None] | None = None
    ) -> int:
        """Fill the buffers one after another from a file; return how many bytes it has.

        More than the buffers hold is not read, but counted.

        Args:
            name: of the file.
            parts: the buffers.
            each: called with every buffer once it is full, while it is still in the processor's
                cache.
        Raises: as `read`.
        """

    @abstractmethod
    def read_ranges(self, name: str, starts: list[int], num_bytes: int) -> list[bytes]:
        """Return `num_bytes` from each of the places in a file. Raises: as `read`."""

    @abstractmethod
    def write(self, name: str, *parts: Buffer, check: Callable[[], None] | None = None) -> None:
        """Write the parts one after another as one file, durably and all at once.

        Args:
            name: of the file.
            parts: its content.
            check: called at the last moment before the file appears; what it raises stops that.
        Raises: WorkspaceError if the place cannot be written (rights, a full disk, no network).
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file, if it is there. Raises: WorkspaceError."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if there is none."""

    @abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every file below a folder, by name."""

    def sizes_of_many(self, folder: str) -> Callable[[str], int | None]:
        """Return what gives the size of a file below a folder, for asking after most of them."""
        return self.sizes(folder).get

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none; of several callers one gets True."""

    @abstractmethod
    def seize(self, name: str, data: bytes, old: bytes) -> bool:
        """Replace a file only if its content is `old`; of several callers one gets True."""

    @abstractmethod
    def refresh(self, name: str, data: bytes, old: bytes) -> bool:
        """Replace one's own file if its content is still `old`. It is never absent meanwhile."""

    @abstractmethod
    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Give a local folder for libraries that only write there; its files end up here."""

    def path(self, name: str) -> Path | None:
        """Return a file's local path, to map it into memory; None where there is none."""
        del name
        return None

    def free_bytes(self) -> int | None:
        """Return the free space there; None where nobody knows."""
        return None

    def check_writable(self) -> None:
        """Refuse a workspace that cannot be written, before anything slow is done.

        Raises: WorkspaceError.
        """
        name = f".probe.{socket.gethostname()}.{os.getpid()}"
        self.write(name, b"")
        self.remove(name)


class LocalStorage(Storage):
    """A folder, on a local disk or shared by NFS."""

    def __init__(self, root: Path) -> None:
        """Name the folder; it need not exist before the first write."""
        self.root = root.resolve()
        self.location = str(self.root)

    def path(self, name: str) -> Path:
        """Return a file's path."""
        return self.root / name

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self._reading(name):
            return self.path(name).read_bytes()

    def read_into(
        self, name: str, *parts: memoryview, each: Callable[[memoryview], None] | None = None
    ) -> int:
        """Fill the buffers one after another from a file."""
        with self._reading(name), self.path(name).open("rb", buffering=0) as file:
            num_bytes = os.fstat(file.fileno()).st_size
            for part in parts:
                num_read = 0  # one call reads at most 2 GiB
                while num_read < len(part) and (num := file.readinto(part[num_read:])):
                    num_read += num
                if each is not None:
                    each(part)
            return num_bytes

    def read_ranges(self, name: str, starts: list[int], num_bytes: int) -> list[bytes]:
        """Return pieces of a file."""
        with self._reading(name), self.path(name).open("rb") as file:
            return [os.pread(file.fileno(), num_bytes, start) for start in starts]

    def write(self, name: str, *parts: Buffer, check: Callable[[], None] | None = None) -> None:
        """Write to a temporary name, flush, rename, flush the folder."""
        path = self.path(name)
        temporary = _temporary(path)
        with self._writing(name):
            _make_folder(path.parent)
            try:
                self._step("opens", name)
                with temporary.open("wb") as file:
                    for part in parts:
                        file.write(part)
                    self._step("has written", name)
                    file.flush()
                    os.fsync(file.fileno())
                self._step("has flushed", name)
                if check is not None:
                    check()
                temporary.replace(path)
                self._step("has renamed", name)
            except BaseException:  # a signal too must not leave half a file
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            _sync(path.parent)
            self._step("has flushed the folder of", name)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        with self._writing(name):
            self._step("removes", name)
            try:
                self.path(name).unlink()
            except FileNotFoundError:
                return
            self._step("has removed", name)
            _sync(self.path(name).parent)  # a commit must not come back after a power cut

    def size(self, name: str) -> int | None:
        """Return a file's size."""
        try:
            found = os.stat(f"{self.location}/{name}")  # a Path would take longer than the disk
        except OSError as error:
            if _passes(error):
                raise cannot_read(self.where(name), error) from error
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def sizes(self, folder: str) -> dict[str, int]:
        """Walk a folder; by strings, as a cache of a billion items has hundreds of thousands."""
        found = {}
        waiting = [str(self.path(folder))]
        skipped = len(str(self.root)) + 1
        while waiting:
            place = waiting.pop()
            with (
                self._reading(place[skipped:]),
                contextlib.suppress(*_NOT_OURS),
                os.scandir(place) as entries,
            ):
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    with contextlib.suppress(FileNotFoundError):  # gone since
                        status = entry.stat()
                        if stat.S_ISREG(status.st_mode):
                            found[entry.path[skipped:]] = status.st_size
        return found

    def sizes_of_many(self, folder: str) -> Callable[[str], int | None]:
        """Ask for each: every chunk has a folder of its own, which a walk would open."""
        del folder
        return self.size

    def create(self, name: str, data: bytes) -> bool:
        """Link a finished file into place: a link does not replace."""
        path = self.path(name)
        temporary = _temporary(path)
        with self._writing(name):
            _make_folder(path.parent)
            try:
                temporary.write_bytes(data)
                os.link(temporary, path)
                self._step("has created", name)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def seize(self, name: str, data: bytes, old: bytes) -> bool:
        """Rename the old file away, which one caller can do, then create."""
        path = self.path(name)
        taken = _temporary(path)
        with self._writing(name):
            try:
                if path.read_bytes() != old:
                    return False
                path.rename(taken)
            except FileNotFoundError:
                return False
            if taken.read_bytes() != old:  # somebody was faster and this is theirs: give it back
                with contextlib.suppress(FileExistsError):
                    os.link(taken, path)
                taken.unlink(missing_ok=True)
                return False
            taken.unlink(missing_ok=True)
        return self.create(name, data)

    def refresh(self, name: str, data: bytes, old: bytes) -> bool:
        """Rename over one's own file."""
        path = self.path(name)
        temporary = _temporary(path)
        with self._writing(name):
            try:
                temporary.write_bytes(data)
                # Only who was silent for two minutes can lose the file between these two lines,
                # and a holder asks again before each rename.
                if path.read_bytes() != old:
                    return False
                temporary.replace(path)
            except FileNotFoundError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Give the folder itself."""
        with self._writing(name):
            self.path(name).mkdir(parents=True, exist_ok=True)
            yield self.path(name)

    def free_bytes(self) -> int | None:
        """Ask the file system."""
        found = os.statvfs(_existing(self.root))
        return found.f_bavail * found.f_frsize

    def check_writable(self) -> None:
        """Try it, without leaving a folder behind where there was none."""
        place = _existing(self.root)
        if not (place.is_dir() and os.access(place, os.W_OK)):
            raise WorkspaceError(
                "the workspace cannot be written",
                where=str(place),
                fix="choose another --workspace, or get the right to write there",
            )
        if place == self.root:
            super().check_writable()

    def _step(self, step: str, name: str) -> None:
        """Called between the steps of the protocol; tests kill the process here."""

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except NotADirectoryError as error:
            raise FileNotFoundError(name) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cannot_read(self.where(name), error) from error

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except WorkspaceError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise cannot_write(self.where(name), reason, can_retry=_passes(error)) from error


def open_storage(location: str | Path) -> Storage:
    """Open the workspace at a path or URL (`s3://bucket/prefix`, and obstore's other schemes).

    Raises: WorkspaceError if the URL cannot be used.
    """
    if "://" in str(location):
        from cache.object_storage import ObjectStorage  # not needed for a folder

        return ObjectStorage(str(location))
    return LocalStorage(Path(location))


def cannot_read(where: str, error: OSError) -> WorkspaceError:
    """Return the error of a file that cannot be read."""
    return WorkspaceError(
        f"cannot be read: {error.strerror or error}",
        where=where,
        fix="mend the rights or the disk, then run the same command again",
        can_retry=_passes(error),
    )


def cannot_write(where: str, reason: str, *, can_retry: bool = False) -> WorkspaceError:
    """Return the error of a place that cannot be written."""
    return WorkspaceError(
        f"cannot write: {reason}",
        where=where,
        fix="free space or rights there, then run the same command again",
        can_retry=can_retry,
    )


def _passes(error: OSError) -> bool:
    """Say whether it may be gone by itself: a network file system that is out of reach."""
    return error.errno in _PASSING


def is_temporary(name: str) -> bool:
    """Say whether a name is one that a killed write leaves behind."""
    return _TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None


def is_being_written(name: str) -> bool:
    """Say whether the process that writes a temporary file lives, if it is here."""
    found = _TEMPORARY.fullmatch(name.rpartition("/")[2])
    return found is not None and Path(f"/proc/{found[1]}").exists()


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def _make_folder(folder: Path) -> None:
    """Make a folder that survives a power cut: its entry stands in the one above."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    # Without this a power cut may forget a rename although the file's bytes are safe.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
