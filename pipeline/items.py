"""Read an items catalog: Parquet with image bytes or paths, or CSV with image paths.

Columns: item_id, title, label_id, either `image` (encoded bytes) or `image_path`, and optionally
split. Streams: one batch of rows in memory at a time, whatever the catalog's size.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from schemas.errors import CatalogError, SourceChangedError
from schemas.plan import ItemsSource, SourceFile

REQUIRED_COLUMNS = ("item_id", "title", "label_id")
BATCH_ROWS = 1024
_TRAILER_BYTES = 8  # a Parquet file ends with its footer's length and the letters PAR1
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RawItem:
    """One item as the catalog has it, before anything is decoded."""

    title: str | None
    """None where title_error says why."""
    title_error: str | None
    """Why there is no title."""
    image: bytes | Path | None
    """Encoded picture or the file that holds it; None where image_error says why."""
    image_error: str | None
    """Why there is no picture."""


def find_items(path: Path, root: Path | None) -> ItemsSource:
    """Describe a catalog: its files with digests and where its pictures are.

    Args:
        path: a .parquet or .csv file, or a folder of .parquet files.
        root: folder of relative image paths; None for the folder of the items.
    Raises: CatalogError if there is no such file, a column is missing or it cannot be read.
    """
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise CatalogError(
            "no items found: expected a .parquet or .csv file, or a folder of .parquet files",
            where=str(path),
            fix="pass the catalog with --items",
        )
    if root is not None and not root.is_dir():
        raise CatalogError("no such folder", where=str(root), fix="correct --items-root")
    columns = [_columns(file) for file in files]
    for file, names in zip(files, columns, strict=True):
        _check_columns(file, names)
    has_bytes = {"image" in names for names in columns}
    if len(has_bytes) > 1:
        raise CatalogError(
            "some files have the column `image` and some have not",
            where=str(path),
            fix="give all files the same columns",
        )
    folder = path if path.is_dir() else path.parent
    return ItemsSource(
        files=tuple(_describe(file) for file in files),
        root=str((root or folder).resolve()),
        has_image_bytes=has_bytes.pop(),
    )


def _columns(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        with _reading(file):
            schema = pq.read_schema(file)
        _check_types(file, schema)
        return list(schema.names)
    if file.suffix == ".csv":
        with _reading(file), pa.csv.open_csv(file) as reader:
            return list(reader.schema.names)
    raise CatalogError(
        f"unknown file type {file.suffix!r}, expected .parquet or .csv",
        where=str(file),
        fix="convert it, or rename it if it is one of these",
    )


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn whatever Arrow raises on a broken file into one error (a bad page is an OSError)."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(
            f"cannot be read: {error}", where=str(file), fix="write the file again"
        ) from error


def _check_types(file: Path, schema: pa.Schema) -> None:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binaries = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    allowed = {
        "title": (*texts, *binaries, pa.types.is_null),
        "image": (*binaries, pa.types.is_null),
        "image_path": (*texts, *binaries, pa.types.is_null),
    }
    for name, checks in allowed.items():
        if name in schema.names and not any(check(schema.field(name).type) for check in checks):
            wanted = "the encoded bytes" if name == "image" else "text"
            raise CatalogError(
                f"column {name} has the type {schema.field(name).type}, expected {wanted}",
                where=str(file),
                fix=f"write {wanted} in a plain column; for a struct of bytes and path, its bytes",
            )


def _check_columns(file: Path, names: Sequence[str]) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if "image" not in names and "image_path" not in names:
        missing.append("image_path (or image, with the encoded bytes)")
    if missing:
        raise CatalogError(
            f"missing columns: {', '.join(missing)}; found: {', '.join(names)}",
            where=str(file),
            fix="rename or add the columns; see the README, section `plan`",
        )
    if "image" in names and file.suffix == ".csv":
        raise CatalogError(
            "column `image` holds bytes, which a CSV cannot",
            where=str(file),
            fix="name the picture files in a column `image_path`",
        )


def _describe(file: Path) -> SourceFile:
    if file.suffix == ".parquet":
        num_rows = pq.read_metadata(file).num_rows
    else:
        num_rows = sum(len(batch) for batch in _csv_batches(file, ["item_id"]))
    return SourceFile(
        path=str(file.resolve()),
        num_bytes=file.stat().st_size,
        num_rows=num_rows,
        sha256=_file_sha256(file),
    )


def _file_sha256(file: Path) -> str:
    """Hash what a rewrite of the file would change: all of a CSV, the footer of a Parquet file."""
    with file.open("rb") as handle:
        if file.suffix != ".parquet":
            return hashlib.file_digest(handle, "sha256").hexdigest()
        handle.seek(-_TRAILER_BYTES, 2)
        footer_bytes = int.from_bytes(handle.read(4), "little")
        handle.seek(-_TRAILER_BYTES - footer_bytes, 2)
        return hashlib.sha256(handle.read()).hexdigest()


def check_unchanged(source: ItemsSource) -> None:
    """Refuse a catalog that is no longer the planned one.

    Raises: SourceChangedError naming the file and what differs.
    """
    for file in source.files:
        path = Path(file.path)
        if not path.is_file():
            problem = "items file is gone"
        elif path.stat().st_size != file.num_bytes:
            problem = f"items file has {path.stat().st_size} bytes, planned were {file.num_bytes}"
        elif _file_sha256(path) != file.sha256:
            problem = "items file has other content than planned"
        else:
            continue
        raise SourceChangedError(
            problem,
            where=file.path,
            fix="restore the file, or run `python cli.py plan ... --force` to plan the new one",
        )


def scan(source: ItemsSource) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield every file's number and rows without pictures, in plan order, for planning.

    Columns item_id, label_id, split and image_path come as strings (the last two where present),
    title as bytes, because it may not be UTF-8.
    Raises: CatalogError on ids that are not UTF-8, image URLs or broken files.
    """
    for number, file in enumerate(source.files):
        path = Path(file.path)
        wanted = [*REQUIRED_COLUMNS, "split"] + ([] if source.has_image_bytes else ["image_path"])
        names = [name for name in wanted if name in _columns(path)]
        for batch in _batches(path, names):
            columns = {
                name: _as_binary(batch[name]) if name == "title" else _as_string(batch, name, path)
                for name in names
            }
            if "image_path" in columns:
                _refuse_urls(columns["image_path"], path)
            if "split" in columns:  # a blank cell of a CSV
                split = columns["split"]
                columns["split"] = pc.if_else(pc.equal(split, ""), None, split)
            yield number, pa.RecordBatch.from_pydict(columns)


