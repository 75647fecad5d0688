"""Where the cache keeps what: one Zarr v3 array per modality, whole chunks per shard.

A chunk file is the raw row-major matrix followed by its crc32c (4 bytes, little-endian). Any
Zarr v3 reader opens the arrays; ours reads the chunk files themselves. At 12M items and D = 512
the two item arrays are 733 chunk files of 16.8 MB each.

N items, C labels, D embedding width.
"""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from jaxtyping import Shaped
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore, ObjectStore

from cache.storage import Storage
from schemas.configs import differing_fields
from schemas.errors import CacheCorruptError, SpecMismatchError
from schemas.plan import Plan

MODALITIES = ("image", "title")
FOOTER_BYTES = 4
_PIECE_BYTES = 2**20  # checked while it is still in the processor's cache: a fifth faster
ITEM_DTYPE = np.dtype("<f2")
LABEL_DTYPE = np.dtype("<f4")


def array_name(name: str) -> str:
    """Return the folder of the array `image`, `title` or `label`."""
    return f"cache/{name}.zarr"


def metadata_name(name: str) -> str:
    """Return the Zarr metadata of an array."""
    return f"{array_name(name)}/zarr.json"


def chunk_name(name: str, chunk: int) -> str:
    """Return the file of a chunk; all arrays have one chunk column."""
    return f"{array_name(name)}/c/{chunk}/0"


def rows_name(shard: int) -> str:
    """Return the rows table of a shard."""
    return f"cache/rows/{shard:05d}.parquet"


def commit_name(shard: int) -> str:
    """Return the commit of a shard."""
    return f"cache/commits/{shard:05d}.json"


def part_name(shard: int, chunk: int) -> str:
    """Return the rows of one finished chunk of a shard that is not committed yet."""
    return f"cache/parts/{shard:05d}/{chunk}"


THE_PLAN = "the plan"


def lease_name(what: int | str) -> str:
    """Return the lease of a shard, by its number, of a run, by its name, or of THE_PLAN."""
    if what == THE_PLAN:
        return "cache/leases/plan.json"
    return f"cache/leases/{what:05d}.json" if isinstance(what, int) else f"runs/{what}/lease.json"


LABELS_COMMIT = "cache/commits/labels.json"
LABEL_TEXTS = "cache/label_texts.parquet"


def items_name(shard: int) -> str:
    """Return the items table of a shard, written by plan."""
    return f"items/{shard:05d}.parquet"


LABELS_TABLE = "labels.parquet"
RETIRED_TABLE = "retired.parquet"


def chunk_range(plan: Plan, shard: int) -> range:
    """Return the chunk numbers that a shard owns."""
    start, stop = plan.shard_range(shard)
    return range(start // plan.chunk_rows, -(-stop // plan.chunk_rows))


def chunk_num_bytes(plan: Plan) -> int:
    """Return the size of a chunk file of the item arrays in bytes."""
    return plan.chunk_rows * plan.encoder.embed_dim * ITEM_DTYPE.itemsize + FOOTER_BYTES


def crc32c(data: bytes | np.ndarray[Any, Any]) -> int:
    """Return the Castagnoli checksum of the bytes of a C-contiguous buffer."""
    return int(google_crc32c.value(data))


def read_chunk(workspace: Storage, name: str, out: Shaped[np.ndarray, "R D"], checksum: int) -> str:
    """Fill `out` from a chunk file; return what is wrong with it, or nothing.

    Compares the data with its footer and the footer with the commit: a flipped bit breaks the
    first, two swapped files only the second.

    Args:
        workspace: where the cache is.
        name: of the file.
        out: C-contiguous, of the chunk's full size.
        checksum: its crc32c in the commit.
    """
    whole, footer = out.data.cast("B"), memoryview(bytearray(FOOTER_BYTES))
    pieces = [whole[start : start + _PIECE_BYTES] for start in range(0, len(whole), _PIECE_BYTES)]
    found = 0

    def extend(piece: memoryview) -> None:
        nonlocal found
        if piece is not footer:
            found = int(google_crc32c.extend(found, np.frombuffer(piece, np.uint8)))

    try:
        num_bytes = workspace.read_into(name, *pieces, footer, each=extend)
    except FileNotFoundError:
        return "is missing"
    if num_bytes != out.nbytes + FOOTER_BYTES:
        return f"has {num_bytes} bytes, expected {out.nbytes + FOOTER_BYTES}"
    if int.from_bytes(footer, "little") != checksum or found != checksum:
        return "does not match its crc32c in the commit"
    return ""


def write_chunk(
    workspace: Storage,
    name: str,
    matrix: Shaped[np.ndarray, "R D"],
    check: Callable[[], None] | None = None,
) -> int:
    """Write a chunk file and return its crc32c."""
    checksum = crc32c(matrix)
    workspace.write(
        name, matrix.data.cast("B"), checksum.to_bytes(FOOTER_BYTES, "little"), check=check
    )
    return checksum


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=65536)
    return buffer.getvalue()


