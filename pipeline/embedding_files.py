"""Open embeddings that were made elsewhere: .npy or Parquet files with the ids of their rows.

Takes what clip-retrieval and embedding-reader write; reads ids and shapes and maps the matrices, so
that opening costs the ids' memory only.

S rows of the source, D embedding width, n some rows.
"""

import contextlib
import logging
import os
import re
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Int

from pipeline.locations import is_url
from schemas.errors import EmbeddingFilesError, SpecMismatchError
from schemas.plan import Plan

logger = logging.getLogger(__name__)

ID_COLUMNS = ("item_id", "key", "image_path")
EMBEDDING_COLUMNS = {"image": "image_embedding", "title": "text_embedding"}
_FOLDERS = {"image": "img_emb", "title": "text_emb", "ids": "metadata"}  # of clip-retrieval
BLOCK_ROWS = 1024  # 2 MB in float32 at D = 512: stays in the processor's cache


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows of a matrix that lie in one file, as they are."""

    file: str
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    offset: int = 0
    is_fortran: bool = False

    def rows(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n D"]:
        """Return rows, mapped anew each time: else all that was ever read stays resident."""
        order = "F" if self.is_fortran else "C"
        mapped = np.memmap(self.file, self.dtype, "r", self.offset, self.shape, order)  # type: ignore[call-overload]
        return np.asarray(mapped)[span(rows)]


class Matrix:
    """Embeddings of one modality: the rows of several files one after another."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: Int[np.ndarray, " n"]) -> Iterator[tuple[slice, Float[np.ndarray, "m D"]]]:
        """Yield the rows, which must rise, file by file, each with its places in `rows`."""
        borders = np.searchsorted(rows, self._starts)
        for number in np.flatnonzero(np.diff(borders)).tolist():
            found = slice(int(borders[number]), int(borders[number + 1]))
            yield found, self._parts[number].rows(rows[found] - self._starts[number])


@dataclass(frozen=True, kw_only=True)
class Source:
    """Embeddings made elsewhere, opened and not yet read."""

    image: Matrix | None
    """[S, D]; None where there are no image embeddings."""
    title: Matrix | None
    """[S, D]; None where there are no title embeddings."""
    ids: pa.ChunkedArray
    """Of the S rows, as large_string."""
    where: str
    """The files, for errors."""


def open_folder(plan: Plan, folder: str, *, id_column: str | None = None) -> Source:
    """Open the output of clip-retrieval: img_emb/, text_emb/ and metadata/, files by number.

    Args:
        plan: says how wide an embedding is.
        folder: local.
        id_column: of the metadata; None for the first of item_id, key and image_path that is there.
    Raises: EmbeddingFilesError if files are missing, unreadable or differ in rows;
        SpecMismatchError if the embeddings have another width than the plan's.
    """
    _refuse_url(folder)
    found: dict[str, dict[int, str]] = {}
    for name, below in _FOLDERS.items():
        place = os.path.join(folder, below)
        if os.path.isdir(place):
            pattern = re.compile(rf"{below}_(\d+)\.{'parquet' if name == 'ids' else 'npy'}")
            matches = [match for each in os.listdir(place) if (match := pattern.fullmatch(each))]
            found[name] = {int(match[1]): os.path.join(place, match[0]) for match in matches}
    if not found.get("ids") or not (found.get("image") or found.get("title")):
        raise EmbeddingFilesError(
            "found no output of clip-retrieval: expected img_emb/img_emb_0.npy or "
            "text_emb/text_emb_0.npy, and metadata/metadata_0.parquet",
            where=folder,
            fix="name another folder, or the files with --image-emb, --title-emb and --ids",
        )
    found = {name: files for name, files in found.items() if files}
    for name, files in found.items():
        if differing := sorted(files.keys() ^ found["ids"].keys()):
            raise EmbeddingFilesError(
                f"{_FOLDERS[name]} and metadata do not have the same file numbers: "
                f"{len(differing)} stand in one only, the first {differing[:3]}",
                where=folder,
                fix="bring the missing files; a partition that failed has to be run again",
            )
    parts: dict[str, list[_Part]] = {"image": [], "title": []}
    ids = []
    for number in sorted(found["ids"]):
        file = found["ids"][number]
        ids.append(_read_ids(file, id_column))
        for name in parts.keys() & found.keys():
            parts[name].append(_npy_part(found[name][number], plan))
            _check_same_rows(found[name][number], parts[name][-1].shape[0], file, len(ids[-1]))
    matrices = {name: Matrix(each) if each else None for name, each in parts.items()}
    return Source(ids=_joined(ids), where=folder, **matrices)


