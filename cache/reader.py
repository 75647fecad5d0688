"""Read a committed cache into memory, checking every byte on the way.

Reads the chunk files themselves straight into one preallocated matrix, several threads at a
time. Cost at 12M items and D = 512: 24.6 GB of reading and as much memory.

N items, n chosen items, C labels, D embedding width, R rows of a chunk.
"""

import hashlib
import os
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float16, Float32, Int, Int64, Shaped
from numpy.typing import DTypeLike

from cache.layout import (
    ITEM_DTYPE,
    LABEL_DTYPE,
    LABEL_TEXTS,
    LABELS_COMMIT,
    LABELS_TABLE,
    MODALITIES,
    RETIRED_TABLE,
    check_array,
    chunk_name,
    chunk_range,
    crc32c,
    items_name,
    open_foreign,
    parquet_table,
    read_chunk,
    read_foreign,
    rows_name,
)
from cache.storage import Storage
from cache.verify import ShardState, shard_states
from schemas.commit import LabelsCommit, ShardCommit, read_commit
from schemas.configs import digest, from_json
from schemas.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    PlanNotFoundError,
    WorkspaceError,
)
from schemas.plan import Plan
from schemas.tables import ITEMS, ROWS

PLAN = "plan.json"
PENDING = "pending/"
PENDING_PLAN = f"{PENDING}{PLAN}"
_NUM_THREADS = min(16, max(4, os.cpu_count() or 1))
_NO_SHARD = -1
_Job = tuple[int, int, tuple[int, int, int, Bool[np.ndarray, " R"] | None]]
_EMBED_LABELS = "run `python cli.py embed --labels`"


def _ignore(num_rows: int) -> None:
    del num_rows