def _batches(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with _reading(path), pq.ParquetFile(path) as file:
            yield from file.iter_batches(65536, columns=names)
    else:
        yield from _csv_batches(path, names)


def _csv_batches(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    # As binary: Arrow would stop the whole file at the first byte that is not UTF-8.
    options = pa.csv.ConvertOptions(
        include_columns=names, column_types={name: pa.binary() for name in names}
    )
    parsing = pa.csv.ParseOptions(newlines_in_values=True)
    with (
        _reading(path),
        pa.csv.open_csv(path, convert_options=options, parse_options=parsing) as reader,
    ):
        yield from reader


def _as_binary(column: pa.Array) -> pa.Array:
    return column if pa.types.is_binary(column.type) else column.cast(pa.binary())


def _as_string(batch: pa.RecordBatch, name: str, path: Path) -> pa.Array:
    try:
        strings = batch[name].cast(pa.string())
        strings.validate(full=True)
    except pa.ArrowException as error:
        raise CatalogError(
            f"column {name} is not text: {error}",
            where=str(path),
            fix=f"write {name} as UTF-8 text or integers",
        ) from error
    return strings


def _refuse_urls(image_paths: pa.Array, path: Path) -> None:
    urls = image_paths.filter(pc.match_substring_regex(image_paths, _URL.pattern, ignore_case=True))
    if len(urls):
        raise CatalogError(
            f"{len(urls)} image paths are URLs, the first {urls[0].as_py()!r}",
            where=f"{path} column image_path",
            fix="download the pictures first (img2dataset does it well), then give their paths",
        )


def read_rows(
    source: ItemsSource, source_file: int, start: int, stop: int
) -> Iterator[list[RawItem]]:
    """Yield rows start..stop of one catalog file as items, in order, in small batches.

    Args:
        source: the planned catalog.
        source_file: position in source.files.
        start: first row within the file.
        stop: the row after the last.
    """
    path = Path(source.files[source_file].path)
    picture = "image" if source.has_image_bytes else "image_path"
    root = Path(source.root)
    for batch in _row_range(path, ["title", picture], start, stop):
        titles = _as_binary(batch["title"]).to_pylist()
        pictures = _as_binary(batch[picture]).to_pylist()
        yield [
            _raw_item(title, image, root, has_bytes=source.has_image_bytes)
            for title, image in zip(titles, pictures, strict=True)
        ]


def _row_range(path: Path, names: list[str], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with _reading(path), pq.ParquetFile(path) as file:
            first = 0  # first row of the row group
            groups = []
            for group in range(file.num_row_groups):
                after = first + file.metadata.row_group(group).num_rows
                if first < stop and after > start:
                    groups.append(group)
                if after <= start:
                    skipped = after
                first = after
            offset = skipped if groups and groups[0] > 0 else 0
            batches = file.iter_batches(BATCH_ROWS, row_groups=groups, columns=names)
            yield from _cut(batches, offset, start, stop)
    else:
        yield from _cut(_csv_batches(path, names), 0, start, stop)


def _cut(
    batches: Iterator[pa.RecordBatch], offset: int, start: int, stop: int
) -> Iterator[pa.RecordBatch]:
    """Yield the parts of the batches, the first of which begins at row `offset`, in the range."""
    for batch in batches:
        begin, end = max(start - offset, 0), min(stop - offset, len(batch))
        for part in range(begin, end, BATCH_ROWS):
            yield batch.slice(part, min(BATCH_ROWS, end - part))
        offset += len(batch)
        if offset >= stop:
            return


def _raw_item(title: bytes | None, image: bytes | None, root: Path, *, has_bytes: bool) -> RawItem:
    text, title_error = None, None
    if title is None:
        title_error = "null"
    else:
        try:
            text = title.decode("utf-8")
        except UnicodeDecodeError as error:
            title_error = f"not UTF-8 at byte {error.start}"
    found: bytes | Path | None = image
    image_error = None
    if not image:
        found, image_error = None, "null" if image is None else "empty"
    elif not has_bytes:
        found, image_error = _confined(image, root)
    return RawItem(title=text, title_error=title_error, image=found, image_error=image_error)


def _confined(name: bytes, root: Path) -> tuple[Path | None, str | None]:
    try:
        path = (root / name.decode("utf-8")).resolve()
    except (UnicodeDecodeError, ValueError, OSError) as error:
        return None, f"path cannot be used: {error}"
    if not path.is_relative_to(root):
        return None, "path leaves the image root"
    return path, None
