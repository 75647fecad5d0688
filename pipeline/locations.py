"""Name catalogs by local path or by any URL that fsspec knows, find their files and open them.

The only importer of fsspec. A place is a string: an absolute local path, or a URL as it is.
"""

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from schemas.errors import CatalogError, PipelineError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LOCAL_URL = re.compile(r"^(?:file|local)://(?=/)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_url(place: str) -> bool:
    """Say whether a place is a URL; a file:// URL is one until `absolute` has seen it."""
    return _URL.match(place) is not None


def absolute(place: str | Path) -> str:
    """Return a local path as absolute and a URL as it is, without a slash at the end.

    file:// becomes the local path it stands for, so that links out of it are noticed. Links are
    kept: the hub's cache names blobs without suffix by links that have one.
    """
    text = _LOCAL_URL.sub("", str(place))
    if is_url(text):
        return text if text.endswith("://") else text.rstrip("/")
    return os.path.abspath(text)


def local_path(place: str | Path) -> Path:
    """Return where to write, which has to be local. Raises: CatalogError of a URL."""
    text = absolute(place)
    if is_url(text):
        raise CatalogError(
            "this is written to a local place only",
            where=text,
            fix="name a local --out, then copy it",
        )
    return Path(text)


def file_name(file: str) -> str:
    """Return a file's name in lower case, without the query of a signed URL."""
    place = file.split("::")[0]
    if place.lower().startswith("http"):
        place = re.split(r"[?#]", place)[0]
    return place.rpartition("/")[2].lower()


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn whatever a library raises on a broken file or network into one error.

    Any exception, because every file system and format brings its own (botocore's and aiohttp's
    are no OSError, tarfile's are of five kinds).
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        mend = "check the URL, the network and your rights, or copy the file to a local folder"
        raise CatalogError(
            f"cannot be read: {error or type(error).__name__}",
            where=place,
            fix=mend if is_url(place) else "write the file again, or check your rights",
        ) from error


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it.

    Raises: CatalogError if its package is not installed or it cannot be reached.
    """
    try:
        with reading(url):
            return url_to_fs(url)
    except CatalogError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        protocol = url.split("://")[0].lower()
        known = known_implementations.get(protocol, {"class": "fsspec"})
        package = known["class"].split(".")[0]
        if package == "fsspec":  # its own classes need packages that its extras name
            package = f'"fsspec[{"http" if protocol == "https" else protocol}]"'
        raise CatalogError(
            f"{protocol}:// needs a package that is not installed: {error.__cause__}",
            where=url,
            fix=f"pip install {package}",
        ) from error


def open_file(file: str) -> BinaryIO:
    """Open a file for reading; use inside `reading`."""
    if not is_url(file):
        return open(file, "rb")
    fs, path = filesystem(file)
    return fs.open(path, "rb")


def read_file(file: str, option: str) -> bytes:
    """Return a whole file, so that its hash is of just what was read.

    Args:
        file: a place.
        option: that names it, for the error.
    Raises: CatalogError if there is none or it cannot be read.
    """
    if not is_file(file):
        raise CatalogError("no such file", where=file, fix=f"name another with {option}")
    with reading(file), open_file(file) as opened:
        return opened.read()


def num_bytes(file: str) -> int:
    """Return the size of a file.

    Raises: FileNotFoundError if there is none; CatalogError if a server does not tell it.
    """
    if not is_url(file):
        return os.path.getsize(file)
    fs, path = filesystem(file)
    size = fs.info(path).get("size")
    if size is None:
        raise CatalogError(
            "the server does not tell the size of the file",
            where=file,
            fix="copy the file to a local folder or an object store",
        )
    return int(size)


def is_folder(place: str) -> bool:
    """Say whether there is such a folder; in an object store, something below it."""
    if not is_url(place):
        return os.path.isdir(place)
    fs, path = filesystem(place)
    with reading(place):
        return bool(fs.isdir(path))


def find_files(place: str, suffixes: Sequence[str]) -> tuple[list[str], str]:
    """Return the files that a place stands for, and the folder they are in.

    Args:
        place: a file; a folder, for its files with one of the suffixes; a glob; or a name with
            braces such as `{00000..00010}` or `{a,b}`.
        suffixes: of the files that count in a folder.
    Returns: the files sorted by name, those of braces as written; nothing if there are none.
    Raises: CatalogError if a file that braces name does not exist, or the place cannot be read.
    """
    is_literal = not is_url(place) and os.path.exists(place)
    if not is_literal and _BRACES.search(place):
        return _find_in_braces(place, suffixes), _parent(place, "{")
    # A question mark in a web address begins its query.
    magic = "*[" if place.lower().startswith("http") else "*?["
    if not is_literal and any(letter in place for letter in magic):
        return sorted(_glob(place)), _parent(place, magic)
    if not is_folder(place):
        return ([place] if is_file(place) else []), place.rpartition("/")[0]
    names = {file: file_name(file) for file in _children(place)}
    return sorted(
        file
        for file, name in names.items()
        if name.endswith(tuple(suffixes)) and not name.startswith(".")
    ), place


def _find_in_braces(place: str, suffixes: Sequence[str]) -> list[str]:
    found = {each: find_files(each, suffixes)[0] for each in expand_braces(place)}
    missing = [each for each, files in found.items() if not files]
    if missing:
        raise CatalogError(
            f"{len(missing)} of {len(found)} files do not exist: {', '.join(missing[:3])}",
            where=place,
            fix="correct the range in the braces, or bring these files",
        )
    return [file for files in found.values() for file in files]


def expand_braces(text: str) -> list[str]:
    """Return the names that braces stand for, as a shell does: {08..10} or {a,b}."""
    match = _BRACES.search(text)
    if match is None:
        return [text]
    span = _RANGE.fullmatch(match[1])
    if span:
        numbers = range(int(span[1]), int(span[2]) + 1)
        choices = [f"{number:0{len(span[1])}d}" for number in numbers]
    else:
        choices = match[1].split(",")
    before, after = text[: match.start()], text[match.end() :]
    return [each for choice in choices for each in expand_braces(before + choice + after)]


def _parent(place: str, magic: str) -> str:
    """Return the folder before the first special letter."""
    return re.split(f"[{re.escape(magic)}]", place)[0].rpartition("/")[0]


def _glob(pattern: str) -> list[str]:
    if not is_url(pattern):
        return [file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)]
    fs, path = filesystem(pattern)
    with reading(pattern):
        return _urls(pattern, fs, fs.glob(path, detail=True).values())


def _children(folder: str) -> list[str]:
    if not is_url(folder):
        return [entry.path for entry in os.scandir(folder) if entry.is_file()]
    fs, path = filesystem(folder)
    with reading(folder):
        return _urls(folder, fs, fs.ls(path, detail=True))


def _urls(place: str, fs: Any, entries: Any) -> list[str]:
    _, link, rest = place.partition("::")  # zip://*.parquet::s3://bucket/file.zip
    return [
        fs.unstrip_protocol(entry["name"]) + link + rest
        for entry in entries
        if entry["type"] == "file"
    ]


def is_file(place: str) -> bool:
    """Say whether there is such a file."""
    if not is_url(place):
        return os.path.isfile(place)
    fs, path = filesystem(place)
    with reading(place):
        try:
            return fs.info(path)["type"] == "file"
        except FileNotFoundError:
            return False
