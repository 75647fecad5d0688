"""Read catalogs that are WebDataset tar shards, without extracting them.

Members with the same name up to the first dot of the last component, one after the other, are one
sample: a picture, a title (.txt or .json) and a label (.json or .cls). Planning reads headers and
texts and seeks over the pictures of a local tar; a .tar.gz has to be decompressed for that. One
sample in memory at a time.
"""

import contextlib
import gzip
import hashlib
import itertools
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipeline.locations import file_name, open_file, reading
from schemas.errors import CatalogError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")  # the first found is taken
TITLES = ("title", "caption", "text")
MAX_PICTURE_BYTES = 512 << 20
MAX_TEXT_BYTES = 16 << 20
_SCAN_ROWS = 8192

_Member = tuple[str, str, tarfile.TarInfo]  # key of the sample, extension, header


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One item of a tar; text is as it stands there, UTF-8 or not."""

    item_id: bytes
    label_id: bytes | None
    split: bytes | None
    title: bytes | None
    title_error: str | None
    image: bytes | None
    image_error: str | None


class _Bounded:
    """A file that refuses reads larger than a picture may be.

    tarfile reads extended headers in one piece, and a few kB of gzip can claim gigabytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_PICTURE_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def is_tar(file: str) -> bool:
    """Say whether a file is a tar by its name."""
    return file_name(file).endswith(SUFFIXES)


def describe(file: str) -> tuple[int, str]:
    """Return the number of samples and a sha256 over the names, sizes and offsets of all members.

    A rewrite changes these nearly always. What the hash cannot see is a member overwritten in
    place by another of the same size.

    Raises: CatalogError if the tar is truncated or damaged.
    """
    sha256 = hashlib.sha256()
    with _open(file) as tar:
        samples = itertools.groupby(_members(tar, file, sha256), key=lambda member: member[0])
        return sum(1 for _ in samples), sha256.hexdigest()


def batches(file: str, *, is_labeled: bool = True) -> Iterator[pa.RecordBatch]:
    """Yield item_id, label_id, title and split of all samples as bytes, without their pictures.

    Raises: CatalogError if the tar is damaged, or samples have no label or metadata that cannot
        be used.
    """
    names = ("item_id", "label_id", "title", "split")
    unlabeled: list[str] = []
    samples = _samples(file, 0, None, with_pictures=False)
    while part := list(itertools.islice(samples, _SCAN_ROWS)):
        if is_labeled:
            unlabeled += [repr(sample.item_id)[1:] for sample in part if sample.label_id is None]
        columns = {
            name: pa.array([getattr(sample, name) for sample in part], pa.large_binary())
            for name in names
        }
        yield pa.RecordBatch.from_pydict(columns)
    if unlabeled:
        raise CatalogError(
            f"{len(unlabeled)} samples have no label_id: {', '.join(unlabeled[:3])}",
            where=file,
            fix="give each a .cls, or label_id in its .json; the members of a sample share their "
            "name up to the first dot and follow one another (tar --sort=name)",
        )


def rows(file: str, start: int, stop: int) -> Iterator[Sample]:
    """Yield samples start..stop with their pictures, in order."""
    return _samples(file, start, stop, with_pictures=True)


@contextlib.contextmanager
def _open(file: str) -> Iterator[tarfile.TarFile]:
    with reading(file), open_file(file) as handle, contextlib.ExitStack() as stack:
        data = handle
        if not file_name(file).endswith(".tar"):
            data = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=handle)))
        # Mode "r:" and UTF-8 are named: the defaults follow the content and the locale.
        with tarfile.open(fileobj=cast(Any, _Bounded(data)), mode="r:", encoding="utf-8") as tar:
            yield tar


