"""Write a shard: chunk files, then the rows table, then the commit that makes it count.

A process killed before the commit leaves chunks that nobody reads; the next run of the shard
writes the same bytes over them. Cost: one pass over the embeddings and one flush per chunk.

N items, C labels, D embedding width, R rows of a chunk.
"""

import hashlib
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from cache.layout import (
    ITEM_DTYPE,
    LABEL_DTYPE,
    MODALITIES,
    chunk_num_bytes,
    chunk_path,
    chunk_range,
    commit_path,
    crc32c,
    labels_commit_path,
    open_arrays,
    parquet_bytes,
    rows_path,
    write_label_metadata,
)
from cache.storage import atomic_write, remove
from schemas.commit import LabelsCommit, ShardCommit, sealed_json
from schemas.plan import Plan
from schemas.tables import ROWS


class ShardWriter:
    """Takes a shard's embeddings in row order and commits them when all are there."""

    def __init__(self, workspace: Path, plan: Plan, shard: int) -> None:
        """Open the arrays for one shard and withdraw its old commit, if any.

        Raises: SpecMismatchError if the cache was made by another encoder; ShardError.
        """
        self._workspace, self._plan, self._shard = workspace, plan, shard
        self.start, self.stop = plan.shard_range(shard)
        self._chunks = chunk_range(plan, shard)
        self._pending: list[dict[str, Float[np.ndarray, "R D"]]] = []
        self._crc32c: dict[str, list[int]] = {name: [] for name in MODALITIES}
        open_arrays(workspace, plan)
        # From here on the chunks may be newer than the commit: it must not vouch for them.
        remove(commit_path(workspace, shard))

    def append(self, **embeddings: Float[np.ndarray, "R D"]) -> None:
        """Add the next rows of every modality; whole chunks go to disk at once.

        Args:
            embeddings: `image` and `title`, equally long, NaN in the rows without one.
        """
        self._pending.append({name: embeddings[name] for name in MODALITIES})
        rows = sum(len(part["image"]) for part in self._pending)
        if rows >= self._plan.chunk_rows:
            self._write_pending(whole_chunks_only=True)

    def _write_pending(self, *, whole_chunks_only: bool) -> None:
        size = self._plan.chunk_rows
        rest: dict[str, Float[np.ndarray, "R D"]] = {}
        for name in MODALITIES:
            matrix = np.concatenate([part[name] for part in self._pending])
            stop = len(matrix) // size * size if whole_chunks_only else len(matrix)
            for begin in range(0, stop, size):
                self._write_chunk(name, matrix[begin : min(begin + size, stop)])
            rest[name] = matrix[stop:]
        self._pending = [rest] if len(rest["image"]) else []

    def _write_chunk(self, name: str, matrix: Float[np.ndarray, "R D"]) -> None:
        padded = np.full((self._plan.chunk_rows, self._plan.encoder.embed_dim), np.nan, ITEM_DTYPE)
        padded[: len(matrix)] = matrix
        chunk = self._chunks[len(self._crc32c[name])]
        checksum = crc32c(padded)
        path = chunk_path(self._workspace, name, chunk)
        atomic_write(path, padded.data, checksum.to_bytes(4, "little"))
        self._crc32c[name].append(checksum)

    def commit(
        self, rows: pa.Table, *, compute_dtype: str, batch_size: int, seconds: float
    ) -> ShardCommit:
        """Write what is pending, the rows table and, last, the commit.

        Args:
            rows: the shard's rows, in order, in the schema ROWS.
            compute_dtype: in which the encoder ran.
            batch_size: at which the encoder ran.
            seconds: wall time of the shard.
        """
        if self._pending:
            self._write_pending(whole_chunks_only=False)
        assert all(len(sums) == len(self._chunks) for sums in self._crc32c.values())
        assert len(rows) == self.stop - self.start
        rows_file = parquet_bytes(rows.cast(ROWS))
        atomic_write(rows_path(self._workspace, self._shard), rows_file)
        commit = ShardCommit(
            shard=self._shard,
            start=self.start,
            stop=self.stop,
            spec_id=self._plan.spec_id,
            items_sha256=self._plan.shards[self._shard],
            image_ok=rows["image_ok"].to_pylist().count(True),
            title_ok=rows["title_ok"].to_pylist().count(True),
            num_bad=len(rows) - rows["error"].null_count,
            chunk_bytes=chunk_num_bytes(self._plan),
            image_crc32c=tuple(self._crc32c["image"]),
            title_crc32c=tuple(self._crc32c["title"]),
            rows_sha256=hashlib.sha256(rows_file).hexdigest(),
            compute_dtype=compute_dtype,
            batch_size=batch_size,
            seconds=round(seconds, 3),
            host=socket.gethostname(),
        )
        path = commit_path(self._workspace, self._shard)
        atomic_write(path, sealed_json(commit).encode())
        return commit


def write_labels(
    workspace: Path,
    plan: Plan,
    label_emb: Float[np.ndarray, "C D"],
    *,
    compute_dtype: str,
    seconds: float,
) -> None:
    """Write the label embeddings and their commit.

    Raises: WorkspaceError if the workspace cannot be written.
    """
    matrix = np.ascontiguousarray(label_emb, LABEL_DTYPE)
    checksum = crc32c(matrix)
    remove(labels_commit_path(workspace))
    write_label_metadata(workspace, plan)
    atomic_write(chunk_path(workspace, "label", 0), matrix.data, checksum.to_bytes(4, "little"))
    commit = LabelsCommit(
        spec_id=plan.spec_id,
        labels_sha256=plan.labels_sha256,
        label_text=plan.label_text,
        num_labels=plan.num_labels,
        crc32c=checksum,
        compute_dtype=compute_dtype,
        seconds=round(seconds, 3),
        host=socket.gethostname(),
    )
    atomic_write(labels_commit_path(workspace), sealed_json(commit).encode())