class Cache:
    """The finished shards of a workspace."""

    def __init__(self, workspace: Storage, plan: Plan, *, allow_partial: bool = False) -> None:
        """Open the cache.

        Args:
            workspace: where the plan and the cache are.
            plan: the workspace's plan.
            allow_partial: read unfinished shards as rows without embeddings instead of refusing.
        Raises: CacheIncompleteError if a shard is not done; SpecMismatchError if the cache was
            made by another encoder.
        """
        self._workspace, self._plan = workspace, plan
        states = list(shard_states(workspace, plan, range(plan.num_shards)))
        unfinished = [state for state in states if state.commit is None]
        if unfinished and not (allow_partial and len(unfinished) < len(states)):
            raise _incomplete(workspace, unfinished, len(states))
        self.commits: dict[int, ShardCommit] = {
            state.shard: state.commit for state in states if state.commit is not None
        }
        self._is_ours = {name: check_array(workspace, plan, name) for name in MODALITIES}
        # Each map keeps a file open; half of what a process may have is for others.
        num_maps = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._map = lru_cache(num_maps)(self._map_chunk)

    def sha256(self) -> str:
        """Return a hash of every embedding and row in the cache, whoever made them and when."""
        return digest(
            [
                [shard, commit.image_crc32c, commit.title_crc32c, commit.rows_sha256]
                for shard, commit in sorted(self.commits.items())
            ]
        )

    def read(
        self,
        name: str,
        *,
        rows: Bool[np.ndarray, " N"] | None = None,
        dtype: DTypeLike = ITEM_DTYPE,
        out: Shaped[np.ndarray, "n D"] | None = None,
    ) -> Float[np.ndarray, "n D"]:
        """Read the embeddings of one modality, checksums compared with the commits.

        Args:
            name: `image` or `title`.
            rows: which to keep (by their ok bits, by split); None for all.
            dtype: to convert to, chunk by chunk: never is there a second copy of the whole.
            out: where to put them, C-contiguous, such as a pinned tensor's memory.
        Returns: `out`, or a new matrix; in plan order, NaN where an item has no embedding or,
            of all rows, where no item is.
        Raises: CacheCorruptError naming the chunk that does not match and its rows.
        """
        num_rows = self._plan.num_rows if rows is None else int(rows.sum())
        matrix = np.empty((num_rows, self._plan.encoder.embed_dim), dtype) if out is None else out
        assert matrix.shape == (num_rows, self._plan.encoder.embed_dim)
        self.read_parts(name, lambda start, stop, fill: fill(matrix[start:stop]), rows=rows)
        return matrix

    def read_parts(
        self,
        name: str,
        take: Callable[[int, int, Callable[[Shaped[np.ndarray, "r D"]], None]], None],
        *,
        rows: Bool[np.ndarray, " N"] | None = None,
    ) -> None:
        """Read as `read` does, to places that somebody else has.

        Args:
            name: `image` or `title`.
            take: called by several threads, once for each part, at most a chunk: with the part's
                first row and that after its last, of the n that are kept, and with a function that
                fills an array of so many rows.
            rows: which to keep; None for all.
        Raises: CacheCorruptError naming the chunk that does not match and its rows.
        """
        plan = self._plan
        place = 0
        jobs: list[_Job] = []
        for shard in range(plan.num_shards):
            for index, chunk in enumerate(chunk_range(plan, shard)):
                start, stop = plan.chunk_span(chunk)
                kept = None if rows is None else rows[start:stop]
                if rows is None and place < start:  # between shards
                    jobs.append((place, start, (_NO_SHARD, 0, 0, None)))
                    place = start
                num_kept = stop - start if kept is None else int(kept.sum())
                jobs.append((place, place + num_kept, (shard, index, chunk, kept)))
                place += num_kept

        def take_one(job: _Job) -> None:
            start, stop, (shard, index, chunk, kept) = job
            take(start, stop, lambda out: self._read_one(name, shard, index, chunk, kept, out))

        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(take_one, jobs))

    def _read_one(
        self,
        name: str,
        shard: int,
        index: int,
        chunk: int,
        kept: Bool[np.ndarray, " R"] | None,
        out: Shaped[np.ndarray, "n D"],
    ) -> None:
        """Read one chunk, or what is kept of it, to its place."""
        if not len(out):
            return
        commit = self.commits.get(shard)
        if commit is None:
            out[:] = np.nan
            return
        checksum = (commit.image_crc32c if name == "image" else commit.title_crc32c)[index]
        start, stop = self._plan.chunk_span(chunk)
        is_direct = (
            kept is None and out.dtype == ITEM_DTYPE and len(out) == self._plan.chunk_rows
        ) and out.flags.c_contiguous
        # The last chunk is padded, a filtered or converted one needs a place of its own.
        whole = out if is_direct else np.empty((self._plan.chunk_rows, out.shape[1]), ITEM_DTYPE)
        if self._is_ours[name]:
            problem = read_chunk(self._workspace, chunk_name(name, chunk), whole, checksum)
        else:
            problem = read_foreign(self._workspace, self._plan, name, chunk, whole, checksum)
        if problem:
            raise CacheCorruptError(
                f"chunk {chunk} (rows {start} to {stop - 1}) {problem}",
                where=self._workspace.where(chunk_name(name, chunk)),
                fix=f"run `python cli.py verify --repair --shard {shard}`: it mends just that",
            )
        if not is_direct:
            out[:] = whole[: stop - start] if kept is None else whole[: stop - start][kept]

    def check(
        self, shards: Sequence[int] | None = None, done: Callable[[int], None] = _ignore
    ) -> None:
        """Compare every chunk with its checksum and keep nothing, before blocks are read.

        Args:
            shards: to look at; None for all that are done.
            done: called with the number of rows of each chunk that is right.
        Raises: CacheCorruptError naming the first chunk that does not match and its rows.
        """
        plan = self._plan
        scratch = threading.local()

        def check_one(job: tuple[str, int, int, int]) -> None:
            start, stop = plan.chunk_span(job[-1])
            if not hasattr(scratch, "rows"):
                scratch.rows = np.empty((plan.chunk_rows, plan.encoder.embed_dim), ITEM_DTYPE)
            self._read_one(*job, None, scratch.rows[: stop - start])
            done(stop - start)

        jobs = [
            (name, shard, index, chunk)
            for name in MODALITIES
            for shard in (self.commits if shards is None else shards)
            for index, chunk in enumerate(chunk_range(plan, shard))
        ]
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(check_one, jobs))

    def read_blocks(
        self,
        name: str,
        blocks: Int[np.ndarray, " b"],
        block_rows: int,
        out: Float16[np.ndarray, "n D"],
    ) -> None:
        """Read blocks of consecutive rows, in any order, by several threads.

        Nothing is checked, as no checksum covers less than a chunk: call `check` once before.

        Args:
            name: `image` or `title`.
            blocks: each once; block i has the rows from i * block_rows on; those past the plan's
                are NaN.
            block_rows: of a block, a divisor of the plan's chunk_rows.
            out: where to put them, one block after another.
        Raises: CacheCorruptError if a file is missing or too short.
        """
        assert self._plan.chunk_rows % block_rows == 0
        assert len(out) == len(blocks) * block_rows
        places = out.reshape(len(blocks), block_rows, out.shape[1])
        chunks: dict[int, dict[int, Float16[np.ndarray, "R D"]]] = {}
        for block, place in zip(blocks.tolist(), places, strict=True):
            chunk = block * block_rows // self._plan.chunk_rows
            chunks.setdefault(chunk, {})[block * block_rows] = place
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(lambda job: self._read_pieces(name, *job), chunks.items()))

    def _read_pieces(
        self, name: str, chunk: int, places: dict[int, Float16[np.ndarray, "R D"]]
    ) -> None:
        """Read pieces of a chunk, by their first rows, in one call, which stores answer faster."""
        plan, file = self._plan, chunk_name(name, chunk)
        first, _ = plan.chunk_span(chunk)
        if first // plan.shard_rows not in self.commits:
            for out in places.values():
                out[:] = np.nan
            return
        if not self._is_ours[name]:
            found = open_foreign(self._workspace, name)
            for start, out in places.items():
                stop = min(start + len(out), plan.num_rows)
                out[stop - start :] = np.nan
                out[: stop - start] = found[start:stop]
            return
        some = next(iter(places.values()))
        row_bytes = some.shape[1] * some.itemsize
        starts = [(start - first) * row_bytes for start in places]
        try:
            pieces = self._workspace.read_ranges(file, starts, some.nbytes)
        except FileNotFoundError:
            pieces = [b""] * len(starts)
        for (start, out), piece in zip(places.items(), pieces, strict=True):
            if len(piece) != out.nbytes:
                raise CacheCorruptError(
                    f"rows {start} to {start + len(out) - 1} are missing from chunk {chunk}",
                    where=self._workspace.where(file),
                    fix="run `python cli.py verify --repair`",
                )
            out[:] = np.frombuffer(piece, out.dtype).reshape(out.shape)

    def read_random(self, name: str, rows: Int[np.ndarray, " n"]) -> Float16[np.ndarray, "n D"]:
        """Read single rows through mapped files, or range requests; nothing is checked.

        Relies on `verify`, as no checksum covers less than a chunk.

        Args:
            name: `image` or `title`.
            rows: rows of the plan, in any order.
        Raises: IndexError outside the plan; CacheIncompleteError in a shard that is not done.
        """
        plan = self._plan
        if len(rows) and not 0 <= rows.min() <= rows.max() < plan.num_rows:
            raise IndexError(f"rows {rows.min()} to {rows.max()}, the plan has {plan.num_rows}")
        chunks, local = np.divmod(rows, plan.chunk_rows)
        order = np.argsort(chunks, kind="stable")
        chunks, local = chunks[order], local[order]
        starts = np.flatnonzero(np.diff(chunks, prepend=-1)).tolist()
        out = np.empty((len(rows), plan.encoder.embed_dim), ITEM_DTYPE)
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=False):
            chunk = int(chunks[start])
            shard = chunk * plan.chunk_rows // plan.shard_rows
            if shard not in self.commits:
                raise CacheIncompleteError(
                    f"row {rows[order[start]]} is in shard {shard}, which is not done",
                    where=self._workspace.where(chunk_name(name, chunk)),
                    fix=f"run `python cli.py embed --shard {shard}`",
                )
            found = self._rows_from_chunk(name, chunk, local[start:stop])
            out[order[start:stop]] = found
        return out

    def _rows_from_chunk(
        self, name: str, chunk: int, rows: Int[np.ndarray, " n"]
    ) -> Float16[np.ndarray, "n D"]:
        file = chunk_name(name, chunk)
        if not self._is_ours[name]:
            start, _ = self._plan.chunk_span(chunk)
            return np.asarray(
                open_foreign(self._workspace, name).oindex[start + rows, :], ITEM_DTYPE
            )
        if self._workspace.path(file) is not None:
            return self._map(name, chunk).take(rows, axis=0, mode="clip")  # indexing is slower
        width = self._plan.encoder.embed_dim
        num_bytes = width * ITEM_DTYPE.itemsize
        pieces = self._workspace.read_ranges(file, (rows * num_bytes).tolist(), num_bytes)
        return np.frombuffer(b"".join(pieces), ITEM_DTYPE).reshape(len(rows), width)

    def _map_chunk(self, name: str, chunk: int) -> Float16[np.ndarray, "R D"]:
        shape = (self._plan.chunk_rows, self._plan.encoder.embed_dim)
        path = self._workspace.path(chunk_name(name, chunk))
        assert path is not None
        # As a plain array: indexing a memmap object takes twice as long.
        return np.asarray(np.memmap(path, ITEM_DTYPE, "r", shape=shape))

    def read_rows(self, columns: Sequence[str] = ROWS.names) -> pa.Table:
        """Read the rows tables of all shards, sha256 checked; row i is row i of the plan.

        An unfinished shard gives its item ids with both modalities absent, and the rows between
        shards have neither.

        Args:
            columns: of the schema ROWS.
        Raises: CacheCorruptError if a table does not match its commit.
        """
        schema = pa.schema([ROWS.field(name) for name in columns])
        return _in_rows(self._plan, schema, lambda shard: self._read_rows(shard, columns))

    def _read_rows(self, shard: int, columns: Sequence[str]) -> pa.Table:
        if shard not in self.commits:
            return self._absent_rows(shard).select(columns)
        name = rows_name(shard)
        data = self._workspace.read(name)
        if hashlib.sha256(data).hexdigest() != self.commits[shard].rows_sha256:
            raise CacheCorruptError(
                "rows table does not match its sha256 in the commit",
                where=self._workspace.where(name),
                fix=f"run `python cli.py verify --repair --shard {shard}`",
            )
        return parquet_table(data, columns)

    def _absent_rows(self, shard: int) -> pa.Table:
        items = read_items(self._workspace, self._plan, shard)
        num_rows = len(items)
        columns = {
            "row": items["row"],
            "item_id": items["item_id"],
            "image_ok": pa.array(np.zeros(num_rows, bool)),
            "title_ok": pa.array(np.zeros(num_rows, bool)),
            "error": pa.array(["shard not embedded"] * num_rows),
        }
        for field in ROWS:
            columns.setdefault(field.name, pa.nulls(num_rows, field.type))
        return pa.table(columns).select(ROWS.names).cast(ROWS)


