"""Tell whether items are what rows of the plan are, by the hashes of picture and title.

m items.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Int64, UInt64

from cache.layout import parquet_table, rows_name
from cache.reader import read_items
from cache.storage import Storage
from cache.verify import is_imported, load_commit
from pipeline.item_contents import NUM_READERS, map_ahead, read_item
from pipeline.items import RawItem, check_unchanged, read_places
from pipeline.progress import Progress
from schemas.commit import ShardCommit
from schemas.errors import CatalogError, PipelineError
from schemas.plan import ItemsSource, Plan


def have_same_content(
    workspace: Storage,
    plan: Plan,
    source: ItemsSource,
    places: tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]],
    rows: Int64[np.ndarray, " m"],
) -> Bool[np.ndarray, " m"]:
    """Say whether items have the picture and the title that rows of the plan have.

    Args:
        workspace: a planned one.
        plan: its plan.
        source: where the items are.
        places: of each item, file and row in the source.
        rows: of the plan.

    Of a row that is embedded the cache knows; of another the catalog is read. What cannot be read
    any more counts as changed: it could not be embedded either.
    Raises: CatalogError of a row that was imported and whose source cannot be read any more.
    """
    found = np.zeros((len(rows), 2), np.uint64)
    with Progress("compare with what is planned", len(rows)) as progress:
        for number, key in enumerate(_keys(read_places(source, *places))):
            found[number] = key
            progress.update(1)
    before = np.zeros_like(found)
    shards = rows // plan.shard_rows
    for shard in np.unique(shards).tolist():
        mine = shards == shard
        local = rows[mine] - plan.shard_range(shard)[0]
        keys = _cached_keys(workspace, plan, shard, local)
        before[mine] = _source_keys(workspace, plan, shard, local) if keys is None else keys
    return (found == before).all(axis=1)


def _cached_keys(
    workspace: Storage, plan: Plan, shard: int, local: Int64[np.ndarray, " m"]
) -> UInt64[np.ndarray, "m 2"] | None:
    """Return what the cache says of rows of a shard; None if it does not know."""
    try:
        commit = _commit_of(workspace, plan, shard)
        data = workspace.read(rows_name(shard))
    except (PipelineError, FileNotFoundError):
        return None
    if commit is None or is_imported(commit):
        return None
    if hashlib.sha256(data).hexdigest() != commit.rows_sha256:
        return None
    table = parquet_table(data, ["title_sha256", "image_sha256"]).take(pa.array(local))
    pairs = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return _table_of(_key(title, image) for title, image in pairs)


def _commit_of(workspace: Storage, plan: Plan, shard: int) -> ShardCommit | None:
    """Return a shard's commit if it is of the planned items."""
    commit = load_commit(workspace, shard)
    return commit if commit and commit.items_sha256 == plan.shards[shard] else None


def _source_keys(
    workspace: Storage, plan: Plan, shard: int, local: Int64[np.ndarray, " m"]
) -> UInt64[np.ndarray, "m 2"]:
    """Return what the catalog says of rows of a shard; zeros if it cannot be read any more."""
    items = read_items(workspace, plan, shard).take(pa.array(local))
    files, rows = (items[name].to_numpy() for name in ("source_file", "source_row"))
    order = np.lexsort((rows, files))
    found = np.zeros((len(local), 2), np.uint64)
    try:
        check_unchanged(plan.items, np.unique(files).tolist())
        found[order] = _table_of(_keys(read_places(plan.items, files[order], rows[order])))
    except (PipelineError, OSError) as error:
        if _commit_of(workspace, plan, shard) is not None:
            raise CatalogError(
                f"shard {shard} was imported, and what its items were cannot be read any more: "
                f"{error}",
                where=", ".join(plan.items.files[file].path for file in np.unique(files)[:3]),
                fix="keep the planned files and give the new ones other names; or give only the "
                "items that are new or changed, under new names",
            ) from error
        found[:] = 0
    return found


def _keys(items: Iterable[RawItem]) -> Iterator[UInt64[np.ndarray, " 2"]]:
    """Read and hash items, some ahead."""
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for item in map_ahead(readers, read_item, items):
            yield _key(item.title_sha256, item.image_sha256)


def _key(title_sha256: str | None, image_sha256: str | None) -> UInt64[np.ndarray, " 2"]:
    """Return 16 bytes for a title and a picture, either of which may be missing."""
    text = f"{title_sha256} {image_sha256}".encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), np.uint64)


def _table_of(keys: Iterable[UInt64[np.ndarray, " 2"]]) -> UInt64[np.ndarray, "m 2"]:
    found = list(keys)
    return np.stack(found) if found else np.empty((0, 2), np.uint64)
