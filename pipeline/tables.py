"""Read catalogs that are tables: Parquet with encoded pictures or paths, CSV with paths.

Streams: a row group's columns (Parquet) or a block of text (CSV) in memory at a time.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.locations import file_name, is_url, open_file, reading
from schemas.errors import CatalogError

REQUIRED_COLUMNS = ("item_id", "title", "label_id")
SCAN_ROWS = 8192  # titles of 100 kB are 800 MB
READ_ROWS = 256  # pictures of 1 MB are 256 MB
_BLOCK_BYTES = 1 << 24  # of a CSV; no row may be longer
_TRAILER_BYTES = 8  # a Parquet file ends with its footer's length and the letters PAR1

TitleAndPicture = tuple[bytes | None, bytes | None, bytes | None]
"""Title, encoded picture, path of the picture."""


def is_parquet(file: str) -> bool:
    """Say whether a file is Parquet by its name."""
    return file_name(file).endswith(".parquet")


def column_names(file: str, *, is_labeled: bool = True) -> list[str]:
    """Return the columns of a table, after checking that it has what a catalog needs.

    Args:
        file: of the table.
        is_labeled: items to train on, with title, picture and label; else an id and one of the
            first two will do.
    Raises: CatalogError on an unknown or unreadable file, missing columns or wrong types.
    """
    if is_parquet(file):
        with reading(file), _open(file) as handle:
            schema = pq.read_schema(handle)
        _check_types(file, schema)
    elif file_name(file).endswith(".csv"):
        with reading(file), _open_csv(file) as reader:
            schema = reader.schema
    else:
        raise CatalogError(
            f"unknown file type {file_name(file)!r}, expected .parquet, .csv or .tar",
            where=file,
            fix="convert it, or rename it if it is one of these",
        )
    with reading(file):  # a CSV's header may not be UTF-8
        names = list(schema.names)
    _check_columns(file, names, is_labeled=is_labeled)
    return names


@contextlib.contextmanager
def _open(file: str) -> Iterator[pa.NativeFile]:
    source = pa.PythonFile(open_file(file), "r") if is_url(file) else pa.OSFile(file)
    with source:
        yield source


def _check_types(file: str, schema: pa.Schema) -> None:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binaries = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    for field in schema:
        if field.name == "image":
            wanted, types = "the encoded bytes, or a struct of bytes and path", [*binaries]
        elif field.name in ("title", "image_path"):
            wanted, types = "text", [*texts, *binaries]
        else:
            continue
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        is_struct = field.name == "image" and pa.types.is_struct(kind)
        if is_struct and {"bytes", "path"} <= {part.name for part in kind}:
            parts = [(kind.field("bytes").type, binaries), (kind.field("path").type, texts)]
        else:
            parts = [(kind, tuple(types))]
        for part, checks in parts:
            if not any(check(part) for check in (*checks, pa.types.is_null)):
                raise CatalogError(
                    f"column {field.name} has the type {field.type}, expected {wanted}",
                    where=file,
                    fix=f"write {wanted} into the column {field.name}",
                )


def _check_columns(file: str, names: Sequence[str], *, is_labeled: bool) -> None:
    required = REQUIRED_COLUMNS if is_labeled else ("item_id",)
    missing = [name for name in required if name not in names]
    if "image" not in names and "image_path" not in names:
        if is_labeled:
            missing.append("image_path (or image, with the encoded bytes)")
        elif "title" not in names:
            missing.append("title, image_path or image (with the encoded bytes)")
    if missing:
        raise CatalogError(
            f"missing columns: {', '.join(missing)}; found: {', '.join(names)}",
            where=file,
            fix="rename or add the columns; see the README, section `plan`",
        )
    used = (*REQUIRED_COLUMNS, "image", "image_path", "split")
    repeated = [name for name in used if names.count(name) > 1]
    if repeated:
        raise CatalogError(
            f"columns that occur more than once: {', '.join(repeated)}",
            where=file,
            fix="rename or drop all but one of each",
        )
    if "image" in names and not is_parquet(file):
        raise CatalogError(
            "column `image` holds bytes, which a CSV cannot",
            where=file,
            fix="name the picture files in a column `image_path`",
        )


def describe(file: str) -> tuple[int, str]:
    """Return the number of rows and the digest of a table.

    Raises: CatalogError if it cannot be read; of a CSV every row is looked at.
    """
    if not is_parquet(file):
        return _count_csv(file), digest(file)
    with reading(file), _open(file) as handle:
        return pq.read_metadata(handle).num_rows, digest(file)


def _count_csv(file: str) -> int:
    last_column = column_names(file, is_labeled=False)[-1]
    num_rows, last_value = 0, b""
    for batch in batches(file, [last_column]):
        num_rows += len(batch)
        last_value = batch[last_column][-1].as_py() if len(batch) else last_value
    # Arrow takes a quote that is never closed for a value that ends with the file.
    if b"\n" in last_value:
        with reading(file), open_file(file) as handle:
            handle.seek(-len(last_value), 2)
            if not handle.read().rstrip(b"\r\n").endswith(b'"'):
                raise CatalogError(
                    f"a quote in row {num_rows} is not closed: it swallows the rest of the file",
                    where=file,
                    fix="close the quote, or double it if it is part of the value",
                )
    return num_rows


def digest(file: str) -> str:
    """Hash what a rewrite of the file would change: all of a CSV, the footer of a Parquet file."""
    with reading(file), open_file(file) as handle:
        if is_parquet(file):
            handle.seek(-_TRAILER_BYTES, 2)
            footer_bytes = int.from_bytes(handle.read(4), "little")
            handle.seek(-_TRAILER_BYTES - footer_bytes, 2)
        sha256 = hashlib.sha256()
        while part := handle.read(1 << 20):
            sha256.update(part)
        return sha256.hexdigest()


def batches(file: str, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table in order.

    Raises: CatalogError on a broken page or, with its number, a row of another width.
    """
    if is_parquet(file):
        with reading(file), _open(file) as handle, pq.ParquetFile(handle) as table:
            yield from table.iter_batches(SCAN_ROWS, columns=names)
    else:
        with reading(file), _open_csv(file, names) as reader:
            yield from reader


