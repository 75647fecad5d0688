"""Write a shard: chunk files, then the rows table, then the commit that makes it count.

A writer holds the shard's lease. A chunk that is finished is kept with its rows as a part, so that
a killed run goes on after its last whole chunk, and a broken shard is mended chunk by chunk. Cost:
one pass over the embeddings, one flush a file, and both matrices of the shard in memory (134 MB at
65,536 rows and D = 512).

N items, C labels, D embedding width, R rows of a chunk, n some rows.
"""

import hashlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float16

from cache.layout import (
    FOOTER_BYTES,
    ITEM_DTYPE,
    LABEL_DTYPE,
    LABEL_TEXTS,
    LABELS_COMMIT,
    MODALITIES,
    chunk_name,
    chunk_num_bytes,
    chunk_range,
    commit_name,
    crc32c,
    open_arrays,
    parquet_bytes,
    parquet_table,
    part_name,
    read_chunk,
    rows_name,
    write_chunk,
    write_label_metadata,
)
from cache.lease import Lease
from cache.storage import Storage
from cache.verify import load_commit
from schemas.commit import ChunkPart, LabelsCommit, ShardCommit, sealed_json
from schemas.configs import from_json, to_json
from schemas.errors import PipelineError
from schemas.plan import Plan
from schemas.tables import LABEL_TEXTS as TEXTS
from schemas.tables import ROWS

logger = logging.getLogger(__name__)

_PART_KEY = b"shelfwise"


