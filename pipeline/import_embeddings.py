"""Take embeddings that were made elsewhere into the cache of a planned workspace.

Takes .npy or Parquet files of image and title embeddings with the ids of their rows, as
clip-retrieval and embedding-reader lay them out; writes the same shards as embed does: chunks with
checksums, rows tables, commits whose compute_dtype is `imported`. Ids are matched to the plan's
whatever the order; rows are brought to unit length where they are not; a sample is embedded anew
with the plan's own encoder first, so that the cache cannot lie about who made it. Cost at 12M items
and D = 512: one read of the files and one write of the cache, 49 GB in all; in memory the ids as
Arrow, their hash table and a shard.

N items of the plan, S rows of the source, D embedding width, R rows of a chunk, n some rows.
"""

import contextlib
import functools
import logging
import os
import re
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Float, Float16, Float32, Int, UInt8

from cache.layout import ITEM_DTYPE, chunk_range, open_arrays, rows_name
from cache.reader import read_items
from cache.storage import Storage
from cache.verify import ShardState, shard_state
from cache.writer import ShardWriter
from pipeline.embed_shard import EncoderLike
from pipeline.items import PictureFile, RawItem, check_unchanged, read_rows
from pipeline.locations import is_url
from pipeline.pictures import PictureError, load
from pipeline.progress import Progress
from schemas.commit import ShardCommit
from schemas.errors import EmbeddingFilesError, SpecMismatchError, TooManyBadRowsError
from schemas.plan import Plan
from schemas.tables import ROWS

logger = logging.getLogger(__name__)

IMPORTED = "imported"
ID_COLUMNS = ("item_id", "key", "image_path")
EMBEDDING_COLUMNS = {"image": "image_embedding", "title": "text_embedding"}
MIN_COSINE = 0.99
_FOLDERS = {"image": "img_emb", "title": "text_emb", "ids": "metadata"}  # of clip-retrieval
_UNIT_TOLERANCE = 1e-3
_BLOCK_ROWS = 1024  # 2 MB in float32 at D = 512: stays in the processor's cache
_SAMPLE_PLACES, _SAMPLE_RUN = 8, 8
_OK, _NOT_IMPORTED, _NOT_FINITE, _ZERO = range(4)
_REASONS = (None, "not imported", "embedding is not finite", "embedding is zero")
_HALF_BIAS = np.float32(2.0**112)  # of float16's exponent to float32's


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
        return np.asarray(mapped)[_span(rows)]


class _Matrix:
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

    image: _Matrix | None
    """[S, D]; None where there are no image embeddings."""
    title: _Matrix | None
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
    matrices = {name: _Matrix(each) if each else None for name, each in parts.items()}
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
    matrices: dict[str, _Matrix | None] = dict.fromkeys(places)
    own_ids = None
    for name, place in places.items():
        if place is None:
            continue
        files = _files(place, (".npy", ".parquet"))
        if files[0].endswith(".npy"):
            matrices[name] = _Matrix([_npy_part(file, plan) for file in files])
        else:
            own_ids = place
            column = columns[name] or EMBEDDING_COLUMNS[name]
            matrices[name] = _Matrix([_unpack(files, column, plan)])
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


