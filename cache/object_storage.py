"""A workspace in an object store: S3 and what obstore knows besides (gs://, az://, memory://).

A put is atomic there, so a write is one put; leases are conditional puts. obstore retries
transient errors (5xx, dropped connections) with growing pauses. The only importer of obstore.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotFoundError,
    PreconditionError,
)
from obstore.store import from_url

from cache.storage import Buffer, Storage, cannot_write
from schemas.errors import WorkspaceError

_RETRY = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=20),
        "base": 2,
    },
}
# Some calls of obstore raise its own error, some the built-in one.
_ABSENT = (NotFoundError, FileNotFoundError)
_FIX = "check address, credentials and network, then run the same command again"


class ObjectStorage(Storage):
    """The objects below a URL."""

    def __init__(self, url: str) -> None:
        """Open a prefix; credentials and endpoint come from the environment (AWS_... for S3).

        Raises: WorkspaceError if the URL or the settings cannot be used.
        """
        self.location = url.rstrip("/")
        try:
            self._store = open_store(url)
        except (BaseError, ValueError, TypeError) as error:
            raise WorkspaceError(
                f"this address cannot be used: {_reason(error)}",
                where=self.location,
                fix="write it as s3://bucket/prefix, with AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and AWS_REGION set (AWS_ENDPOINT_URL for other S3 servers)",
            ) from error

    def read(self, name: str) -> bytes:
        """Get an object."""
        with self._reading(name):
            return bytes(obstore.get(self._store, name).bytes())

    def read_into(
        self, name: str, *parts: memoryview, each: Callable[[memoryview], None] | None = None
    ) -> int:
        """Get an object and copy it piece by piece."""
        with self._reading(name):
            found = memoryview(obstore.get(self._store, name).bytes())
        start = 0
        for part in parts:
            piece = found[start : start + len(part)]
            part[: len(piece)] = piece
            start += len(part)
            if each is not None:
                each(part)
        return len(found)

    def read_ranges(self, name: str, starts: list[int], num_bytes: int) -> list[bytes]:
        """Get pieces of an object; neighbors come in one request."""
        with self._reading(name):
            lengths = [num_bytes] * len(starts)
            pieces = obstore.get_ranges(self._store, name, starts=starts, lengths=lengths)
            return [bytes(piece) for piece in pieces]

    def write(self, name: str, *parts: Buffer, check: Callable[[], None] | None = None) -> None:
        """Put an object."""
        if check is not None:
            check()
        self._put(name, b"".join(parts))

    def remove(self, name: str) -> None:
        """Delete an object, if it is there."""
        try:
            obstore.delete(self._store, name)
        except _ABSENT:
            pass
        except BaseError as error:
            raise _cannot_write(self.where(name), error) from error

    def size(self, name: str) -> int | None:
        """Ask for an object's head."""
        try:
            with self._reading(name):
                return int(obstore.head(self._store, name)["size"])
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        """List the objects below a prefix."""
        with self._reading(folder):
            pages = obstore.list(self._store, folder or None)
            return {meta["path"]: meta["size"] for page in pages for meta in page}

    def create(self, name: str, data: bytes) -> bool:
        """Put, if there is none."""
        return self._put(name, data, mode="create")

    def seize(self, name: str, data: bytes, old: bytes) -> bool:
        """Put, if the object is still the one with that content."""
        try:
            found = obstore.get(self._store, name)
            content, tag = bytes(found.bytes()), found.meta.get("e_tag")
        except _ABSENT:
            return False
        except BaseError as error:
            raise _cannot_write(self.where(name), error) from error
        return content == old and self._put(name, data, mode={"e_tag": tag})

    def refresh(self, name: str, data: bytes, old: bytes) -> bool:
        """As seize: a put leaves no gap."""
        return self.seize(name, data, old)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Give a temporary folder and put its files when it is left, whatever happened."""
        with tempfile.TemporaryDirectory() as place:
            try:
                yield Path(place)
            finally:
                for path in sorted(Path(place).rglob("*")):
                    if path.is_file():
                        self.write(f"{name}/{path.relative_to(place)}", path.read_bytes())

    def _put(self, name: str, data: bytes, *, mode: Any = "overwrite") -> bool:
        """Put; with a condition, say whether it held."""
        try:
            obstore.put(self._store, name, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            # A retried put can be refused because its first try, whose answer got lost, made it.
            with contextlib.suppress(FileNotFoundError):
                return self.read(name) == data
            return False
        except BaseError as error:
            raise _cannot_write(self.where(name), error) from error
        return True

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except _ABSENT as error:
            raise FileNotFoundError(self.where(name)) from error
        except BaseError as error:
            raise WorkspaceError(
                f"cannot be read: {_reason(error)}",
                where=self.where(name),
                fix=_FIX,
                can_retry=_passes(error),
            ) from error


def open_store(place: str) -> Any:
    """Return obstore's own store of what is below a URL or a local path."""
    if "://" not in place:
        return from_url(Path(place).as_uri())
    options: dict[str, Any] = {} if place.startswith("memory://") else {"retry_config": _RETRY}
    return from_url(place, **options)


def _cannot_write(where: str, error: BaseError) -> WorkspaceError:
    return cannot_write(where, _reason(error), can_retry=_passes(error))


def _passes(error: BaseError) -> bool:
    """Say whether it may be gone by itself: no answer, or none that makes sense."""
    return isinstance(error, GenericError)


def _reason(error: Exception) -> str:
    """Return what obstore says without the debug dump that follows."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:300]