@contextlib.contextmanager
def _open_csv(file: str, names: list[str] | None = None) -> Iterator[pa.csv.CSVStreamingReader]:
    options = pa.csv.ConvertOptions(
        include_columns=names,
        # As binary: Arrow would stop the whole file at the first byte that is not UTF-8.
        column_types={name: pa.binary() for name in names or ()},
    )
    with (
        _open(file) as handle,
        pa.csv.open_csv(
            handle,
            # One thread: only then does Arrow know the number of a bad row.
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=options,
        ) as reader,
    ):
        yield reader


def rows(
    file: str, start: int, stop: int, *, has_image_bytes: bool
) -> Iterator[list[TitleAndPicture]]:
    """Yield titles and pictures of rows start..stop in order, in small lists.

    A column that is not there is null throughout: items to predict may lack title or picture.
    """
    picture = "image" if has_image_bytes else "image_path"
    found = column_names(file, is_labeled=False)
    names = [name for name in ("title", picture) if name in found]
    for batch in _row_range(file, names, start, stop):
        titles = images = paths = [None] * len(batch)
        if "title" in names:
            titles = as_binary(batch["title"]).to_pylist()
        if picture not in names:
            yield list(zip(titles, images, paths, strict=True))
            continue
        column = batch[picture]
        if pa.types.is_struct(column.type):
            parts = dict(zip((part.name for part in column.type), column.flatten(), strict=True))
            images, paths = parts["bytes"].to_pylist(), as_binary(parts["path"]).to_pylist()
        elif has_image_bytes:
            images = column.to_pylist()
        else:
            paths = as_binary(column).to_pylist()
        yield list(zip(titles, images, paths, strict=True))


def as_binary(column: pa.Array) -> pa.Array:
    """Return text of any type as bytes: it may not be UTF-8."""
    return column.cast(pa.large_binary())


def _row_range(file: str, names: list[str], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    if not is_parquet(file):
        yield from _cut(batches(file, names), 0, start, stop)
        return
    with (
        reading(file),
        _open(file) as handle,
        pq.ParquetFile(handle) as table,
    ):
        groups, offset, first = [], 0, 0  # offset: first row of the first group that is read
        for group in range(table.num_row_groups):
            after = first + table.metadata.row_group(group).num_rows
            if after <= start:
                offset = after
            elif first < stop:
                groups.append(group)
            first = after
        found = table.iter_batches(READ_ROWS, row_groups=groups, columns=names)
        yield from _cut(found, offset, start, stop)


def _cut(
    batches: Iterator[pa.RecordBatch], offset: int, start: int, stop: int
) -> Iterator[pa.RecordBatch]:
    """Yield the parts of the batches, the first of which begins at row `offset`, in the range."""
    for batch in batches:
        begin, end = max(start - offset, 0), min(stop - offset, len(batch))
        for part in range(begin, end, READ_ROWS):
            yield batch.slice(part, min(READ_ROWS, end - part))
        offset += len(batch)
        if offset >= stop:
            return