class ShardWriter:
    """Takes a shard's chunks and commits them when all are there; a context manager.

    Leaving it without a commit keeps the chunks that are whole and frees the lease.
    """

    def __init__(
        self,
        workspace: Storage,
        plan: Plan,
        shard: int,
        *,
        compute_dtype: str,
        batch_size: int,
        decoder: str = "pillow",
    ) -> None:
        """Name the shard and how it is made; entering takes its lease.

        Args:
            workspace: where the plan and the cache are.
            plan: the workspace's plan.
            shard: position in the plan.
            compute_dtype: in which the encoder runs, or `imported`.
            batch_size: at which it runs; 0 where it does not.
            decoder: of its pictures.
        Raises: ShardError if the plan has no such shard.
        """
        self._workspace, self._plan, self._shard = workspace, plan, shard
        self._made: dict[str, Any] = {
            "spec_id": plan.spec_id,
            "compute_dtype": compute_dtype,
            "batch_size": batch_size,
            "decoder": decoder,
        }
        self._lease = Lease(workspace, shard)
        self.start, self.stop = plan.shard_range(shard)
        self.chunks = chunk_range(plan, shard)
        self._parts: dict[int, ChunkPart] = {}
        self._rows: dict[int, pa.Table] = {}
        self._matrices: dict[tuple[str, int], Float16[np.ndarray, "R D"]] = {}
        self._committed_as: ShardCommit | None = None  # whole already, and not discarded
        self._started = 0.0

    def __enter__(self) -> "ShardWriter":
        """Take the lease, open the arrays and keep what is already right.

        Raises: LeaseError if another process writes the shard; SpecMismatchError if the cache
            was made by another encoder.
        """
        self._started = time.perf_counter()
        self._lease.__enter__()
        try:
            open_arrays(self._workspace, self._plan)
            self._recover()
        except BaseException:
            self._lease.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the lease."""
        self._lease.__exit__(kind, error, traceback)

    @property
    def missing(self) -> list[int]:
        """The chunks that are still to be written, in order."""
        return [chunk for chunk in self.chunks if chunk not in self._parts]

    def rows(self, chunk: int) -> pa.Table | None:
        """Return the rows of a finished chunk in the schema ROWS; None if it is not."""
        return self._rows.get(chunk)

    def embedding(self, name: str, row: int) -> Float16[np.ndarray, " D"]:
        """Return one embedding of a finished chunk, its row counted in the shard."""
        index, local = divmod(row, self._plan.chunk_rows)
        return self._matrices[name, self.chunks[index]][local]

    def chunk_range(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last, counted in the plan."""
        start = chunk * self._plan.chunk_rows
        return start, min(start + self._plan.chunk_rows, self.stop)

    def write(
        self,
        chunk: int,
        *,
        image: Float[np.ndarray, "R D"],
        title: Float[np.ndarray, "R D"],
        rows: pa.Table,
    ) -> None:
        """Put one whole chunk in place.

        Args:
            chunk: its number.
            image: of unit length, NaN in the rows without one; kept, so not to be changed.
            title: likewise.
            rows: its rows, in order, in the schema ROWS.
        Raises: LeaseError if another process took the shard; WorkspaceError.
        """
        assert len(image) == len(title) == len(rows)

        def put(name: str, matrix: Float[np.ndarray, "R D"]) -> int:
            whole = self._matrices[name, chunk] = self._whole(matrix)
            return write_chunk(self._workspace, chunk_name(name, chunk), whole, self._lease.check)

        # Both at once: most of the time goes into waiting for the disk.
        with ThreadPoolExecutor(len(MODALITIES)) as pool:
            image_crc32c, title_crc32c = pool.map(put, MODALITIES, (image, title))
        part = ChunkPart(
            chunk=chunk,
            items_sha256=self._plan.shards[self._shard],
            image_crc32c=image_crc32c,
            title_crc32c=title_crc32c,
            **self._made,
        )
        self._keep(part, rows.cast(ROWS))

    def commit(self) -> ShardCommit:
        """Write the rows table and, last, the commit; then forget the parts.

        Raises: LeaseError if another process took the shard; WorkspaceError.
        """
        assert not self.missing
        rows = pa.concat_tables(self._rows[chunk] for chunk in self.chunks)
        assert len(rows) == self.stop - self.start
        rows_file = parquet_bytes(rows)
        name = rows_name(self._shard)
        commit = ShardCommit(
            shard=self._shard,
            start=self.start,
            stop=self.stop,
            items_sha256=self._plan.shards[self._shard],
            image_ok=rows["image_ok"].to_pylist().count(True),
            title_ok=rows["title_ok"].to_pylist().count(True),
            num_bad=len(rows) - rows["error"].null_count,
            reasons=count_reasons(rows["error"].drop_null().to_pylist()),
            chunk_bytes=chunk_num_bytes(self._plan),
            image_crc32c=tuple(self._parts[chunk].image_crc32c for chunk in self.chunks),
            title_crc32c=tuple(self._parts[chunk].title_crc32c for chunk in self.chunks),
            rows_sha256=hashlib.sha256(rows_file).hexdigest(),
            seconds=round(time.perf_counter() - self._started, 3),
            host=socket.gethostname(),
            **self._made,
        )
        if self._committed_as is not None and _says_the_same(commit, self._committed_as):
            self._forget_parts()
            return self._committed_as
        if self._committed_as is not None:
            self._uncommit(self._parts)
        self._workspace.write(name, rows_file, check=self._lease.check)
        text = sealed_json(commit).encode()
        self._workspace.write(commit_name(self._shard), text, check=self._lease.check)
        self._forget_parts()
        return commit

    def _forget_parts(self) -> None:
        for chunk in self.chunks:
            self._workspace.remove(part_name(self._shard, chunk))

    def discard(self, first_chunk: int) -> None:
        """Forget a chunk and those after it, which may repeat its content: all are missing now."""
        if self._committed_as is not None:
            self._uncommit(range(self.chunks.start, first_chunk))
        for chunk in range(first_chunk, self.chunks.stop):
            self._workspace.remove(part_name(self._shard, chunk))
            self._parts.pop(chunk, None)
            self._rows.pop(chunk, None)

    def _whole(self, matrix: Float[np.ndarray, "n D"]) -> Float16[np.ndarray, "R D"]:
        """Return a matrix as a chunk file has it; the last one of the plan is padded with NaN."""
        if len(matrix) == self._plan.chunk_rows:
            return np.ascontiguousarray(matrix, ITEM_DTYPE)
        whole = np.full((self._plan.chunk_rows, matrix.shape[1]), np.nan, ITEM_DTYPE)
        whole[: len(matrix)] = matrix
        return whole

    def _keep(self, part: ChunkPart, rows: pa.Table) -> None:
        """Write a finished chunk's rows with what vouches for it, and a crc32c at the end."""
        file = parquet_bytes(rows.replace_schema_metadata({_PART_KEY: to_json(part).encode()}))
        footer = crc32c(file).to_bytes(FOOTER_BYTES, "little")
        self._workspace.write(
            part_name(self._shard, part.chunk), file, footer, check=self._lease.check
        )
        self._parts[part.chunk], self._rows[part.chunk] = part, rows

    def _recover(self) -> None:
        """Keep the chunks of a killed run, or of a broken shard, that verify.

        They must have been made in this configuration, so that what comes out is what one
        uninterrupted run writes. A commit under which everything is right stays.
        """
        commit, old = self._committed()
        for chunk in self.chunks:
            candidate = old.get(chunk) or self._read_part(chunk)
            if candidate is None or not self._is_right(candidate[0]):
                continue
            part, rows = candidate
            if not self._read_chunks(part):
                continue
            self._parts[chunk], self._rows[chunk] = part, rows
        if old and not self.missing:
            self._committed_as = commit
        else:
            self._uncommit([chunk for chunk in self._parts if chunk in old])
        if self._parts:
            logger.info(
                "shard %05d: %d of %d chunks are there already",
                self._shard,
                len(self._parts),
                len(self.chunks),
            )

    def _uncommit(self, kept: Iterable[int]) -> None:
        """Remove the commit: from now on chunks may be newer than it. Keep chunks as parts."""
        for chunk in kept:
            self._keep(self._parts[chunk], self._rows[chunk])
        self._workspace.remove(commit_name(self._shard))
        self._committed_as = None

    def _is_right(self, part: ChunkPart) -> bool:
        made = {name: getattr(part, name) for name in self._made}
        return made == self._made and part.items_sha256 == self._plan.shards[self._shard]

    def _read_chunks(self, part: ChunkPart) -> bool:
        """Read a chunk of both modalities; say whether both are right."""
        shape = (self._plan.chunk_rows, self._plan.encoder.embed_dim)
        for name, checksum in (("image", part.image_crc32c), ("title", part.title_crc32c)):
            whole = self._matrices[name, part.chunk] = np.empty(shape, ITEM_DTYPE)
            if read_chunk(self._workspace, chunk_name(name, part.chunk), whole, checksum):
                return False
        return True

    def _committed(self) -> tuple[ShardCommit | None, dict[int, tuple[ChunkPart, pa.Table]]]:
        """Return the old commit and its chunks; nothing if it or the rows are damaged."""
        try:
            commit = load_commit(self._workspace, self._shard)
            data = self._workspace.read(rows_name(self._shard)) if commit else b""
        except (PipelineError, FileNotFoundError):
            return None, {}
        if commit is None or hashlib.sha256(data).hexdigest() != commit.rows_sha256:
            return None, {}
        if (commit.start, commit.stop) != (self.start, self.stop):
            return None, {}
        rows = parquet_table(data)
        found = {}
        for index, chunk in enumerate(self.chunks):
            part = ChunkPart(
                chunk=chunk,
                spec_id=commit.spec_id,
                items_sha256=commit.items_sha256,
                image_crc32c=commit.image_crc32c[index],
                title_crc32c=commit.title_crc32c[index],
                compute_dtype=commit.compute_dtype,
                batch_size=commit.batch_size,
                decoder=commit.decoder,
            )
            start, stop = self.chunk_range(chunk)
            found[chunk] = part, rows.slice(start - self.start, stop - start)
        return commit, found

    def _read_part(self, chunk: int) -> tuple[ChunkPart, pa.Table] | None:
        name = part_name(self._shard, chunk)
        try:
            data = self._workspace.read(name)
        except FileNotFoundError:
            return None
        file, footer = data[:-FOOTER_BYTES], data[-FOOTER_BYTES:]
        if not file or crc32c(file) != int.from_bytes(footer, "little"):
            return None
        rows = parquet_table(file)
        text = rows.schema.metadata[_PART_KEY].decode()
        try:
            part = from_json(ChunkPart, text, where=name, fix="")
        except PipelineError:  # of another version
            return None
        if part.chunk != chunk:
            return None
        return part, rows.replace_schema_metadata(None)