def read_plan(workspace: Storage) -> Plan:
    """Read the plan of a workspace.

    Raises: PlanNotFoundError if there is none; ConfigError if it does not fit;
        CacheIncompleteError while it is being changed.
    """
    where = workspace.where(PLAN)
    if workspace.size(PENDING_PLAN) is not None:
        raise CacheIncompleteError(
            "a change of the plan is under way, or was interrupted",
            where=workspace.where(PENDING_PLAN),
            fix="if nobody is making it, run the same `python cli.py plan ...` again: it goes on",
        )
    try:
        text = workspace.read(PLAN).decode("utf-8")
    except FileNotFoundError as error:
        raise PlanNotFoundError(
            "this workspace has no plan yet",
            where=where,
            fix="run `python cli.py plan --items ITEMS --labels LABELS`, "
            "or point --workspace at one that has a plan",
        ) from error
    except UnicodeDecodeError as error:
        raise WorkspaceError(
            f"the plan is not text: {error}", where=where, fix="restore the file"
        ) from error
    return from_json(Plan, text, where=where, fix="run `python cli.py plan ... --force` again")


def read_items(workspace: Storage, plan: Plan, shard: int) -> pa.Table:
    """Read a shard's items as plan wrote them, in the schema ITEMS.

    Raises: CacheCorruptError if the table is missing or not the planned one.
    """
    return _planned_table(workspace, items_name(shard), plan.items_tables[shard])


