"""Where the cache keeps what: one Zarr v3 array per modality, whole chunks per shard.

A chunk file is the raw row-major matrix followed by its crc32c (4 bytes, little-endian). Any
Zarr v3 reader opens the arrays; ours reads the chunk files themselves. At 12M items and D = 512
the two item arrays are 733 chunk files of 16.8 MB each.

N items, C labels, D embedding width.
"""

import io
import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from cache.storage import atomic_write
from schemas.configs import differing_fields
from schemas.errors import CacheCorruptError, SpecMismatchError
from schemas.plan import Plan

MODALITIES = ("image", "title")
FOOTER_BYTES = 4
ITEM_DTYPE = np.dtype("<f2")
LABEL_DTYPE = np.dtype("<f4")


def array_path(workspace: Path, name: str) -> Path:
    """Return the folder of the array `image`, `title` or `label`."""
    return workspace / "cache" / f"{name}.zarr"


def chunk_path(workspace: Path, name: str, chunk: int) -> Path:
    """Return the file of a chunk; all arrays have one chunk column."""
    return array_path(workspace, name) / "c" / str(chunk) / "0"


def rows_path(workspace: Path, shard: int) -> Path:
    """Return the rows table of a shard."""
    return workspace / "cache" / "rows" / f"{shard:05d}.parquet"


def commit_path(workspace: Path, shard: int) -> Path:
    """Return the commit of a shard."""
    return workspace / "cache" / "commits" / f"{shard:05d}.json"


def labels_commit_path(workspace: Path) -> Path:
    """Return the commit of the label embeddings."""
    return workspace / "cache" / "commits" / "labels.json"


def items_path(workspace: Path, shard: int) -> Path:
    """Return the items table of a shard, written by plan."""
    return workspace / "items" / f"{shard:05d}.parquet"


def labels_path(workspace: Path) -> Path:
    """Return the labels table, written by plan."""
    return workspace / "labels.parquet"


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


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=65536)
    return buffer.getvalue()


def open_arrays(workspace: Path, plan: Plan) -> None:
    """Make the item arrays' metadata, or bring their length up to the plan's.

    Safe from several processes at once: the metadata is one file per array, equal for all, and
    put in place whole.
    Raises: SpecMismatchError if the cache was made by another encoder, or with other chunks.
    """
    for name in MODALITIES:
        path = array_path(workspace, name) / "zarr.json"
        expected = _metadata(plan, name)
        if path.is_file():
            _check_same(path, expected, plan, may_grow=True)
        if not path.is_file() or path.read_bytes() != expected:
            atomic_write(path, expected)


def write_label_metadata(workspace: Path, plan: Plan) -> None:
    """Write the metadata of the label array, whatever was there: it is made anew as a whole."""
    atomic_write(array_path(workspace, "label") / "zarr.json", _metadata(plan, "label"))


def check_array(workspace: Path, plan: Plan, name: str) -> None:
    """Refuse an array that is not the plan's.

    Raises: CacheCorruptError if its metadata is missing or unreadable; SpecMismatchError naming
        the fields that differ.
    """
    path = array_path(workspace, name) / "zarr.json"
    if not path.is_file():
        raise CacheCorruptError(
            "array metadata is missing",
            where=str(path),
            fix="run `python cli.py embed --all`: it writes it again and keeps what is done",
        )
    _check_same(path, _metadata(plan, name), plan, may_grow=False)


def _check_same(path: Path, metadata: bytes, plan: Plan, *, may_grow: bool) -> None:
    try:
        found = json.loads(path.read_bytes())
        found_spec = dict(found["attributes"]["spec"])
        found_shape = list(found["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheCorruptError(
            f"array metadata cannot be read ({error})",
            where=str(path),
            fix=f"delete {path} and run `python cli.py embed --all` again",
        ) from error
    expected = json.loads(metadata)
    shape = expected["shape"]
    differing = differing_fields(found_spec, plan.encoder.spec())
    differing += differing_fields(
        {"chunks": found.get("chunk_grid"), "width": found_shape[1:]},
        {"chunks": expected["chunk_grid"], "width": shape[1:]},
    )
    if differing:
        raise SpecMismatchError(
            "this cache was made otherwise than the plan says (cache -> plan): "
            + "; ".join(differing),
            where=str(path.parent),
            fix="plan in a new --workspace, or delete the folder `cache` to embed again",
        )
    if found_shape != shape and not may_grow:
        raise SpecMismatchError(
            f"the array has {found_shape[0]} rows, the plan {shape[0]}",
            where=str(path.parent),
            fix="run `python cli.py embed --all`",
        )


def _metadata(plan: Plan, name: str) -> bytes:
    """Return zarr.json as zarr itself writes it."""
    dim = plan.encoder.embed_dim
    is_label = name == "label"
    store = MemoryStore()
    attributes: dict[str, Any] = {"spec_id": plan.spec_id, "spec": plan.encoder.spec()}
    zarr.create_array(
        store,
        shape=(plan.num_labels if is_label else plan.num_items, dim),
        chunks=(plan.num_labels if is_label else plan.chunk_rows, dim),
        dtype=LABEL_DTYPE if is_label else ITEM_DTYPE,
        compressors=(Crc32cCodec(),),  # a checksum, no compression: the bytes stay raw
        filters=None,
        fill_value=np.nan,
        attributes=attributes,
        zarr_format=3,
    )
    return bytes(store._store_dict["zarr.json"].to_bytes())