def import_embeddings(
    workspace: Storage,
    plan: Plan,
    source: Source,
    get_encoder: Callable[[], EncoderLike],
    *,
    max_bad: float = 0.05,
    trust: bool = False,
    redo: bool = False,
) -> None:
    """Write and commit every shard that is not done, from embeddings made elsewhere.

    An imported shard that has too many bad rows is tried again: the source may be fuller now.

    Args:
        workspace: where the plan is.
        plan: the workspace's plan.
        source: what to import.
        get_encoder: loads the planned encoder; called once, and only if there is work to check.
        max_bad: share of a shard's rows that may lack an embedding of a modality that the source
            has; checked after all shards.
        trust: do not compare a sample with what the encoder makes.
        redo: import the shards again although they are done.
    Raises: EmbeddingFilesError if ids repeat or match nothing; SpecMismatchError if the sample
        shows another encoder; TooManyBadRowsError, LeaseError, WorkspaceError.
    """
    started = time.perf_counter()
    positions = _match(workspace, plan, source)
    shards = range(plan.num_shards)
    states = [shard_state(workspace, plan, shard, checksums=True) for shard in shards]
    todo = [state for state in states if redo or _is_due(state, source, max_bad)]
    if todo and not trust:
        _check_sample(workspace, plan, source, positions, functools.cache(get_encoder))
    checked = time.perf_counter()
    open_arrays(workspace, plan)
    commits = {state.shard: state.commit for state in states if state.commit is not None}
    num_rows = 0
    firsts = [chunk_range(plan, state.shard).start for state in todo]
    with (
        Progress("import", len(todo), unit="shard") as progress,
        _Reader(workspace, plan, source, positions) as reader,
    ):
        for state, following in zip(todo, [*firsts[1:], None], strict=False):
            commits[state.shard], num_written = _import_shard(
                workspace,
                plan,
                state.shard,
                reader,
                again=redo or state.commit is not None,
                following=following,
            )
            num_rows += num_written
            progress.update(1)
    _log_end(plan, len(todo), num_rows, checked - started, time.perf_counter() - checked)
    for _, commit in sorted(commits.items()):
        _check_bad(workspace, commit, source, max_bad)


def _log_end(plan: Plan, num_shards: int, num_rows: int, checking: float, writing: float) -> None:
    """Print what was done and where the seconds went."""
    num_bytes = 2 * num_rows * plan.encoder.embed_dim * ITEM_DTYPE.itemsize
    logger.info(
        "import: %s rows of %d shards, %d shards were done; %.1f s ids and checks, %.1f s read and "
        "write: %.0f rows/s, %.0f MB/s",
        f"{num_rows:,}",
        num_shards,
        plan.num_shards - num_shards,
        checking,
        writing,
        num_rows / writing,
        num_bytes / 1e6 / writing,
    )


# --- files ---


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
                for batch in table.iter_batches(8 * _BLOCK_ROWS, columns=[column]):
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


# --- ids ---


def _match(workspace: Storage, plan: Plan, source: Source) -> Int[np.ndarray, " N"]:
    """Return for each item of the plan its row in the source, -1 where it has none."""
    _refuse_repeats(source)
    planned = pa.chunked_array(
        [
            chunk
            for shard in range(plan.num_shards)
            for chunk in read_items(workspace, plan, shard)["item_id"].chunks
        ]
    ).cast(pa.large_string())
    found = pc.index_in(planned, value_set=source.ids)
    num_found = len(found) - found.null_count
    if not num_found:
        raise EmbeddingFilesError(
            f"none of the {len(source.ids)} ids is in the plan: they look like "
            f"{source.ids[:3].to_pylist()}, the plan's like {planned[:3].to_pylist()}",
            where=source.where,
            fix="choose the column with --id-column, or write ids as the catalog has them",
        )
    if unknown := len(source.ids) - num_found:
        logger.warning("%s rows of the source are not in the plan: ignored", f"{unknown:,}")
    if found.null_count:
        logger.warning("%s items of the plan are not in the source", f"{found.null_count:,}")
    return found.fill_null(-1).to_numpy()


def _refuse_repeats(source: Source) -> None:
    first = pc.index_in(source.ids, value_set=source.ids).to_numpy()
    repeats = np.flatnonzero(first != np.arange(len(first)))
    if len(repeats):
        repeated = pc.unique(source.ids.take(pa.array(repeats))).to_pylist()
        raise EmbeddingFilesError(
            f"{len(repeated)} ids stand in more than one row, the first {repeated[:3]}",
            where=source.where,
            fix="keep one row an id, or choose another column with --id-column",
        )


# --- rows ---


def _span(rows: Int[np.ndarray, " n"]) -> slice | Int[np.ndarray, " n"]:
    """Return row numbers as a slice where they follow one another: copying that is faster."""
    is_run = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if is_run else rows