def read_all_items(workspace: Storage, plan: Plan) -> pa.Table:
    """Read the items of all shards; row i of the table is row i of the plan.

    What is in no split (null) takes part in nothing: retired items, items whose label was removed
    (-1), and the rows between shards, which have no item id either.
    Raises: as `read_items`.
    """
    items = _in_rows(plan, ITEMS, lambda shard: read_items(workspace, plan, shard))
    is_out = items["label"].to_numpy() < 0
    is_out[read_retired(workspace, plan)] = True
    split = pc.if_else(pa.array(is_out), None, items["split"])
    return items.set_column(items.column_names.index("split"), "split", split)


def _in_rows(plan: Plan, schema: pa.Schema, read: Callable[[int], pa.Table]) -> pa.Table:
    """Return the tables of all shards, with a row for each row between two shards.

    Such a row is null, but for its number, -1 in place of other numbers, and False.
    """
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    tables = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = list(pool.map(read, range(plan.num_shards)))
    for shard, table in enumerate(found):
        tables.append(table.cast(nullable))
        stop = plan.shard_range(shard)[1]
        following = (shard + 1) * plan.shard_rows
        if shard + 1 < plan.num_shards and stop < following:
            tables.append(_no_items(np.arange(stop, following), nullable))
    return pa.concat_tables(tables)


