"""Take embeddings that were made elsewhere into the cache of a planned workspace.

Takes .npy or Parquet files of image and title embeddings with the ids of their rows, as
clip-retrieval and embedding-reader lay them out; writes the same shards as embed does: chunks with
checksums, rows tables, commits whose compute_dtype is `imported`. Ids are matched to the plan's
whatever the order; rows are brought to unit length where they are not; a sample is embedded anew
with the plan's own encoder first, so that the cache cannot lie about who made it. Cost at 12M items
and D = 512: one read of the files and one write of the cache, 49 GB in all; in memory the ids as
Arrow, their hash table and a shard.

N items of the plan, S rows of the source, D embedding width, R rows of a chunk, n some rows.
"""

import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from jaxtyping import Float16, Float32, Int, UInt8

from cache.layout import ITEM_DTYPE, chunk_range, open_arrays, rows_name
from cache.reader import read_all_items, read_items
from cache.storage import Storage
from cache.verify import ShardState, shard_state
from cache.writer import ShardWriter
from pipeline.embed_shard import EncoderLike
from pipeline.embedding_files import BLOCK_ROWS, Source
from pipeline.embedding_rows import OK, gather, to_float32
from pipeline.import_check import check_sample
from pipeline.progress import Progress
from schemas.commit import IMPORTED, ShardCommit
from schemas.errors import EmbeddingFilesError, TooManyBadRowsError
from schemas.plan import Plan
from schemas.tables import ROWS

logger = logging.getLogger(__name__)

_REASONS = (None, "not imported", "embedding is not finite", "embedding is zero")


def import_embeddings(
    workspace: Storage,
    plan: Plan,
    source: Source,
    get_encoder: Callable[[], EncoderLike],
    *,
    max_bad: float = 0.05,
    trust: bool = False,
    redo: bool = False,
) -> None:
    """Write and commit every shard that is not done, from embeddings made elsewhere.

    An imported shard that has too many bad rows is tried again: the source may be fuller now.

    Args:
        workspace: where the plan is.
        plan: the workspace's plan.
        source: what to import.
        get_encoder: loads the planned encoder; called once, and only if there is work to check.
        max_bad: share of a shard's rows that may lack an embedding of a modality that the source
            has; checked after all shards.
        trust: do not compare a sample with what the encoder makes.
        redo: import the shards again although they are done.
    Raises: EmbeddingFilesError if ids repeat or match nothing; SpecMismatchError if the sample
        shows another encoder; TooManyBadRowsError, LeaseError, WorkspaceError.
    """
    started = time.perf_counter()
    positions = _match(workspace, plan, source)
    shards = range(plan.num_shards)
    states = [shard_state(workspace, plan, shard, checksums=True) for shard in shards]
    todo = [state for state in states if redo or _is_due(state, source, max_bad)]
    if todo and not trust:
        check_sample(workspace, plan, source, positions, functools.cache(get_encoder))
    checked = time.perf_counter()
    open_arrays(workspace, plan)
    commits = {state.shard: state.commit for state in states if state.commit is not None}
    num_rows = 0
    firsts = [chunk_range(plan, state.shard).start for state in todo]
    with (
        Progress("import", len(todo), unit="shard") as progress,
        _Reader(workspace, plan, source, positions) as reader,
    ):
        for state, following in zip(todo, [*firsts[1:], None], strict=False):
            commits[state.shard], num_written = _import_shard(
                workspace,
                plan,
                state.shard,
                reader,
                again=redo or state.commit is not None,
                following=following,
            )
            num_rows += num_written
            progress.update(1)
    _log_end(plan, len(todo), num_rows, checked - started, time.perf_counter() - checked)
    for _, commit in sorted(commits.items()):
        _check_bad(workspace, commit, source, max_bad)


def _log_end(plan: Plan, num_shards: int, num_rows: int, checking: float, writing: float) -> None:
    """Print what was done and where the seconds went."""
    num_bytes = 2 * num_rows * plan.encoder.embed_dim * ITEM_DTYPE.itemsize
    logger.info(
        "import: %s rows of %d shards, %d shards were done; %.1f s ids and checks, %.1f s read and "
        "write: %.0f rows/s, %.0f MB/s",
        f"{num_rows:,}",
        num_shards,
        plan.num_shards - num_shards,
        checking,
        writing,
        num_rows / writing,
        num_bytes / 1e6 / writing,
    )


