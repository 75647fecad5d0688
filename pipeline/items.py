"""Read an items catalog: Parquet with image bytes or paths, CSV with paths, or WebDataset tars.

Columns: item_id, title, label_id, either `image` (encoded bytes) or `image_path`, and optionally
split. Local paths and fsspec URLs. Streams: one batch of rows in memory at a time, whatever the
catalog's size.
"""

import errno
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from pipeline import tables, webdataset
from pipeline.locations import (
    absolute,
    filesystem,
    find_files,
    is_folder,
    is_url,
    num_bytes,
    reading,
)
from pipeline.webdataset import MAX_PICTURE_BYTES, is_tar
from schemas.errors import CatalogError, SourceChangedError
from schemas.plan import ItemsSource, SourceFile

BATCH_BYTES = 64 << 20  # of pictures
_MAX_GAP_ROWS = 4096  # read over rather than opening the file again
_FOLDERS_KEPT = 65_536
_FOLDER_NAMES = ("", ".", "..")
_URL = r"^[a-z][a-z0-9+.-]*://"


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture file below the image root; may be sent to another process."""

    root: str
    """Folder or URL."""
    path: str
    """Of the file below the root; of a local file, with links resolved."""

    def read(self) -> bytes:
        """Return the content of the file.

        Raises: FileNotFoundError if there is none; OSError, with the reason in `strerror`, if it
            is no regular file, larger than 512 MB or cannot be read.
        """
        return self._read_url() if is_url(self.root) else self._read_local()

    def _read_local(self) -> bytes:
        def open_at_once(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NONBLOCK)  # else a FIFO waits for a writer

        path = os.path.join(self.root, self.path)
        with open(path, "rb", buffering=0, opener=open_at_once) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            if status.st_size > MAX_PICTURE_BYTES:
                raise _too_large(path)
            return handle.read()

    def _read_url(self) -> bytes:
        try:
            fs, root = filesystem(self.root)
            path = f"{root.rstrip('/')}/{self.path}"
            data: bytes = fs.cat_file(path, start=0, end=MAX_PICTURE_BYTES + 1)
        except FileNotFoundError:
            raise
        except Exception as error:  # every file system has its own
            reason = str(error) or type(error).__name__
            raise OSError(errno.EIO, reason, f"{self.root}/{self.path}") from error
        if len(data) > MAX_PICTURE_BYTES:
            raise _too_large(path)
        return data


def _too_large(path: str) -> OSError:
    return OSError(errno.EFBIG, f"larger than {MAX_PICTURE_BYTES >> 20} MB", path)


@dataclass(frozen=True, kw_only=True)
class RawItem:
    """One item as the catalog has it, before anything is decoded."""

    title: str | None
    """None where title_error says why."""
    title_error: str | None
    """Why there is no title."""
    image: bytes | PictureFile | None
    """Encoded picture or the file that holds it; None where image_error says why."""
    image_error: str | None
    """Why there is no picture."""


def find_items(
    path: str | Path, root: str | Path | None, *, is_labeled: bool = True
) -> ItemsSource:
    """Describe a catalog: its files with digests and where its pictures are.

    Args:
        path: a .parquet, .csv or .tar file, a folder of .parquet or of .tar files, a glob, or a
            name with braces; local or a URL.
        root: folder or URL of relative image paths; None for the folder of the items.
        is_labeled: as in `tables.column_names`.
    Raises: CatalogError if there is no such file, a column is missing or it cannot be read.
    """
    place = absolute(path)
    files, folder = find_files(place, (".parquet", *webdataset.SUFFIXES))
    if not files:
        raise CatalogError(
            "no items found: expected a .parquet, .csv or .tar file, or a folder of .parquet or "
            "of .tar files",
            where=place,
            fix="name another file or folder",
        )
    if len({is_tar(file) for file in files}) > 1:
        raise CatalogError(
            "some files are tars and some are tables",
            where=place,
            fix=f"name those that are meant, such as --items '{folder}/*.tar'",
        )
    has_bytes = {
        is_tar(file) or "image" in tables.column_names(file, is_labeled=is_labeled)
        for file in files
    }
    if len(has_bytes) > 1:
        raise CatalogError(
            "some files have the column `image` and some have not",
            where=place,
            fix="give all files the same columns",
        )
    root = _image_root(folder, root)
    has_image_bytes = has_bytes.pop()
    return ItemsSource(files=tuple(_describe(file, root, has_image_bytes) for file in files))


def _image_root(folder: str, root: str | Path | None) -> str:
    place = folder if root is None else absolute(root)
    if not is_url(place):
        place = os.path.realpath(place)
    # A web server lists no folders, so there is nothing to check.
    if root is not None and not place.lower().startswith("http") and not is_folder(place):
        raise CatalogError("no such folder", where=place, fix="correct --items-root")
    return place


def _describe(file: str, root: str, has_image_bytes: bool) -> SourceFile:
    num_rows, sha256 = (webdataset if is_tar(file) else tables).describe(file)
    with reading(file):
        return SourceFile(
            path=file,
            num_bytes=num_bytes(file),
            num_rows=num_rows,
            sha256=sha256,
            root=root,
            has_image_bytes=has_image_bytes,
        )


def check_unchanged(source: ItemsSource, numbers: Iterable[int] | None = None) -> None:
    """Refuse a catalog that is no longer the planned one.

    Args:
        source: the planned catalog.
        numbers: positions in source.files to check; None for all. A tar costs a walk over its
            headers, so a shard should name the files it reads.
    Raises: SourceChangedError naming the file and what differs; CatalogError if a file or the
        file system of the image root cannot be reached.
    """
    for number in range(len(source.files)) if numbers is None else numbers:
        file = source.files[number]
        if is_url(file.root):
            filesystem(file.root)
        problem = _change(file)
        if problem:
            raise SourceChangedError(
                problem,
                where=file.path,
                fix="restore the file, or run `python cli.py plan ... --force` to plan the new one",
            )


class CatalogWatch:
    """Makes sure that catalog files are the planned ones; reads them again only if touched."""

    def __init__(self, source: ItemsSource) -> None:
        """Watch a planned catalog."""
        self.source = source
        """May be another one with more files."""
        self._stamps: dict[int, tuple[int, int, int] | None] = {}

    def check(self, numbers: Iterable[int]) -> None:
        """Check files, by position, that are new to the watch or were written since the last time.

        A file at a URL is checked the first time only.
        Raises: as `check_unchanged`.
        """
        for number in numbers:
            stamp = _stamp(self.source.files[number].path)
            if number not in self._stamps or self._stamps[number] != stamp:
                check_unchanged(self.source, [number])
                self._stamps[number] = stamp


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Return what the file system changes with a local file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _change(file: SourceFile) -> str | None:
    with reading(file.path):
        try:
            size = num_bytes(file.path)
        except FileNotFoundError:
            return "items file is gone"
    if size != file.num_bytes:
        return f"items file has {size} bytes, planned were {file.num_bytes}"
    sha256 = webdataset.describe(file.path)[1] if is_tar(file.path) else tables.digest(file.path)
    return None if sha256 == file.sha256 else "items file has other content than planned"


def scan(source: ItemsSource, *, is_labeled: bool = True) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield every file's number and rows without pictures, in plan order, for planning.

    Columns item_id, label_id, split (null where there is none) and image_path (where pictures are
    files) come as strings, title as bytes, because it may not be UTF-8. Of items that are not
    labeled, those that are there.
    Raises: CatalogError on ids that are not UTF-8, image URLs or broken files.
    """
    for number, file in enumerate(source.files):
        for batch in _scanned(file, is_labeled=is_labeled):
            columns = {
                name: tables.as_binary(batch[name])
                if name == "title"
                else _as_string(batch, name, file.path)
                for name in batch.schema.names
            }
            if "image_path" in columns:
                _refuse_urls(columns["image_path"], file.path, file.root)
            if "split" in columns:  # a blank cell of a CSV
                split = columns["split"]
                columns["split"] = pc.if_else(pc.equal(split, ""), None, split)
            else:
                columns["split"] = pa.nulls(len(batch), pa.string())
            yield number, pa.RecordBatch.from_pydict(columns)