def _no_items(rows: Int64[np.ndarray, " n"], schema: pa.Schema) -> pa.Table:
    columns = {}
    for field in schema:
        if field.name == "row":
            column = pa.array(rows)
        elif pa.types.is_integer(field.type):
            column = pa.array(np.full(len(rows), -1), field.type)
        elif pa.types.is_boolean(field.type):
            column = pa.array(np.zeros(len(rows), bool))
        else:
            column = pa.nulls(len(rows), field.type)
        columns[field.name] = column
    return pa.table(columns, schema=schema)


def read_retired(workspace: Storage, plan: Plan) -> Int64[np.ndarray, " n"]:
    """Read the rows of the items that are no longer in the catalog.

    Raises: CacheCorruptError if the table is missing or not the planned one.
    """
    if not plan.retired_table:
        return np.empty(0, np.int64)
    table = _planned_table(workspace, RETIRED_TABLE, plan.retired_table)
    return table["row"].to_numpy()


def read_labels(workspace: Storage, plan: Plan) -> pa.Table:
    """Read the labels table in the schema LABELS.

    Raises: CacheCorruptError if the table is missing or not the planned one.
    """
    return _planned_table(workspace, LABELS_TABLE, plan.labels_table)


def _planned_table(workspace: Storage, name: str, sha256: str) -> pa.Table:
    try:
        data = workspace.read(name)
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CacheCorruptError(
            "table does not match its sha256 in the plan" if data else "planned table is missing",
            where=workspace.where(name),
            fix="run the same `python cli.py plan ...` again: it writes the planned tables anew; "
            "if the plan was changed since, restore the file, or plan the whole catalog --force",
        )
    return parquet_table(data)