def _members(
    tar: tarfile.TarFile, file: str, sha256: "hashlib._Hash | None" = None
) -> Iterator[_Member]:
    """Yield the members that belong to samples, then check that the archive ends as it should."""
    while (member := tar.next()) is not None:
        cast(Any, tar).members.clear()  # tarfile keeps every header: 1 GB at a million
        if sha256 is not None:
            sha256.update(repr((member.name, member.size, member.offset)).encode())
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        stem, dot, extension = name.partition(".")
        # A name that begins with a dot is macOS's or an editor's.
        if member.isreg() and stem and dot and "PaxHeaders" not in folder:
            yield f"{folder}{slash}{stem}", extension.lower(), member
    # tarfile takes a truncated or damaged header for the end; the real one is zeros only.
    data, end = cast(Any, tar).fileobj, cast(Any, tar).offset
    if data.tell() - end != tarfile.BLOCKSIZE or any(data.read(2 * tarfile.RECORDSIZE)):
        raise CatalogError(
            f"truncated or damaged: no end-of-archive mark at byte {end}",
            where=file,
            fix="copy or write the tar again",
        )


def _samples(file: str, start: int, stop: int | None, *, with_pictures: bool) -> Iterator[Sample]:
    with _open(file) as tar:
        groups = itertools.groupby(_members(tar, file), key=lambda member: member[0])
        for key, members in itertools.islice(groups, start, stop):
            yield _sample(file, tar, key, members, with_pictures=with_pictures)


def _sample(
    file: str, tar: tarfile.TarFile, key: str, members: Iterator[_Member], *, with_pictures: bool
) -> Sample:
    """Read a sample's members as they come: going back is costly where data is compressed."""
    texts: dict[str, bytes] = {}
    image: bytes | None = None
    image_error: str | None = "no picture"
    picture = len(PICTURES)  # rank of the best one so far
    title, title_error = None, None
    seen: set[str] = set()
    for _, extension, member in members:
        if extension in seen:
            raise _bad(file, member.name, "occurs twice in its sample")
        seen.add(extension)
        if extension in PICTURES[:picture]:
            picture = PICTURES.index(extension)
            image, image_error = None, None if member.size else "empty"
            if member.size > MAX_PICTURE_BYTES:
                image_error = f"larger than {MAX_PICTURE_BYTES >> 20} MB"
            elif with_pictures and member.size:
                image = _content(tar, member)
        elif extension in ("txt", "json", "cls"):
            if member.size <= MAX_TEXT_BYTES:
                texts[extension] = _content(tar, member)
            elif extension == "txt":
                title_error = f"larger than {MAX_TEXT_BYTES >> 20} MB"
            else:
                raise _bad(file, member.name, f"is larger than {MAX_TEXT_BYTES >> 20} MB")
    where = f"{key}.json"
    fields = _fields(file, where, texts["json"]) if "json" in texts else {}
    if "txt" in texts:
        title = texts["txt"].rstrip(b"\r\n")
    elif title_error is None:
        found = next((fields[name] for name in TITLES if fields.get(name) is not None), None)
        if isinstance(found, str):
            title = _encoded(found)
        elif found is not None:
            title_error = "not text"
    ids = {name: _id(file, where, name, fields) for name in ("item_id", "label_id", "label")}
    label_id = ids["label"] if ids["label_id"] is None else ids["label_id"]
    if label_id is None and "cls" in texts:
        label_id = texts["cls"].strip()
    return Sample(
        item_id=_encoded(key) if ids["item_id"] is None else ids["item_id"],
        label_id=label_id,
        split=_id(file, where, "split", fields),
        title=title,
        title_error=title_error,
        image=image,
        image_error=image_error,
    )


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with cast(BinaryIO, tar.extractfile(member)) as data:
        return data.read(member.size)


def _fields(file: str, name: str, data: bytes) -> dict[str, Any]:
    try:
        # A title that is not UTF-8 is this title's fault, not the whole JSON's.
        fields = json.loads(data.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise _bad(file, name, f"is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _bad(file, name, "is not a JSON object")
    return fields


def _id(file: str, where: str, name: str, fields: dict[str, Any]) -> bytes | None:
    value = fields.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise _bad(file, where, f"has {name} = {value!r}, expected text or a whole number")
    return None if value is None else _encoded(str(value))


def _encoded(text: str) -> bytes:
    """Encode what may hold lone surrogates, so that it is found not to be UTF-8 later."""
    return text.encode("utf-8", "surrogatepass")


def _bad(file: str, name: str, problem: str) -> CatalogError:
    return CatalogError(
        f"member {name!r} {problem}", where=file, fix="correct this member and write the tar again"
    )