def parquet_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table back from the bytes of its file."""
    return pq.read_table(arrow_file(data), columns=columns and list(columns))


def arrow_file(data: bytes) -> pa.BufferReader:
    """Return a file's bytes as Arrow may read them, in memory of its own.

    Python's bytes would be let go in one of Arrow's threads; where that comes after the end of the
    interpreter the process aborts, with all its work done (seen once in 40 short commands).
    """
    owned = pa.allocate_buffer(len(data))
    if data:
        np.frombuffer(owned, np.uint8)[:] = np.frombuffer(data, np.uint8)
    return pa.BufferReader(owned)


def open_arrays(workspace: Storage, plan: Plan) -> None:
    """Make the item arrays' metadata, or bring their length up to the plan's.

    Safe from several processes at once: the metadata is one file per array, equal for all, and
    put in place whole.
    Raises: SpecMismatchError if the cache was made by another encoder, or with other chunks.
    """
    for name in MODALITIES:
        expected = _metadata(plan, name)
        found = _read_metadata(workspace, name)
        if found is not None:
            _check_same(workspace.where(metadata_name(name)), found, expected, plan, may_grow=True)
        if found != expected:
            workspace.write(metadata_name(name), expected)


def write_label_metadata(workspace: Storage, plan: Plan) -> None:
    """Write the metadata of the label array, whatever was there: it is made anew as a whole."""
    workspace.write(metadata_name("label"), _metadata(plan, "label"))


def check_array(workspace: Storage, plan: Plan, name: str) -> bool:
    """Refuse an array that is not the plan's.

    Returns: whether its chunk files are ours, byte for byte. False if the array was written again
        by somebody else with other chunks or codecs: then it is read through zarr.
    Raises: CacheCorruptError if its metadata is missing or unreadable; SpecMismatchError naming
        the fields that differ.
    """
    where = workspace.where(metadata_name(name))
    found = _read_metadata(workspace, name)
    if found is None:
        raise CacheCorruptError(
            "array metadata is missing",
            where=where,
            fix="run `python cli.py embed --all`: it writes it again and keeps what is done",
        )
    expected = _metadata(plan, name)
    _check_same(where, found, expected, plan, may_grow=False)
    ours = [json.loads(text) for text in (found, expected)]
    layout = ("chunk_grid", "chunk_key_encoding", "codecs", "data_type")
    return all(ours[0].get(field) == ours[1][field] for field in layout)


def foreign_arrays(workspace: Storage, plan: Plan) -> frozenset[str]:
    """Return the item arrays that somebody wrote again with other chunks or codecs."""
    found = set()
    for name in MODALITIES:
        with contextlib.suppress(CacheCorruptError, SpecMismatchError):
            if not check_array(workspace, plan, name):
                found.add(name)
    return frozenset(found)


def open_foreign(workspace: Storage, name: str) -> "zarr.Array[Any]":
    """Open an array that somebody wrote again through zarr."""
    from cache.object_storage import open_store  # a foreign array is rare

    store = ObjectStore(open_store(workspace.where(array_name(name))), read_only=True)
    return zarr.open_array(store, mode="r")


def read_foreign(
    workspace: Storage,
    plan: Plan,
    name: str,
    chunk: int,
    out: Shaped[np.ndarray, "R D"],
    checksum: int,
) -> str:
    """Do as `read_chunk` in such an array: the commit's checksum is of the values, so it holds."""
    start, stop = plan.chunk_span(chunk)
    out[stop - start :] = np.nan
    try:
        out[: stop - start] = open_foreign(workspace, name)[start:stop]
    except Exception as error:  # codecs of all kinds raise anything on damaged files
        return f"cannot be read: {error}"
    return "" if crc32c(out) == checksum else "does not match its crc32c in the commit"


def _read_metadata(workspace: Storage, name: str) -> bytes | None:
    try:
        return workspace.read(metadata_name(name))
    except FileNotFoundError:
        return None


def _check_same(
    where: str, metadata: bytes, expected_metadata: bytes, plan: Plan, *, may_grow: bool
) -> None:
    try:
        found = json.loads(metadata)
        found_spec = dict(found["attributes"]["spec"])
        found_shape = list(found["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise CacheCorruptError(
            f"array metadata cannot be read ({error})",
            where=where,
            fix=f"delete {where} and run `python cli.py embed --all` again",
        ) from error
    expected = json.loads(expected_metadata)
    shape = expected["shape"]  # fewer rows than these are a plan that grew since
    differing = differing_fields(found_spec, plan.encoder.spec())
    differing += differing_fields({"width": found_shape[1:]}, {"width": shape[1:]})
    if may_grow:  # a writer writes chunk files, so it needs its own layout
        names = ("chunk_grid", "codecs", "data_type")
        differing += differing_fields(
            {name: found.get(name) for name in names}, {name: expected[name] for name in names}
        )
    if differing:
        raise SpecMismatchError(
            "this cache was made otherwise than the plan says (cache -> plan): "
            + "; ".join(differing),
            where=where,
            fix="plan in a new --workspace, or delete the folder `cache` to embed again",
        )


def _metadata(plan: Plan, name: str) -> bytes:
    """Return zarr.json as zarr itself writes it."""
    dim = plan.encoder.embed_dim
    is_label = name == "label"
    store = MemoryStore()
    attributes: dict[str, Any] = {"spec_id": plan.spec_id, "spec": plan.encoder.spec()}
    zarr.create_array(
        store,
        shape=(plan.num_labels if is_label else plan.num_rows, dim),
        chunks=(plan.num_labels if is_label else plan.chunk_rows, dim),
        dtype=LABEL_DTYPE if is_label else ITEM_DTYPE,
        compressors=(Crc32cCodec(),),  # a checksum, no compression: the bytes stay raw
        filters=None,
        fill_value=np.nan,
        attributes=attributes,
        zarr_format=3,
    )
    return bytes(store._store_dict["zarr.json"].to_bytes())
