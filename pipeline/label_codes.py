"""Label codes as an artifact: codes/<name>.parquet, one row a label.

`codes.py` makes them; fit reads them here, without faiss. The metadata say what the codes were made
from and what their bits mean.

C labels, Q bits.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cache.layout import parquet_bytes, parquet_table
from cache.storage import Storage
from pipeline.label_graph import FROM
from pipeline.label_inputs import label_inputs
from schemas.codes import LabelCodes
from schemas.errors import CodesError
from schemas.plan import Plan
from schemas.tables import CODES

_METADATA_KEY = b"shelfwise"
_NAME = re.compile(r"(embedding|both)-[1-9][0-9]{0,3}|taxonomy")
_UNREADABLE = (pa.ArrowException, LookupError, TypeError, ValueError, OSError)


@dataclass(frozen=True, kw_only=True)
class CodesRecord:
    """What codes were made from."""

    source: str
    """`embedding`, `taxonomy` or `both`."""
    seed: int
    """Of the rotation."""
    features: tuple[str, ...]
    """Of each bit, the category whose labels have it; empty for a sign of the embeddings."""
    made_from: Mapping[str, object]
    """State of the labels."""


def codes_name(source: str, num_bits: int) -> str:
    """Return what codes are called: `both-128`; `taxonomy`, which has as many bits as it has."""
    return source if source == "taxonomy" else f"{source}-{num_bits}"


def codes_place(name: str) -> str:
    """Return where codes are in the workspace."""
    return f"codes/{name}.parquet"


def write_codes(
    workspace: Storage,
    name: str,
    codes: LabelCodes,
    record: CodesRecord,
    label_ids: pa.ChunkedArray,
) -> None:
    """Write codes/<name>.parquet.

    Args:
        workspace: where to.
        name: of the codes.
        codes: what to write.
        record: what they were made from.
        label_ids: of all labels in order.
    """
    offsets = np.arange(codes.num_labels + 1, dtype=np.int32) * codes.num_bits
    table = pa.table(
        {
            "label": np.arange(codes.num_labels),
            "label_id": label_ids,
            "code": pa.ListArray.from_arrays(offsets, codes.bits.ravel()),
        }
    ).cast(CODES)
    found = {
        "source": record.source,
        "seed": record.seed,
        "features": record.features,
        "made_from": dict(record.made_from),
        "codes_sha256": codes.sha256(),
    }
    metadata = {_METADATA_KEY: json.dumps(found, sort_keys=True).encode()}
    workspace.write(codes_place(name), parquet_bytes(table.replace_schema_metadata(metadata)))


def read_codes(workspace: Storage, plan: Plan, name: str) -> LabelCodes:
    """Read the codes of the labels.

    Args:
        workspace: where they are.
        plan: the workspace's plan.
        name: as `codes_name` gives it.
    Raises: CodesError if they are missing, damaged, or made from other labels or embeddings;
        CacheIncompleteError if the label embeddings that they were made from are not there.
    """
    if not _NAME.fullmatch(name):
        raise CodesError(
            f"{name!r} is no name of codes",
            where="--codes",
            fix="use a source and its bits, such as both-128 or embedding-64, or taxonomy",
        )
    where = workspace.where(codes_place(name))
    try:
        data = workspace.read(codes_place(name))
    except FileNotFoundError as error:
        there = codes_names(workspace)
        also = f", or use --codes {there[0]}" if there else ""
        fix = _renew(name) + also
        raise CodesError(f"there are no codes {name!r}", where=where, fix=fix) from error
    try:
        table = parquet_table(data)
        record = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        codes, made_from = _codes(table), dict(record["made_from"])
        fix = _renew(name, record)
        is_whole = codes.sha256() == record["codes_sha256"]
    except (*_UNREADABLE, CodesError) as error:
        raise CodesError(f"cannot be read: {error}", where=where, fix=_renew(name)) from error
    has_embeddings = record.get("source") != "taxonomy" and FROM not in made_from
    expected = label_inputs(workspace, plan, has_embeddings=has_embeddings)
    differing = [key for key in expected if made_from.get(key) != expected[key]]
    if differing:
        what = f"the codes are stale: {', '.join(differing)} changed since they were made"
        raise CodesError(what, where=where, fix=fix)
    if not is_whole:
        what = "rows are missing or were changed since it was written"
        raise CodesError(what, where=where, fix=fix)
    return codes


def codes_names(workspace: Storage) -> list[str]:
    """Return the names of the codes that there are, in order."""
    names = (
        place.rpartition("/")[2].removesuffix(".parquet") for place in workspace.sizes("codes")
    )
    return sorted(name for name in names if _NAME.fullmatch(name))


def _codes(table: pa.Table) -> LabelCodes:
    columns = table.select(CODES.names).cast(CODES)
    code = columns["code"].combine_chunks()
    lengths = code.value_lengths().to_numpy()
    if len(np.unique(lengths)) != 1:
        raise ValueError("codes are not of one length")
    bits = code.flatten().to_numpy(zero_copy_only=False).reshape(len(code), -1)
    return LabelCodes(bits[np.argsort(columns["label"].to_numpy(), kind="stable")])


def _renew(name: str, record: Mapping[str, Any] | None = None) -> str:
    """Name the command that makes the codes again, as they were made if that is known."""
    source, _, num_bits = name.partition("-")
    words = ["python cli.py codes --source", source]
    words += ["--bits", num_bits] if num_bits else []
    if record is not None:
        words += ["--seed", str(record["seed"])] if record["seed"] else []
        words += ["--from FILE"] if FROM in record["made_from"] else []
    return f"run `{' '.join(words)}`"
