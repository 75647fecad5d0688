"""Read a committed cache into memory, checking every byte on the way.

Reads the chunk files themselves straight into one preallocated matrix, several threads at a
time. Cost at 12M items and D = 512: 24.6 GB of reading and as much memory.

N items, C labels, D embedding width, R rows of a chunk.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float16, Float32

from cache.layout import (
    FOOTER_BYTES,
    ITEM_DTYPE,
    LABEL_DTYPE,
    MODALITIES,
    check_array,
    chunk_path,
    chunk_range,
    crc32c,
    items_path,
    labels_commit_path,
    labels_path,
    rows_path,
)
from cache.verify import ShardState, shard_state
from schemas.commit import LabelsCommit, ShardCommit, read_commit
from schemas.configs import digest
from schemas.errors import CacheCorruptError, CacheIncompleteError
from schemas.plan import Plan
from schemas.tables import ROWS

_NUM_THREADS = 4
_EMBED_LABELS = "run `python cli.py embed --labels`"


class Cache:
    """The finished shards of a workspace."""

    def __init__(self, workspace: Path, plan: Plan, *, allow_partial: bool = False) -> None:
        """Open the cache.

        Args:
            workspace: folder with the plan and the cache.
            plan: the workspace's plan.
            allow_partial: read unfinished shards as rows without embeddings instead of refusing.
        Raises: CacheIncompleteError if a shard is not done; SpecMismatchError if the cache was
            made by another encoder.
        """
        self._workspace, self._plan = workspace, plan
        states = [shard_state(workspace, plan, shard) for shard in range(plan.num_shards)]
        unfinished = [state for state in states if state.commit is None]
        if unfinished and not (allow_partial and len(unfinished) < len(states)):
            raise _incomplete(workspace, unfinished, len(states))
        self.commits: dict[int, ShardCommit] = {
            state.shard: state.commit for state in states if state.commit is not None
        }
        for name in MODALITIES:
            check_array(workspace, plan, name)

    def sha256(self) -> str:
        """Return a hash of every embedding and row in the cache, whoever made them and when."""
        return digest(
            [
                [shard, commit.image_crc32c, commit.title_crc32c, commit.rows_sha256]
                for shard, commit in sorted(self.commits.items())
            ]
        )

    def read(self, name: str) -> Float16[np.ndarray, "N D"]:
        """Read all embeddings of one modality, checksums compared with the commits.

        Args:
            name: `image` or `title`.
        Returns: row i is item i of the plan; NaN where the item has none.
        Raises: CacheCorruptError naming the chunk that does not match.
        """
        plan = self._plan
        matrix = np.empty((plan.num_items, plan.encoder.embed_dim), ITEM_DTYPE)
        chunks: list[tuple[int, int]] = []
        for shard in range(plan.num_shards):
            if shard not in self.commits:
                matrix[slice(*plan.shard_range(shard))] = np.nan
                continue
            commit = self.commits[shard]
            sums = commit.image_crc32c if name == "image" else commit.title_crc32c
            chunks += zip(chunk_range(plan, shard), sums, strict=True)

        def read_one(chunk_and_sum: tuple[int, int]) -> None:
            chunk, checksum = chunk_and_sum
            start = chunk * plan.chunk_rows
            out = matrix[start : start + plan.chunk_rows]
            if len(out) < plan.chunk_rows:  # the last chunk is padded
                padded = np.empty((plan.chunk_rows, matrix.shape[1]), ITEM_DTYPE)
                _read_chunk(chunk_path(self._workspace, name, chunk), padded, checksum)
                out[:] = padded[: len(out)]
            else:
                _read_chunk(chunk_path(self._workspace, name, chunk), out, checksum)

        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(read_one, chunks))
        return matrix

    def read_rows(self, columns: Sequence[str] = ROWS.names) -> pa.Table:
        """Read the rows tables of all shards, sha256 checked.

        An unfinished shard gives its item ids with both modalities absent.

        Args:
            columns: of the schema ROWS.
        Raises: CacheCorruptError if a table does not match its commit.
        """
        tables = []
        for shard in range(self._plan.num_shards):
            if shard not in self.commits:
                tables.append(self._absent_rows(shard).select(columns))
                continue
            path = rows_path(self._workspace, shard)
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != self.commits[shard].rows_sha256:
                raise CacheCorruptError(
                    "rows table does not match its sha256 in the commit",
                    where=str(path),
                    fix=f"run `python cli.py embed --shard {shard}`: it redoes what does not match",
                )
            tables.append(pq.read_table(pa.BufferReader(data), columns=list(columns)))
        return pa.concat_tables(tables)

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


def read_items(workspace: Path, plan: Plan, shard: int) -> pa.Table:
    """Read a shard's items as plan wrote them, in the schema ITEMS.

    Raises: CacheCorruptError if the table is missing or not the planned one.
    """
    return _planned_table(items_path(workspace, shard), plan.items_tables[shard])


def read_all_items(workspace: Path, plan: Plan) -> pa.Table:
    """Read the items of all shards, as `read_items` does."""
    return pa.concat_tables(read_items(workspace, plan, i) for i in range(plan.num_shards))


def read_labels(workspace: Path, plan: Plan) -> pa.Table:
    """Read the labels table in the schema LABELS.

    Raises: CacheCorruptError if the table is missing or not the planned one.
    """
    return _planned_table(labels_path(workspace), plan.labels_table)


def _planned_table(path: Path, sha256: str) -> pa.Table:
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CacheCorruptError(
            "table does not match its sha256 in the plan" if data else "planned table is missing",
            where=str(path),
            fix="run the same `python cli.py plan ...` again: it writes the planned tables anew",
        )
    return pq.read_table(pa.BufferReader(data))


def labels_state(workspace: Path, plan: Plan) -> LabelsCommit:
    """Return the commit of the label embeddings.

    Raises: CacheIncompleteError if they are absent or were made from other labels or by another
        encoder.
    """
    path = labels_commit_path(workspace)
    if not path.is_file():
        raise CacheIncompleteError(
            "label embeddings are missing", where=str(path), fix=_EMBED_LABELS
        )
    commit = read_commit(LabelsCommit, path.read_text(), where=str(path), fix=_EMBED_LABELS)
    for name in ("spec_id", "labels_sha256", "label_text"):
        found, expected = getattr(commit, name), getattr(plan, name)
        if found != expected:
            raise CacheIncompleteError(
                f"label embeddings are stale: {name} is {found}, plan says {expected}",
                where=str(path),
                fix=_EMBED_LABELS,
            )
    return commit


def read_label_emb(workspace: Path, plan: Plan) -> Float32[np.ndarray, "C D"]:
    """Read the label embeddings; row i is label i.

    Raises: CacheIncompleteError if absent or stale; CacheCorruptError on a bad checksum.
    """
    commit = labels_state(workspace, plan)
    check_array(workspace, plan, "label")
    matrix = np.empty((plan.num_labels, plan.encoder.embed_dim), LABEL_DTYPE)
    _read_chunk(chunk_path(workspace, "label", 0), matrix, commit.crc32c)
    return matrix


def _read_chunk(path: Path, out: Float[np.ndarray, "R D"], checksum: int) -> None:
    """Fill `out` from a chunk file.

    Compares the data with its footer and the footer with the commit: a flipped bit breaks the
    first, two swapped files only the second.
    """
    num_read, footer = 0, b""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        num_read = file.readinto(out.data.cast("B"))
        footer = file.read(FOOTER_BYTES + 1)
    if num_read != out.nbytes or len(footer) != FOOTER_BYTES:
        problem = f"has {num_read + len(footer)} bytes, expected {out.nbytes + FOOTER_BYTES}"
    elif int.from_bytes(footer, "little") != checksum or crc32c(out) != checksum:
        problem = "does not match its crc32c in the commit"
    else:
        return
    raise CacheCorruptError(
        f"chunk {problem}",
        where=str(path),
        fix="run `python cli.py embed --all --labels`: it redoes whatever does not match",
    )


def _incomplete(
    workspace: Path, unfinished: list[ShardState], num_shards: int
) -> CacheIncompleteError:
    shown = ", ".join(
        f"shard {state.shard} {state.state}" + (f" ({state.reason})" if state.reason else "")
        for state in unfinished[:3]
    )
    return CacheIncompleteError(
        f"{len(unfinished)} of {num_shards} shards are not done: {shown}",
        where=str(workspace / "cache"),
        fix="run `python cli.py embed --all`, or pass --allow-partial to go on without them",
    )
