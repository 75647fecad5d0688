"""What `clean` found, as an artifact: clean.parquet, one row an item of the plan, in its order.

`clean.py` makes it; everything after reads here which items stay, without faiss. Its metadata say
what it was made from and with which options.

N items.
"""

import hashlib
import json
from dataclasses import dataclass

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
        table: in the schema CLEAN, with all rows of the plan.
        config: with which options it was made.
        made_from: hashes of the cache and of the items tables.
    """
    record = {"config": to_dict(config), "made_from": made_from}
    metadata = {_METADATA_KEY: json.dumps(record, sort_keys=True).encode()}
    table = table.cast(CLEAN).replace_schema_metadata(metadata)
    workspace.write(CLEAN_TABLE, parquet_bytes(table))


def read_clean(workspace: Storage, made_from: dict[str, str], num_rows: int) -> Kept | None:
    """Return which items stay; None if `clean` never ran.

    Args:
        workspace: where it is.
        made_from: hashes of the cache and of the items tables as they are now.
        num_rows: N, of the plan.
    Raises: CleanError if it is damaged, or was made from another cache or other items.
    """
    where = workspace.where(CLEAN_TABLE)
    try:
        data = workspace.read(CLEAN_TABLE)
    except FileNotFoundError:
        return None
    try:
        keep, found = _opened(data, num_rows)
    except (pa.ArrowException, LookupError, TypeError, ValueError, OSError) as error:
        raise CleanError(f"cannot be read: {error}", where=where, fix=_FIX) from error
    changed = [name for name in made_from if found.get(name) != made_from[name]]
    if changed:
        raise CleanError(
            f"it is stale: {', '.join(changed)} changed since it was made", where=where, fix=_FIX
        )
    return Kept(keep)


def _opened(data: bytes, num_rows: int) -> tuple[Bool[np.ndarray, " N"], dict[str, str]]:
    """Return the column `keep` and what the table was made from."""
    table = parquet_table(data)
    record = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    if "made_from" not in record:
        raise ValueError("its metadata do not say what it was made from")
    made_from: dict[str, str] = dict(record["made_from"])
    table = table.select(CLEAN.names).cast(CLEAN)
    if not np.array_equal(table["row"].to_numpy(), np.arange(num_rows)):
        raise ValueError(f"its rows are not those of the plan's {num_rows:,} rows, in order")
    return table["keep"].to_numpy(), made_from