def open_files(
    plan: Plan,
    *,
    image_emb: str | None,
    title_emb: str | None,
    ids: str | None,
    id_column: str | None = None,
    image_column: str | None = None,
    title_column: str | None = None,
) -> Source:
    """Open embeddings and ids by name; files of a folder follow one another in numeric order.

    Args:
        plan: says how wide an embedding is.
        image_emb: an .npy file, a folder of them, or Parquet with a column of lists; or None.
        title_emb: likewise.
        ids: .npy, .txt (one a line), .csv or .parquet, or a folder of one kind; None where the
            embeddings are Parquet files that have the ids beside them.
        id_column: as in `open_folder`.
        image_column: of the lists, `image_embedding` by default.
        title_column: of the lists, `text_embedding` by default.
    Raises: as `open_folder`.
    """
    places = {"image": image_emb, "title": title_emb}
    columns = {"image": image_column, "title": title_column}
    matrices: dict[str, Matrix | None] = dict.fromkeys(places)
    own_ids = None
    for name, place in places.items():
        if place is None:
            continue
        files = _files(place, (".npy", ".parquet"))
        if files[0].endswith(".npy"):
            matrices[name] = Matrix([_npy_part(file, plan) for file in files])
        else:
            own_ids = place
            column = columns[name] or EMBEDDING_COLUMNS[name]
            matrices[name] = Matrix([_unpack(files, column, plan)])
    ids = ids or own_ids
    if ids is None:
        raise EmbeddingFilesError(
            "nothing says which rows are which items",
            where="--ids",
            fix="give the ids in the order of the rows with --ids: .npy, .txt, .csv or .parquet",
        )
    files = _files(ids, (".parquet", ".npy", ".csv", ".txt"))
    found = _joined([_read_ids(file, id_column) for file in files])
    for name, matrix in matrices.items():
        if matrix is not None:
            _check_same_rows(str(places[name]), len(matrix), ids, len(found))
    return Source(ids=found, where=image_emb or title_emb or ids, **matrices)


def _refuse_url(place: str) -> None:
    if is_url(place):
        raise EmbeddingFilesError(
            "embeddings are imported from local files only",
            where=place,
            fix="copy the files to a local disk first",
        )


def _files(place: str, suffixes: Sequence[str]) -> list[str]:
    """Return a file, or a folder's files of the first kind that is there, in numeric order."""
    _refuse_url(place)
    if os.path.isdir(place):
        names = [name for name in os.listdir(place) if not name.startswith(".")]
        for suffix in suffixes:
            if chosen := [name for name in names if name.endswith(suffix)]:
                return [os.path.join(place, name) for name in sorted(chosen, key=_natural)]
    elif os.path.isfile(place) and place.endswith(tuple(suffixes)):
        return [place]
    what = "is not of a known kind" if os.path.exists(place) else "does not exist"
    hint = "; np.load it and np.save each of its arrays" if place.endswith(".npz") else ""
    raise EmbeddingFilesError(
        f"{place} {what}, expected {', '.join(suffixes)} or a folder of such files",
        where=place,
        fix=f"name another file or folder{hint}",
    )


def _natural(name: str) -> list[str | int]:
    """Sort part_2 before part_10."""
    return [int(each) if each.isdecimal() else each for each in re.split(r"(\d+)", name)]


@contextlib.contextmanager
def _reading(file: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, pa.ArrowException) as error:
        if isinstance(error, EmbeddingFilesError | SpecMismatchError):
            raise
        raise EmbeddingFilesError(
            f"cannot be read: {error or type(error).__name__}",
            where=file,
            fix="write the file again; arrays with np.save as float16 or float32, ids as text or "
            "integers, nothing pickled",
        ) from error


def _load_npy(file: str) -> np.ndarray[Any, Any]:
    with _reading(file):
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap):
            array.close()
            raise EmbeddingFilesError(
                "this is an .npz archive",
                where=file,
                fix="np.load it and np.save each of its arrays by itself",
            )
        return array


def _npy_part(file: str, plan: Plan) -> _Part:
    array = _load_npy(file)
    if array.ndim != 2 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise EmbeddingFilesError(
            f"the array has the shape {array.shape} and the type {array.dtype}, expected one row "
            "an item of float16, float32 or float64",
            where=file,
            fix="write it with np.save as a matrix of floats",
        )
    _check_width(array.shape[1], plan, file)
    assert isinstance(array, np.memmap)
    return _Part(
        file=os.path.abspath(file),
        dtype=array.dtype,
        shape=(array.shape[0], array.shape[1]),
        offset=array.offset,
        is_fortran=not array.flags.c_contiguous,
    )


def _check_width(width: int, plan: Plan, where: str) -> None:
    if width != plan.encoder.embed_dim:
        raise SpecMismatchError(
            f"the embeddings have D={width}, plan says D={plan.encoder.embed_dim} "
            f"({plan.encoder.model})",
            where=where,
            fix="plan with the encoder that made them, in a new --workspace, or name other files",
        )


