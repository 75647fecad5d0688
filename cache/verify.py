"""Tell of every shard whether it is done, running, missing or broken, and why.

`shard_states` reads commits and sizes only (184 small files and one listing at 12M items); with
`checksums` it reads every byte. `find_orphans` lists what killed processes left behind.
"""

import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache.layout import (
    ITEM_DTYPE,
    MODALITIES,
    chunk_name,
    chunk_num_bytes,
    chunk_range,
    commit_name,
    foreign_arrays,
    lease_name,
    parquet_table,
    part_name,
    read_chunk,
    read_foreign,
    rows_name,
)
from cache.lease import Holder, read_holder
from cache.storage import Storage, is_being_written, is_temporary
from schemas.commit import IMPORTED, ShardCommit, read_commit
from schemas.errors import CacheCorruptError, PipelineError
from schemas.plan import Plan

_NUM_THREADS = 4
_NUM_REQUESTS = 16
_NUM_TRIED = 8
_WAITING_SECONDS = 1e-3  # a shard


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """One shard as found in the workspace."""

    shard: int
    """Position in the plan."""
    state: str
    """`done`, `running`, `missing` or `broken`."""
    reasons: tuple[str, ...] = ()
    """What is wrong, file by file, where it is broken."""
    commit: ShardCommit | None = None
    """What it says of itself, where it is done."""
    holder: Holder | None = None
    """Who is writing it, where it is running."""
    chunks_done: int = 0
    """Chunks that are finished and kept, where it is not done."""
    is_imported: bool = False
    """Whether its commit says that its embeddings were made elsewhere."""

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.reasons)


def shard_state(
    workspace: Storage, plan: Plan, shard: int, *, checksums: bool = False
) -> ShardState:
    """Say whether a shard is done.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        shard: position in the plan.
        checksums: read every file and compare it with the commit, not only its size.
    Raises: ShardError if the plan has no such shard.
    """
    foreign = foreign_arrays(workspace, plan)
    return _state(workspace, plan, shard, size=workspace.size, foreign=foreign, checksums=checksums)


def shard_states(
    workspace: Storage, plan: Plan, shards: Sequence[int], *, checksums: bool = False
) -> Iterator[ShardState]:
    """Say the same of several shards; of an object store by one listing of all files."""
    size, foreign = workspace.sizes_of_many("cache"), foreign_arrays(workspace, plan)

    def look(shard: int) -> ShardState:
        state = functools.partial(
            _state, workspace, plan, shard, foreign=foreign, checksums=checksums
        )
        found = state(size=size)
        # A shard that was finished after the listing looks broken in it.
        if found.state == "broken":
            found = state(size=workspace.size)
        return found

    if checksums:  # which has its own threads
        yield from map(look, shards)
        return
    started = time.perf_counter()
    first = [look(shard) for shard in shards[:_NUM_TRIED]]
    seconds = time.perf_counter() - started
    yield from first
    # Threads that do not wait for a disk or a network only fight for the interpreter.
    if seconds < _NUM_TRIED * _WAITING_SECONDS:
        yield from map(look, shards[_NUM_TRIED:])
        return
    with ThreadPoolExecutor(_NUM_REQUESTS) as pool:
        yield from pool.map(look, shards[_NUM_TRIED:])


def _state(
    workspace: Storage,
    plan: Plan,
    shard: int,
    *,
    size: Callable[[str], int | None],
    foreign: frozenset[str],
    checksums: bool,
) -> ShardState:
    plan.shard_range(shard)
    reasons: list[str] = []
    commit = None
    try:
        commit = load_commit(workspace, shard)
    except PipelineError as error:
        if error.can_retry:  # nobody knows what stands there
            raise
        reasons = [f"{commit_name(shard)}: {error.what}"]
    if commit is not None and commit.shard != shard:
        reasons = [f"{commit_name(shard)} is the commit of shard {commit.shard}"]
    elif commit is not None:
        reasons = disagreements(plan, commit, size, foreign)
        if checksums and not reasons:
            reasons = _bad_files(workspace, plan, commit, foreign)
        if not reasons:
            return ShardState(
                shard=shard, state="done", commit=commit, is_imported=is_imported(commit)
            )
    is_held = size(lease_name(shard)) is not None
    holder = read_holder(workspace, shard) if is_held else None
    if holder is not None and holder.is_dead():
        holder = None
    parts = [part_name(shard, chunk) for chunk in chunk_range(plan, shard)]
    chunks_done = sum(size(part) is not None for part in parts)
    if commit is None and not reasons and not chunks_done and size(rows_name(shard)) is not None:
        # Parts go only after the commit came.
        reasons = [f"{commit_name(shard)} is missing, although the shard was finished once"]
    return ShardState(
        shard=shard,
        state="running" if holder else "broken" if reasons else "missing",
        reasons=tuple(reasons),
        holder=holder,
        chunks_done=chunks_done,
        is_imported=commit is not None and is_imported(commit),
    )


def is_imported(commit: ShardCommit) -> bool:
    """Say whether a shard's embeddings were made elsewhere."""
    return commit.compute_dtype == IMPORTED


def load_commit(workspace: Storage, shard: int) -> ShardCommit | None:
    """Read a shard's commit; None if there is none.

    Raises: ConfigError if it does not parse; CacheCorruptError if it was changed.
    """
    name = commit_name(shard)
    where, fix = workspace.where(name), f"run `python cli.py verify --repair --shard {shard}`"
    try:
        text = workspace.read(name).decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise CacheCorruptError("commit is not text", where=where, fix=fix) from error
    return read_commit(ShardCommit, text, where=where, fix=fix)