def _match(workspace: Storage, plan: Plan, source: Source) -> Int[np.ndarray, " N"]:
    """Return for each item of the plan its row in the source, -1 where it has none."""
    _refuse_repeats(source)
    planned = read_all_items(workspace, plan)["item_id"].cast(pa.large_string())
    found = pc.index_in(planned, value_set=source.ids)
    num_found = len(found) - found.null_count
    if not num_found:
        raise EmbeddingFilesError(
            f"none of the {len(source.ids)} ids is in the plan: they look like "
            f"{source.ids[:3].to_pylist()}, the plan's like {planned[:3].to_pylist()}",
            where=source.where,
            fix="choose the column with --id-column, or write ids as the catalog has them",
        )
    if unknown := len(source.ids) - pc.count_distinct(found).as_py():
        logger.warning("%s rows of the source are not in the plan: ignored", f"{unknown:,}")
    if num_absent := plan.num_items - num_found:
        logger.warning("%s items of the plan are not in the source", f"{num_absent:,}")
    return found.fill_null(-1).to_numpy()


def _refuse_repeats(source: Source) -> None:
    first = pc.index_in(source.ids, value_set=source.ids).to_numpy()
    repeats = np.flatnonzero(first != np.arange(len(first)))
    if len(repeats):
        repeated = pc.unique(source.ids.take(pa.array(repeats))).to_pylist()
        raise EmbeddingFilesError(
            f"{len(repeated)} ids stand in more than one row, the first {repeated[:3]}",
            where=source.where,
            fix="keep one row an id, or choose another column with --id-column",
        )


def _cosine(
    image: Float16[np.ndarray, "R D"], title: Float16[np.ndarray, "R D"]
) -> Float32[np.ndarray, " R"]:
    """Multiply row by row, from what is stored, as embed does."""
    blocks = [
        slice(first, first + BLOCK_ROWS) for first in range(0, max(len(image), 1), BLOCK_ROWS)
    ]
    return np.concatenate(
        [np.einsum("rd,rd->r", to_float32(image[rows]), to_float32(title[rows])) for rows in blocks]
    )


def _rows_table(
    items: pa.Table,
    image_codes: UInt8[np.ndarray, " R"],
    title_codes: UInt8[np.ndarray, " R"],
    cosine: Float32[np.ndarray, " R"],
) -> pa.Table:
    """Return a chunk's rows in the schema ROWS."""
    is_bad = (image_codes != OK) | (title_codes != OK)
    # Taken from the list of all pairs: Arrow 26 loses rows when it joins two nulls.
    errors = [_error(image, title) for image in _REASONS for title in _REASONS]
    error = pa.array(errors, pa.string()).take(pa.array(image_codes * len(_REASONS) + title_codes))
    columns = {
        "row": items["row"],
        "item_id": items["item_id"],
        "image_ok": image_codes == OK,
        "title_ok": title_codes == OK,
        "error": error,
        "image_sha256": pa.nulls(len(items), pa.string()),
        "title_sha256": pa.nulls(len(items), pa.string()),
        "image_title_cosine": pa.array(cosine, pa.float32(), mask=is_bad),
    }
    return pa.table(columns, schema=ROWS)


def _error(image: str | None, title: str | None) -> str | None:
    """Return why a row lacks an embedding, as embed says it."""
    reasons = {"image": image, "title": title}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or None


