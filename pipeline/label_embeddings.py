"""Label embeddings that were made elsewhere, by any model and of any width.

Takes an .npy file whose rows are in the order of labels.parquet, or a .parquet file with columns
label_id and embedding, in any order; writes nothing. The file is read whole: 205 MB at 100,000
labels of D = 512.

C labels, D embedding width.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float

from cache.layout import arrow_file
from pipeline.labels import duplicates
from pipeline.locations import absolute, file_name, read_file
from schemas.errors import EmbeddingFilesError

_COLUMNS = ("label_id", "embedding")


def read_label_embeddings(
    path: str | Path, label_ids: pa.ChunkedArray
) -> tuple[Float[np.ndarray, "C D"], str]:
    """Return the embeddings in the order of the labels, and the sha256 of the file.

    Args:
        path: .npy or .parquet; local or a URL that fsspec knows.
        label_ids: of all labels in order.
    Raises: CatalogError if the file is not there or out of reach; EmbeddingFilesError if it is
        damaged, pickled, of another form, lacks a label or has one that nobody knows, or has a row
        that is zero or not finite.
    """
    place = absolute(path)
    data = read_file(place, "--from")
    try:
        if file_name(place).endswith(".npy"):
            label_emb = _from_npy(data, place, len(label_ids))
        elif file_name(place).endswith(".parquet"):
            label_emb = _from_parquet(data, place, label_ids)
        else:
            raise _error(f"is neither .npy nor .parquet: {file_name(place)!r}", place)
    except EmbeddingFilesError:
        raise
    except (ValueError, OSError, EOFError, pa.ArrowException) as error:
        raise _error(f"cannot be read: {error or type(error).__name__}", place) from error
    # By length in float64: entries of 1e300 or 1e-300 are finite, and their squares are not.
    with np.errstate(over="ignore", under="ignore"):
        length = np.linalg.norm(label_emb.astype(np.float64), axis=1)
    is_bad = ~(np.isfinite(length) & (length > 0))
    bad = label_ids.take(pa.array(np.flatnonzero(is_bad))).to_pylist()
    if bad:
        raise _error(
            f"{len(bad)} embeddings are zero or not finite: of {_first(bad)}",
            place,
        )
    return label_emb, hashlib.sha256(data).hexdigest()


def _from_npy(data: bytes, place: str, num_labels: int) -> Float[np.ndarray, "C D"]:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise _error("is an .npz archive", place)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise _error(
            f"has the shape {array.shape} and the type {array.dtype}, expected a matrix of floats",
            place,
        )
    if len(array) != num_labels:
        raise _error(
            f"has {len(array)} rows, expected one for each of {num_labels} labels, in the order of "
            "labels.parquet",
            place,
        )
    return array


def _from_parquet(data: bytes, place: str, label_ids: pa.ChunkedArray) -> Float[np.ndarray, "C D"]:
    table = pq.read_table(arrow_file(data))
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        found = ", ".join(table.column_names)
        raise _error(f"missing columns: {', '.join(missing)}; found: {found}", place)
    ids = table["label_id"].cast(pa.string())
    known, given = label_ids.to_pylist(), ids.to_pylist()
    known_ids, given_ids = set(known), set(given)
    problems = {
        "labels have no embedding": sorted(known_ids - given_ids),
        "label ids occur more than once": duplicates(given),
        "label ids are of no label": [
            each for each in dict.fromkeys(given) if each not in known_ids
        ],
    }
    for problem, bad in problems.items():
        if bad:
            raise _error(f"{len(bad)} {problem}: {_first(bad)}", place)
    return _matrix(table["embedding"], place)[pc.index_in(label_ids, value_set=ids).to_numpy()]


def _matrix(lists: pa.ChunkedArray, place: str) -> Float[np.ndarray, "C D"]:
    """Return lists of floats as rows."""
    kind = lists.type
    are_lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not (any(is_one(kind) for is_one in are_lists) and pa.types.is_floating(kind.value_type)):
        raise _error(f"the column embedding has the type {kind}, expected lists of floats", place)
    if lists.null_count:
        raise _error(f"{lists.null_count} embeddings are null", place)
    widths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(widths) != 1:
        raise _error(f"the embeddings differ in width: {sorted(widths)[:3]}", place)
    values: np.ndarray[Any, Any] = pc.list_flatten(lists).to_numpy()
    return values.reshape(len(lists), widths[0])


def _first(ids: list[str | None]) -> str:
    return ", ".join(map(repr, ids[:3]))


def _error(what: str, place: str) -> EmbeddingFilesError:
    return EmbeddingFilesError(
        what,
        where=place,
        fix="write one embedding a label: np.save of a float32 matrix in the order of "
        "labels.parquet, or Parquet with label_id and embedding",
    )