def disagreements(
    plan: Plan,
    commit: ShardCommit,
    size: Callable[[str], int | None],
    foreign: frozenset[str] = frozenset(),
) -> list[str]:
    """Return how the commit differs from the plan or from the sizes of our own files."""
    chunks = chunk_range(plan, commit.shard)
    expected = {
        "spec_id": (commit.spec_id, plan.spec_id),
        "items_sha256": (commit.items_sha256, plan.shards[commit.shard]),
        "range": ((commit.start, commit.stop), plan.shard_range(commit.shard)),
        "chunk_bytes": (commit.chunk_bytes, chunk_num_bytes(plan)),
        "image chunks": (len(commit.image_crc32c), len(chunks)),
        "title chunks": (len(commit.title_crc32c), len(chunks)),
    }
    name = commit_name(commit.shard)
    reasons = [
        f"{name}: {field} is {found}, plan says {wanted}"
        for field, (found, wanted) in expected.items()
        if found != wanted
    ]
    if reasons:
        return reasons
    for modality in MODALITIES:
        for chunk in chunks if modality not in foreign else ():
            found = size(chunk_name(modality, chunk))
            if found is None:
                reasons.append(f"{_chunk(plan, modality, chunk)} is missing")
            elif found != commit.chunk_bytes:
                what = f"has {found} bytes, expected {commit.chunk_bytes}"
                reasons.append(f"{_chunk(plan, modality, chunk)} {what}")
    if size(rows_name(commit.shard)) is None:
        reasons.append(f"{rows_name(commit.shard)} is missing")
    return reasons


def _bad_files(
    workspace: Storage, plan: Plan, commit: ShardCommit, foreign: frozenset[str]
) -> list[str]:
    """Name every file that does not match the commit, or the rows table."""
    name = rows_name(commit.shard)
    try:
        data = workspace.read(name)
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != commit.rows_sha256:
        rows, reasons = None, [f"{name} does not match its sha256 in the commit"]
    else:
        rows = parquet_table(data, ("row", "image_ok", "title_ok", "error"))
        reasons = _miscounted(name, rows, commit)
    buffers = threading.local()

    def problem(modality: str, index: int) -> str:
        if not hasattr(buffers, "chunk"):
            buffers.chunk = np.empty((plan.chunk_rows, plan.encoder.embed_dim), ITEM_DTYPE)
        chunk = chunk_range(plan, commit.shard)[index]
        checksum = (commit.image_crc32c if modality == "image" else commit.title_crc32c)[index]
        if modality in foreign:
            found = read_foreign(workspace, plan, modality, chunk, buffers.chunk, checksum)
        else:
            found = read_chunk(workspace, chunk_name(modality, chunk), buffers.chunk, checksum)
        if not found and rows is not None:
            part = rows[f"{modality}_ok"].slice(index * plan.chunk_rows, plan.chunk_rows)
            is_absent = np.isnan(buffers.chunk[: len(part), 0])
            if num := int((is_absent == part.to_numpy()).sum()):
                found = f"has {num} rows that are not what {modality}_ok says"
        return f"{_chunk(plan, modality, chunk)} {found}" if found else ""

    jobs = [(m, index) for m in MODALITIES for index in range(len(commit.image_crc32c))]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return reasons + [found for found in pool.map(lambda job: problem(*job), jobs) if found]


def _miscounted(name: str, rows: pa.Table, commit: ShardCommit) -> list[str]:
    """Compare the rows table with what the commit says of it."""
    numbers = rows["row"].to_numpy()
    counts = {
        "rows": (len(rows), commit.stop - commit.start),
        "image_ok": (pc.sum(rows["image_ok"]).as_py(), commit.image_ok),
        "title_ok": (pc.sum(rows["title_ok"]).as_py(), commit.title_ok),
        "errors": (len(rows) - rows["error"].null_count, commit.num_bad),
    }
    reasons = [
        f"{name} has {found} {what}, its commit says {wanted}"
        for what, (found, wanted) in counts.items()
        if found != wanted
    ]
    if not np.array_equal(numbers, np.arange(commit.start, commit.stop)):
        reasons.append(f"{name} has other row numbers than {commit.start} to {commit.stop - 1}")
    return reasons


def _chunk(plan: Plan, modality: str, chunk: int) -> str:
    """Name a chunk's file and its rows."""
    start, stop = plan.chunk_span(chunk)
    return f"{chunk_name(modality, chunk)} (rows {start} to {stop - 1})"


def find_orphans(workspace: Storage, plan: Plan) -> list[str]:
    """List what nobody needs any more: temporary files, and parts and leases of ended runs.

    A temporary file is only left behind where nobody is writing, so while a shard is being written
    none is listed.
    """
    sizes = workspace.sizes("")
    states = list(shard_states(workspace, plan, range(plan.num_shards)))
    holders = {state.shard: read_holder(workspace, state.shard) for state in states}
    # A shard that is done may be held: at the beginning of a redo, and at the end of any run.
    held = {shard for shard, holder in holders.items() if holder and not holder.is_dead()}
    found = [name for name in sizes if is_temporary(name) and not (held or is_being_written(name))]
    for state in states:
        if state.shard in held:
            continue
        if lease_name(state.shard) in sizes:
            found.append(lease_name(state.shard))
        if state.state == "done":
            parts = [part_name(state.shard, chunk) for chunk in chunk_range(plan, state.shard)]
            found += [part for part in parts if part in sizes]
    return sorted(found)