def _gather(
    matrix: _Matrix | None, positions: Int[np.ndarray, " n"], dim: int
) -> tuple[Float16[np.ndarray, "n D"], UInt8[np.ndarray, " n"]]:
    """Return rows of the source in unit length, NaN where there is none, and what became of each.

    Args:
        matrix: of one modality.
        positions: rows of it, -1 for none.
        dim: D.
    """
    out = np.full((len(positions), dim), np.nan, ITEM_DTYPE)
    codes = np.full(len(positions), _NOT_IMPORTED, np.uint8)
    if matrix is None:
        return out, codes
    places = np.flatnonzero(positions >= 0)
    places = places[np.argsort(positions[places], kind="stable")]  # as the files lie on the disk
    for first in range(0, len(places), _BLOCK_ROWS):
        block = places[first : first + _BLOCK_ROWS]
        for found, raw in matrix.read(positions[block]):
            here = _span(block[found])
            out[here], codes[here] = _unit_rows(raw)
    return out, codes


def _unit_rows(
    raw: Float[np.ndarray, "n D"],
) -> tuple[Float16[np.ndarray, "n D"], UInt8[np.ndarray, " n"]]:
    """Bring rows to unit length; those that have it stay as they are, bit for bit."""
    wide = _float32(raw)
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        others = np.flatnonzero(~(np.abs(norms - 1) <= _UNIT_TOLERANCE))
        unit = raw if raw.dtype == ITEM_DTYPE else wide.astype(ITEM_DTYPE)
        codes = np.zeros(len(raw), np.uint8)
        if len(others):
            rows = raw[others].astype(np.float32)
            largest = np.abs(rows).max(axis=1)
            codes[others] = np.select(
                [~np.isfinite(largest), largest == 0], [_NOT_FINITE, _ZERO], _OK
            )
            rows /= largest[:, None]  # else a square may overflow
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            rows[codes[others] != _OK] = np.nan
            unit = np.array(unit)
            unit[others] = rows
    return unit, codes


