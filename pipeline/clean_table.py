"""What `clean` found, as an artifact: clean.parquet, one row an item of the plan, in its order.

`clean.py` makes it; everything after reads here which items stay, without faiss. Its metadata say
what it was made from and with which options.

N items.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from cache.layout import parquet_bytes, parquet_table
from cache.storage import Storage
from schemas.clean import CleanConfig
from schemas.configs import to_dict
from schemas.errors import CleanError
from schemas.tables import CLEAN

CLEAN_TABLE = "clean.parquet"
_METADATA_KEY = b"shelfwise"
_FIX = "run `python cli.py clean` again, or leave it aside with --no-clean"


@dataclass(frozen=True)
class Kept:
    """Which items stay."""

    keep: Bool[np.ndarray, " N"]
    """In plan order."""

    @property
    def sha256(self) -> str:
        """A hash of it."""
        return hashlib.sha256(np.packbits(self.keep).tobytes()).hexdigest()


def write_clean(
    workspace: Storage, table: pa.Table, config: CleanConfig, made_from: dict[str, str]
) -> None:
    """Write clean.parquet.

    Args:
        workspace: where to.
        table: in the schema CLEAN, a row for each item of the plan.
        config: with which options it was made.
        made_from: hashes of the cache and of the items tables.
    """
    record = {"config": to_dict(config), "made_from": made_from}
    metadata = {_METADATA_KEY: json.dumps(record, sort_keys=True).encode()}
    table = table.cast(CLEAN).replace_schema_metadata(metadata)
    workspace.write(CLEAN_TABLE, parquet_bytes(table))


def read_clean(workspace: Storage, made_from: dict[str, str]) -> Kept | None:
    """Return which items stay; None if `clean` never ran.

    Args:
        workspace: where it is.
        made_from: hashes of the cache and of the items tables as they are now.
    Raises: CleanError if it is damaged, or was made from another cache or other items.
    """
    where = workspace.where(CLEAN_TABLE)
    try:
        data = workspace.read(CLEAN_TABLE)
    except FileNotFoundError:
        return None
    try:
        table = parquet_table(data)
        record: dict[str, Any] = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        found = record["made_from"]
        keep = table.select(CLEAN.names).cast(CLEAN)["keep"].to_numpy()
    except (pa.ArrowException, LookupError, TypeError, ValueError, OSError) as error:
        raise CleanError(f"cannot be read: {error}", where=where, fix=_FIX) from error
    changed = [name for name in made_from if found.get(name) != made_from[name]]
    if changed:
        raise CleanError(
            f"it is stale: {', '.join(changed)} changed since it was made", where=where, fix=_FIX
        )
    return Kept(keep)