def _says_the_same(new: ShardCommit, old: ShardCommit) -> bool:
    """Compare commits but for time, place and how a version of Arrow wrote the same rows."""
    own = {name: getattr(old, name) for name in ("rows_sha256", "seconds", "host", "body_sha256")}
    return replace(new, **own) == old


def count_reasons(errors: list[str]) -> dict[str, int]:
    """Count errors by kind: `image: too many pixels: 9 x 9` counts as `image: too many pixels`."""
    kinds: Counter[str] = Counter()
    for error in errors:
        for part in error.split("; "):
            kinds[": ".join(part.split(": ", 2)[:2])] += 1
    return dict(sorted(kinds.items()))


def write_labels(
    workspace: Storage,
    plan: Plan,
    label_emb: Float[np.ndarray, "C D"],
    *,
    texts: Sequence[tuple[str, ...]] | None = None,
    compute_dtype: str,
    seconds: float,
) -> None:
    """Write the label embeddings and their commit.

    Args:
        workspace: where to.
        plan: the workspace's plan.
        label_emb: row i is label i.
        texts: what was embedded for each, so that a label whose texts stay keeps its embedding.
        compute_dtype: in which the encoder ran.
        seconds: that it took.
    Raises: WorkspaceError if the workspace cannot be written.
    """
    workspace.remove(LABELS_COMMIT)
    write_label_metadata(workspace, plan)
    checksum = write_chunk(
        workspace, chunk_name("label", 0), np.ascontiguousarray(label_emb, LABEL_DTYPE)
    )
    texts_sha256 = ""
    if texts is not None:
        table = pa.table({"texts": [list(each) for each in texts]}, schema=TEXTS)
        file = parquet_bytes(table)
        workspace.write(LABEL_TEXTS, file)
        texts_sha256 = hashlib.sha256(file).hexdigest()
    commit = LabelsCommit(
        texts_sha256=texts_sha256,
        spec_id=plan.spec_id,
        labels_sha256=plan.labels_sha256,
        label_text=plan.label_text,
        num_labels=plan.num_labels,
        crc32c=checksum,
        compute_dtype=compute_dtype,
        seconds=round(seconds, 3),
        host=socket.gethostname(),
    )
    workspace.write(LABELS_COMMIT, sealed_json(commit).encode())