def _is_due(state: ShardState, source: Source, max_bad: float) -> bool:
    """Say whether a shard is to be imported: it is not done, or was imported with too little.

    Raises: EmbeddingFilesError if that would lose embeddings that this source does not have.
    """
    commit = state.commit
    if commit is None:
        if state.reasons:
            logger.warning("shard %05d is mended: %s", state.shard, state.reason)
        return True
    if commit.compute_dtype != IMPORTED or _num_bad(commit, source) <= max_bad * _num_rows(commit):
        logger.info("shard %05d is done already", state.shard)
        return False
    for name, lost in (("image", commit.image_ok), ("title", commit.title_ok)):
        if lost and getattr(source, name) is None:
            raise EmbeddingFilesError(
                f"shard {state.shard} has {lost} {name} embeddings, this source has none",
                where=source.where,
                fix=f"give --{name}-emb too: a shard is imported with both at once",
            )
    return True


def _num_rows(commit: ShardCommit) -> int:
    return commit.stop - commit.start


def _num_bad(commit: ShardCommit, source: Source) -> int:
    """Count the rows that lack an embedding of a modality that the source has."""
    if source.image is None:
        return _num_rows(commit) - commit.title_ok
    if source.title is None:
        return _num_rows(commit) - commit.image_ok
    return commit.num_bad


def _check_bad(workspace: Storage, commit: ShardCommit, source: Source, max_bad: float) -> None:
    num_rows, num_bad = _num_rows(commit), _num_bad(commit, source)
    if commit.compute_dtype == IMPORTED and num_bad > max_bad * num_rows:
        shown = ", ".join(f"{num} {reason!r}" for reason, num in commit.reasons.items())
        raise TooManyBadRowsError(
            f"{num_bad} of {num_rows} rows lack an embedding "
            f"({num_bad / num_rows:.1%}, allowed are {max_bad:.1%}): {shown}",
            where=f"{workspace.where(rows_name(commit.shard))}, column error",
            fix="run the same command again with a source that has them, or raise --max-bad",
        )


_Prepared = tuple[Float16[np.ndarray, "R D"], Float16[np.ndarray, "R D"], pa.Table]


class _Reader:
    """Reads chunks in a thread of its own, while others are written; a context manager."""

    def __init__(
        self, workspace: Storage, plan: Plan, source: Source, positions: Int[np.ndarray, " N"]
    ) -> None:
        self._plan, self._source, self._positions = plan, source, positions
        self._items = functools.lru_cache(1)(functools.partial(read_items, workspace, plan))
        self._thread = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[_Prepared]] = {}

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def start(self, chunk: int) -> None:
        """Read a chunk ahead."""
        if chunk not in self._ahead:
            self._ahead[chunk] = self._thread.submit(self._prepare, chunk)

    def take(self, chunk: int) -> _Prepared:
        """Return a chunk; what else was read ahead is forgotten."""
        self.start(chunk)
        prepared = self._ahead[chunk].result()
        self._ahead.clear()
        return prepared

    def _prepare(self, chunk: int) -> _Prepared:
        plan, start = self._plan, chunk * self._plan.chunk_rows
        shard, local = divmod(start, plan.shard_rows)
        items = self._items(shard).slice(local, plan.chunk_rows)
        positions = self._positions[start : start + len(items)]
        image, image_codes = gather(self._source.image, positions, plan.encoder.embed_dim)
        title, title_codes = gather(self._source.title, positions, plan.encoder.embed_dim)
        rows = _rows_table(items, image_codes, title_codes, _cosine(image, title))
        return image, title, rows


def _import_shard(
    workspace: Storage,
    plan: Plan,
    shard: int,
    reader: _Reader,
    *,
    again: bool,
    following: int | None,
) -> tuple[ShardCommit, int]:
    """Write what a shard lacks and commit it.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        shard: position in the plan.
        reader: of the chunks.
        again: write all of it, also what is there.
        following: chunk to read ahead during the commit; None for none.
    Returns: the commit, and how many rows were written.
    """
    writer = ShardWriter(workspace, plan, shard, compute_dtype=IMPORTED, batch_size=0)
    with writer:
        if again:
            writer.discard(writer.chunks.start)
        missing = writer.missing
        num_written = 0
        for chunk, after in zip(missing, [*missing[1:], following], strict=False):
            image, title, rows = reader.take(chunk)
            if after is not None:
                reader.start(after)
            writer.write(chunk, image=image, title=title, rows=rows)
            num_written += len(rows)
        return writer.commit(), num_written