def _float32(matrix: Float[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """Widen to float32; what is not finite in float16 becomes 65536 and more.

    NumPy converts halves one by one (0.46e9 a second here). Their exponent and mantissa moved to
    float32's places stand for the value times 2**-112, by integer operations that the processor
    does many at a time (2.3e9); infinities and NaN are then no longer special.
    """
    if matrix.dtype != ITEM_DTYPE:
        with np.errstate(over="ignore"):
            return matrix.astype(np.float32, order="C")
    bits = matrix.view(np.int16).astype(np.int32, order="C")  # the sign fills the upper half
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: sign, and the 15 other bits below three zeros
    wide = bits.view(np.float32)
    wide *= _HALF_BIAS
    return wide


def _cosine(
    image: Float16[np.ndarray, "R D"], title: Float16[np.ndarray, "R D"]
) -> Float32[np.ndarray, " R"]:
    """Multiply row by row, from what is stored, as embed does."""
    blocks = [
        slice(first, first + _BLOCK_ROWS) for first in range(0, max(len(image), 1), _BLOCK_ROWS)
    ]
    return np.concatenate(
        [np.einsum("rd,rd->r", _float32(image[rows]), _float32(title[rows])) for rows in blocks]
    )


def _rows_table(
    items: pa.Table,
    image_codes: UInt8[np.ndarray, " R"],
    title_codes: UInt8[np.ndarray, " R"],
    cosine: Float32[np.ndarray, " R"],
) -> pa.Table:
    """Return a chunk's rows in the schema ROWS."""
    is_bad = (image_codes != _OK) | (title_codes != _OK)
    # Taken from the list of all pairs: Arrow 26 loses rows when it joins two nulls.
    errors = [_error(image, title) for image in _REASONS for title in _REASONS]
    error = pa.array(errors, pa.string()).take(pa.array(image_codes * len(_REASONS) + title_codes))
    columns = {
        "row": items["row"],
        "item_id": items["item_id"],
        "image_ok": image_codes == _OK,
        "title_ok": title_codes == _OK,
        "error": error,
        "image_sha256": pa.nulls(len(items), pa.string()),
        "title_sha256": pa.nulls(len(items), pa.string()),
        "image_title_cosine": pa.array(cosine, pa.float32(), mask=is_bad),
    }
    return pa.table(columns, schema=ROWS)


def _error(image: str | None, title: str | None) -> str | None:
    """Return why a row lacks an embedding, as embed says it."""
    reasons = {"image": image, "title": title}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or None


# --- shards ---


def _is_due(state: ShardState, source: Source, max_bad: float) -> bool:
    """Say whether a shard is to be imported: it is not done, or was imported with too little.

    Raises: EmbeddingFilesError if that would lose embeddings that this source does not have.
    """
    commit = state.commit
    if commit is None:
        if state.reasons:
            logger.warning("shard %05d is mended: %s", state.shard, state.reason)
        return True
    if commit.compute_dtype != IMPORTED or _num_bad(commit, source) <= max_bad * _num_rows(commit):
        logger.info("shard %05d is done already", state.shard)
        return False
    for name, lost in (("image", commit.image_ok), ("title", commit.title_ok)):
        if lost and getattr(source, name) is None:
            raise EmbeddingFilesError(
                f"shard {state.shard} has {lost} {name} embeddings, this source has none",
                where=source.where,
                fix=f"give --{name}-emb too: a shard is imported with both at once",
            )
    return True


def _num_rows(commit: ShardCommit) -> int:
    return commit.stop - commit.start


def _num_bad(commit: ShardCommit, source: Source) -> int:
    """Count the rows that lack an embedding of a modality that the source has."""
    if source.image is None:
        return _num_rows(commit) - commit.title_ok
    if source.title is None:
        return _num_rows(commit) - commit.image_ok
    return commit.num_bad


def _check_bad(workspace: Storage, commit: ShardCommit, source: Source, max_bad: float) -> None:
    num_rows, num_bad = _num_rows(commit), _num_bad(commit, source)
    if commit.compute_dtype == IMPORTED and num_bad > max_bad * num_rows:
        shown = ", ".join(f"{num} {reason!r}" for reason, num in commit.reasons.items())
        raise TooManyBadRowsError(
            f"{num_bad} of {num_rows} rows lack an embedding "
            f"({num_bad / num_rows:.1%}, allowed are {max_bad:.1%}): {shown}",
            where=f"{workspace.where(rows_name(commit.shard))}, column error",
            fix="run the same command again with a source that has them, or raise --max-bad",
        )


_Prepared = tuple[Float16[np.ndarray, "R D"], Float16[np.ndarray, "R D"], pa.Table]


class _Reader:
    """Reads chunks in a thread of its own, while others are written; a context manager."""

    def __init__(
        self, workspace: Storage, plan: Plan, source: Source, positions: Int[np.ndarray, " N"]
    ) -> None:
        self._plan, self._source, self._positions = plan, source, positions
        self._items = functools.lru_cache(1)(functools.partial(read_items, workspace, plan))
        self._thread = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[_Prepared]] = {}

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def start(self, chunk: int) -> None:
        """Read a chunk ahead."""
        if chunk not in self._ahead:
            self._ahead[chunk] = self._thread.submit(self._prepare, chunk)

    def take(self, chunk: int) -> _Prepared:
        """Return a chunk; what else was read ahead is forgotten."""
        self.start(chunk)
        prepared = self._ahead[chunk].result()
        self._ahead.clear()
        return prepared

    def _prepare(self, chunk: int) -> _Prepared:
        plan, start = self._plan, chunk * self._plan.chunk_rows
        shard, local = divmod(start, plan.shard_rows)
        items = self._items(shard).slice(local, plan.chunk_rows)
        positions = self._positions[start : start + len(items)]
        image, image_codes = _gather(self._source.image, positions, plan.encoder.embed_dim)
        title, title_codes = _gather(self._source.title, positions, plan.encoder.embed_dim)
        rows = _rows_table(items, image_codes, title_codes, _cosine(image, title))
        return image, title, rows


def _import_shard(
    workspace: Storage,
    plan: Plan,
    shard: int,
    reader: _Reader,
    *,
    again: bool,
    following: int | None,
) -> tuple[ShardCommit, int]:
    """Write what a shard lacks and commit it.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        shard: position in the plan.
        reader: of the chunks.
        again: write all of it, also what is there.
        following: chunk to read ahead during the commit; None for none.
    Returns: the commit, and how many rows were written.
    """
    writer = ShardWriter(workspace, plan, shard, compute_dtype=IMPORTED, batch_size=0)
    with writer:
        if again:
            writer.discard(writer.chunks.start)
        missing = writer.missing
        num_written = 0
        for chunk, after in zip(missing, [*missing[1:], following], strict=False):
            image, title, rows = reader.take(chunk)
            if after is not None:
                reader.start(after)
            writer.write(chunk, image=image, title=title, rows=rows)
            num_written += len(rows)
        return writer.commit(), num_written


# --- truth ---


def _check_sample(
    workspace: Storage,
    plan: Plan,
    source: Source,
    positions: Int[np.ndarray, " N"],
    get_encoder: Callable[[], EncoderLike],
) -> None:
    """Embed a sample with the plan's encoder and compare.

    Raises: SpecMismatchError if the median cosine is below MIN_COSINE; SourceChangedError if the
        catalog is no longer the planned one.
    """
    rows = _sample_rows(positions)
    items = _read_sample(workspace, plan, rows)
    contents: dict[str, list[Any]] = {
        "title": [item.title for item in items] if source.title else [],
        "image": [_pixels(item, plan) for item in items] if source.image else [],
    }
    for name, found in contents.items():
        places = [place for place, content in enumerate(found) if content is not None]
        there, codes = _gather(
            getattr(source, name), positions[rows[places]], plan.encoder.embed_dim
        )
        places = [place for place, code in zip(places, codes, strict=True) if code == _OK]
        if not places:
            if getattr(source, name) is not None:
                logger.warning("no %s could be compared: the import is taken on trust", name)
            continue
        chosen = [found[place] for place in places]
        if name == "title":
            ours = get_encoder().encode_texts(chosen, len(chosen))
        else:
            ours = np.concatenate(list(get_encoder().encode_images([np.stack(chosen)])))
        cosine = float(np.median(np.einsum("nd,nd->n", ours, _float32(there[codes == _OK]))))
        what = (
            f"{len(chosen)} {name}s: median cosine {cosine:.4f} to what the encoder makes of them"
        )
        if not cosine >= MIN_COSINE:
            raise SpecMismatchError(
                f"{what}, expected at least {MIN_COSINE}",
                where=source.where,
                fix="plan with the encoder that made them, look whether the ids are in the order "
                "of the rows, or pass --trust",
            )
        logger.info("%s", what)


def _sample_rows(positions: Int[np.ndarray, " N"]) -> Int[np.ndarray, " n"]:
    """Return rows of the plan that are in the source: a few places, a few neighbors each."""
    matched = np.flatnonzero(positions >= 0)
    first = np.linspace(0, max(len(matched) - _SAMPLE_RUN, 0), _SAMPLE_PLACES).astype(np.int64)
    places = np.unique(first[:, None] + np.arange(_SAMPLE_RUN))
    return matched[places[places < len(matched)]]


def _read_sample(workspace: Storage, plan: Plan, rows: Int[np.ndarray, " n"]) -> list[RawItem]:
    tables = []
    for shard in np.unique(rows // plan.shard_rows).tolist():
        start, stop = plan.shard_range(shard)
        local = rows[(rows >= start) & (rows < stop)] - start
        tables.append(read_items(workspace, plan, shard).take(pa.array(local)))
    items = pa.concat_tables(tables)
    files, places = items["source_file"].to_numpy(), items["source_row"].to_numpy()
    check_unchanged(plan.items, np.unique(files).tolist())
    borders = np.flatnonzero((np.diff(files) != 0) | (np.diff(places) != 1)) + 1
    found: list[RawItem] = []
    for run in np.split(np.arange(len(items)), borders):
        first, last = int(places[run[0]]), int(places[run[-1]])
        for batch in read_rows(plan.items, int(files[run[0]]), first, last + 1):
            found += batch
    return found


def _pixels(item: RawItem, plan: Plan) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decode a picture as embed does; None if it cannot be read."""
    if item.image is None:
        return None
    try:
        data = item.image.read() if isinstance(item.image, PictureFile) else item.image
        return load(data, plan.encoder.preprocess, is_scaled=plan.encoder.decode == "scaled")
    except (OSError, PictureError):
        return None