def _unpack(files: Sequence[str], column: str, plan: Plan) -> _Part:
    """Copy a column of lists to a temporary file, from which any row can be read at once."""
    num_rows = 0
    logger.info("column %s is unpacked below %s", column, tempfile.gettempdir())
    with tempfile.TemporaryFile() as spool:  # nameless: gone with this process at the latest
        for file in files:
            with _reading(file), pq.ParquetFile(file) as table:
                _check_lists(table.schema_arrow, column, file)
                for batch in table.iter_batches(8 * BLOCK_ROWS, columns=[column]):
                    spool.write(_lists(batch.column(0), plan, file).data)
                    num_rows += len(batch)
        spool.flush()
        descriptor = os.dup(spool.fileno())
    part = _Part(
        file=f"/proc/self/fd/{descriptor}",
        dtype=np.dtype(np.float32),
        shape=(num_rows, plan.encoder.embed_dim),
    )
    weakref.finalize(part, os.close, descriptor)
    return part


def _check_lists(schema: pa.Schema, column: str, file: str) -> None:
    if column not in schema.names:
        raise _no_column(column, schema.names, file)
    kind = schema.field(column).type
    are_lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not (any(is_one(kind) for is_one in are_lists) and pa.types.is_floating(kind.value_type)):
        raise ValueError(f"column {column} has the type {kind}, expected lists of floats")


def _lists(lists: pa.Array, plan: Plan, file: str) -> Float32[np.ndarray, "n D"]:
    """Return lists as rows; NaN where a list is null."""
    for width in pc.unique(pc.list_value_length(lists)).drop_null().to_pylist():
        _check_width(width, plan, file)
    rows = np.full((len(lists), plan.encoder.embed_dim), np.nan, np.float32)
    is_there = lists.is_valid().to_numpy(zero_copy_only=False)
    values = lists.drop_null().flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        rows[is_there] = values.reshape(-1, rows.shape[1])
    return rows


def _no_column(column: str, names: Sequence[str], file: str) -> EmbeddingFilesError:
    return EmbeddingFilesError(
        f"there is no column {column}; found: {', '.join(names)}",
        where=file,
        fix="name it with --id-column, --image-column or --title-column",
    )


def _read_ids(file: str, column: str | None) -> pa.ChunkedArray:
    """Read the ids of one file as text; integers count as their digits."""
    with _reading(file):
        if file.endswith(".npy"):
            array = _load_npy(file)
            if array.ndim != 1 or array.dtype.kind not in "iuUS":
                raise ValueError(
                    f"the ids have the shape {array.shape} and the type {array.dtype}, expected "
                    "one row of text or integers"
                )
            ids = pa.chunked_array([pa.array(np.asarray(array))])
        elif file.endswith(".parquet"):
            with pq.ParquetFile(file) as table:
                chosen = _id_column(column, table.schema_arrow.names, file)
                ids = table.read(columns=[chosen])[chosen]
        else:
            ids = _read_text_ids(file, column)
        if pa.types.is_floating(ids.type):
            raise ValueError(f"the ids are {ids.type}: numbers with a fraction name no item")
        if ids.null_count:
            raise ValueError(f"{ids.null_count} ids are null")
        return ids.cast(pa.large_string())


def _id_column(column: str | None, names: Sequence[str], file: str) -> str:
    for each in [column] if column else ID_COLUMNS:
        if each in names:
            return each
    raise _no_column(column or " or ".join(ID_COLUMNS), names, file)


def _read_text_ids(file: str, column: str | None) -> pa.ChunkedArray:
    if file.endswith(".csv"):
        parsing = pa.csv.ParseOptions(newlines_in_values=True)
        with pa.csv.open_csv(file, parse_options=parsing) as reader:
            chosen = _id_column(column, reader.schema.names, file)
        options = pa.csv.ConvertOptions(
            include_columns=[chosen], column_types={chosen: pa.large_string()}
        )
        return pa.csv.read_csv(file, parse_options=parsing, convert_options=options)[chosen]
    return pa.csv.read_csv(
        file,
        read_options=pa.csv.ReadOptions(column_names=["id"]),
        parse_options=pa.csv.ParseOptions(
            delimiter="\x1f", quote_char=False, ignore_empty_lines=False
        ),
        convert_options=pa.csv.ConvertOptions(column_types={"id": pa.large_string()}),
    )["id"]


def _joined(ids: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.large_string())


def _check_same_rows(file: str, num_rows: int, ids_file: str, num_ids: int) -> None:
    if num_rows != num_ids:
        raise EmbeddingFilesError(
            f"{file} has {num_rows} rows, {ids_file} has {num_ids} ids",
            where=file,
            fix="give the ids of exactly these rows, in their order",
        )


def span(rows: Int[np.ndarray, " n"]) -> slice | Int[np.ndarray, " n"]:
    """Return row numbers as a slice where they follow one another: copying that is faster."""
    is_run = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if is_run else rows