def _scanned(file: SourceFile, *, is_labeled: bool) -> Iterator[pa.RecordBatch]:
    if is_tar(file.path):
        return webdataset.batches(file.path, is_labeled=is_labeled)
    wanted = [*tables.REQUIRED_COLUMNS, "split"]
    if not file.has_image_bytes:
        wanted.append("image_path")
    found = tables.column_names(file.path, is_labeled=is_labeled)
    return tables.batches(file.path, [name for name in wanted if name in found])


def _as_string(batch: pa.RecordBatch, name: str, file: str) -> pa.Array:
    try:
        strings = batch[name].cast(pa.string())
        strings.validate(full=True)
    except pa.ArrowException as error:
        raise CatalogError(
            f"column {name} is not text: {error}",
            where=file,
            fix=f"write {name} as UTF-8 text or integers",
        ) from error
    return strings


def _refuse_urls(image_paths: pa.Array, file: str, root: str) -> None:
    are_urls = pc.match_substring_regex(image_paths, _URL, ignore_case=True)
    if is_url(root) and not root.lower().startswith("http"):
        are_below = pc.starts_with(image_paths, f"{root}/")
        are_urls = pc.and_not(are_urls, are_below)
    urls = image_paths.filter(are_urls)
    if len(urls):
        raise CatalogError(
            f"{len(urls)} image paths are URLs, the first {urls[0].as_py()!r}",
            where=f"{file} column image_path",
            fix="download the pictures first (img2dataset does it well), then give their paths",
        )


def named_items(source: ItemsSource) -> Iterator[tuple[str | None, RawItem]]:
    """Yield the ids and items of a catalog that need not be labeled, in order, a few at a time.

    Raises: CatalogError as `scan` and `read_rows`.
    """
    ids = (
        item_id
        for _, batch in scan(source, is_labeled=False)
        for item_id in batch["item_id"].to_pylist()
    )
    for number, file in enumerate(source.files):
        for batch in read_rows(source, number, 0, file.num_rows):
            for item in batch:
                yield next(ids), item