def labels_state(workspace: Storage, plan: Plan) -> LabelsCommit:
    """Return the commit of the label embeddings.

    Raises: CacheIncompleteError if they are absent or were made from other labels or by another
        encoder; CacheCorruptError or ConfigError if the commit is damaged.
    """
    where = workspace.where(LABELS_COMMIT)
    try:
        text = workspace.read(LABELS_COMMIT).decode("utf-8")
    except FileNotFoundError as error:
        raise CacheIncompleteError(
            "label embeddings are missing", where=where, fix=_EMBED_LABELS
        ) from error
    except UnicodeDecodeError as error:
        raise CacheCorruptError("commit is not text", where=where, fix=_EMBED_LABELS) from error
    commit = read_commit(LabelsCommit, text, where=where, fix=_EMBED_LABELS)
    for name in ("spec_id", "labels_sha256", "label_text"):
        found, expected = getattr(commit, name), getattr(plan, name)
        if found != expected:
            raise CacheIncompleteError(
                f"label embeddings are stale: {name} is {found}, plan says {expected}",
                where=where,
                fix=_EMBED_LABELS,
            )
    return commit


def read_label_emb(workspace: Storage, plan: Plan) -> Float32[np.ndarray, "C D"]:
    """Read the label embeddings; row i is label i.

    Raises: CacheIncompleteError if absent or stale; CacheCorruptError on a bad checksum.
    """
    commit = labels_state(workspace, plan)
    matrix = np.empty((plan.num_labels, plan.encoder.embed_dim), LABEL_DTYPE)
    name = chunk_name("label", 0)
    if check_array(workspace, plan, "label"):
        problem = read_chunk(workspace, name, matrix, commit.crc32c)
    else:
        matrix[:] = open_foreign(workspace, "label")[:]
        problem = "" if crc32c(matrix) == commit.crc32c else "does not match its crc32c"
    if problem:
        raise CacheCorruptError(f"chunk {problem}", where=workspace.where(name), fix=_EMBED_LABELS)
    return matrix


def read_label_texts(
    workspace: Storage, plan: Plan
) -> tuple[list[tuple[str, ...]], Float32[np.ndarray, "L D"]] | None:
    """Return what was embedded for each label when labels were embedded last, and as what.

    The labels may be others now. None if it is not there, damaged, or of another encoder.
    """
    try:
        text = workspace.read(LABELS_COMMIT).decode("utf-8")
        commit = read_commit(LabelsCommit, text, where="", fix="")
        data = workspace.read(LABEL_TEXTS)
    except (FileNotFoundError, ValueError, CacheCorruptError):
        return None
    if commit.spec_id != plan.spec_id or hashlib.sha256(data).hexdigest() != commit.texts_sha256:
        return None
    matrix = np.empty((commit.num_labels, plan.encoder.embed_dim), LABEL_DTYPE)
    if read_chunk(workspace, chunk_name("label", 0), matrix, commit.crc32c):
        return None
    return [tuple(texts) for texts in parquet_table(data)["texts"].to_pylist()], matrix


def _incomplete(
    workspace: Storage, unfinished: list[ShardState], num_shards: int
) -> CacheIncompleteError:
    shown = ", ".join(
        f"shard {state.shard} {state.state}" + (f" ({state.reason})" if state.reason else "")
        for state in unfinished[:3]
    )
    return CacheIncompleteError(
        f"{len(unfinished)} of {num_shards} shards are not done: {shown}",
        where=workspace.where("cache"),
        fix="run `python cli.py embed --all`; fit and its like go on without them with "
        "--allow-partial",
    )