def read_places(
    source: ItemsSource, files: Int[np.ndarray, " n"], rows: Int[np.ndarray, " n"]
) -> Iterator[RawItem]:
    """Yield items from anywhere in a catalog, in the order asked for.

    Reads stretches of rising rows of a file in one go, and over small gaps.

    Args:
        source: the planned catalog.
        files: positions in source.files.
        rows: within these files.
    Raises: CatalogError if a file is broken.
    """
    step = np.diff(rows)
    is_border = (np.diff(files) != 0) | (step <= 0) | (step > _MAX_GAP_ROWS)
    borders = [0, *(np.flatnonzero(is_border) + 1).tolist(), len(rows)]
    for start, stop in itertools.pairwise(borders):
        if start == stop:
            continue
        first, last = int(rows[start]), int(rows[stop - 1])
        is_wanted = np.zeros(last + 1 - first, bool)
        is_wanted[rows[start:stop] - first] = True
        yield from _read(source.files[int(files[start])], first, last + 1, is_wanted)


def read_rows(
    source: ItemsSource, source_file: int, start: int, stop: int
) -> Iterator[list[RawItem]]:
    """Yield rows start..stop of one catalog file as items, in order, in small batches.

    Args:
        source: the planned catalog.
        source_file: position in source.files.
        start: first row within the file.
        stop: the row after the last.
    Raises: CatalogError if the file is broken.
    """
    is_wanted = np.ones(max(stop - start, 0), bool)
    batch: list[RawItem] = []
    size = 0
    for item in _read(source.files[source_file], start, stop, is_wanted):
        batch.append(item)
        size += len(item.image) if isinstance(item.image, bytes) else 0
        if len(batch) == tables.READ_ROWS or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read(
    file: SourceFile, start: int, stop: int, is_wanted: Bool[np.ndarray, " R"]
) -> Iterator[RawItem]:
    """Yield the wanted ones among rows start..stop of a file."""
    if is_tar(file.path):
        samples = webdataset.rows(file.path, start, stop)
        for sample in itertools.compress(samples, is_wanted):
            yield _raw_item(sample.title, sample.title_error, sample.image, sample.image_error)
        return
    parts = tables.rows(file.path, start, stop, has_image_bytes=file.has_image_bytes)
    found = itertools.chain.from_iterable(parts)
    place = _Below(file.root)
    for title, image, path in itertools.compress(found, is_wanted):
        yield _raw_item(title, None, *_picture(image, path, place))


def _raw_item(
    title: bytes | None,
    title_error: str | None,
    image: bytes | PictureFile | None,
    image_error: str | None,
) -> RawItem:
    text = None
    if title is None:
        title_error = title_error or "null"
    else:
        try:
            text = title.decode("utf-8")
        except UnicodeDecodeError as error:
            title_error = f"not UTF-8 at byte {error.start}"
    return RawItem(title=text, title_error=title_error, image=image, image_error=image_error)


def _picture(
    image: bytes | None, path: bytes | None, place: "_Below"
) -> tuple[bytes | PictureFile | None, str | None]:
    """Return an item's picture, or why there is none; the bytes come before the path."""
    given = path if image is None else image
    if not given:
        return None, "null" if given is None else "empty"
    return (given, None) if image is not None else place.file(given)


class _Below:
    """Confines names to an image root."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._prefix = os.path.join(root, "")
        # Resolving a whole path takes 60 us, and most pictures share a few folders.
        self._resolved = lru_cache(_FOLDERS_KEPT)(_resolved)

    def file(self, name: bytes) -> tuple[PictureFile | None, str | None]:
        """Return a file below the root, or why there is none."""
        try:
            text = name.decode("utf-8")
            root = self._root
            found = _below_url(text, root) if is_url(root) else self._below_folder(text)
        except (ValueError, OSError) as error:
            return None, f"path cannot be used: {error}"
        if found is None:
            return None, "path leaves the image root"
        return PictureFile(self._root, found), None

    def _below_folder(self, name: str) -> str | None:
        """Return the resolved path below the root, or None if it is not there."""
        if is_url(name):
            return None
        path = os.path.join(self._root, name)
        folder, last = os.path.split(path)
        if last in _FOLDER_NAMES or not _is_there_and_no_link(path):
            real = _resolved(path)
        else:
            real = os.path.join(self._resolved(folder), last)
        is_below = f"{real}/".startswith(self._prefix)
        return real[len(self._prefix) :] or "." if is_below else None


def _is_there_and_no_link(path: str) -> bool:
    try:
        return not stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def _resolved(path: str) -> str:
    """Return a path without links. Raises: OSError in a circle of links."""
    real = os.path.realpath(path)
    # In a circle realpath leaves what follows unresolved, links out of the root too.
    if os.path.realpath(real) != real:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return real


def _below_url(name: str, root: str) -> str | None:
    """Return the path below the root, or None if it might not be there."""
    path = name.removeprefix(f"{root}/")
    parts = re.split(r"[/\\]", unquote(path))  # a web server sees %2e%2e as ..
    if is_url(path) or "::" in path or not parts[0] or ".." in parts:
        return None
    return path
