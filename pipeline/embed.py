"""Stage one: run the frozen encoders over a shard's items and commit what they say.

Takes the plan's items tables and the catalog, writes image and title embeddings and a rows table
per shard, and the label embeddings. A bad item never stops a batch: it keeps its row, with NaN
and the reason. Cost at 12M items: one decode and two forward passes each; the only stage that
wants GPU nodes.

B batch, D embedding width, C labels.
"""

import functools
import hashlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Float32, UInt8
from PIL import Image

from cache.layout import open_arrays
from cache.reader import read_items, read_label_emb, read_labels
from cache.verify import shard_state
from cache.writer import ShardWriter, write_labels
from pipeline.items import RawItem, check_unchanged, read_rows
from pipeline.labels import label_texts
from pipeline.pictures import PictureError, decode
from pipeline.progress import Progress
from schemas.commit import ShardCommit
from schemas.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    ConfigError,
    TooManyBadRowsError,
)
from schemas.plan import EncoderSpec, Plan
from schemas.tables import ROWS

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 3


class EncoderLike(Protocol):
    """What embedding needs of an encoder; `pipeline.encoder.Encoder` in earnest."""

    spec: EncoderSpec
    compute_dtype: str

    def preprocess(self, image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
        """Resize and crop an RGB image."""

    def encode_images(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> Float32[np.ndarray, "B D"]:
        """Embed preprocessed pictures."""

    def encode_texts(self, texts: list[str]) -> Float32[np.ndarray, "B D"]:
        """Embed texts."""


@dataclass(frozen=True, kw_only=True)
class _ReadItem:
    """An item with its picture decoded."""

    title: str | None
    pixels: UInt8[np.ndarray, "H W 3"] | None
    error: str | None
    image_sha256: str | None
    title_sha256: str | None


@dataclass(kw_only=True)
class _Seconds:
    """Where a shard's time went."""

    read: float = 0.0
    infer: float = 0.0
    write: float = 0.0


def embed_shard(
    workspace: Path,
    plan: Plan,
    shard: int,
    encoder: EncoderLike,
    *,
    batch_size: int = 256,
    num_workers: int = 4,
) -> ShardCommit:
    """Embed one shard and commit it, whatever was there before.

    Args:
        workspace: folder with the plan.
        plan: the workspace's plan.
        shard: position in the plan.
        encoder: the planned one.
        batch_size: B.
        num_workers: threads that read and decode pictures.
    Returns: the shard's commit.
    Raises: ShardError, SpecMismatchError, WorkspaceError.
    """
    started = time.perf_counter()
    seconds = _Seconds()
    items = read_items(workspace, plan, shard)
    writer = ShardWriter(workspace, plan, shard)
    tables: list[pa.Table] = []
    with (
        Progress(f"embed shard {shard:05d}", len(items)) as progress,
        ThreadPoolExecutor(num_workers) as pool,
    ):
        batches = _batches(plan, items, encoder, pool, batch_size)
        while True:
            clock = time.perf_counter()
            batch = next(batches, None)
            seconds.read += time.perf_counter() - clock
            if batch is None:
                break
            clock = time.perf_counter()
            image_emb, title_emb, cosine = _encode(batch, encoder)
            seconds.infer += time.perf_counter() - clock
            clock = time.perf_counter()
            writer.append(image=image_emb, title=title_emb)
            seconds.write += time.perf_counter() - clock
            tables.append(_columns(batch, cosine))
            progress.update(len(batch))
    rows = pa.concat_tables(tables)
    for name in ("item_id", "row"):
        rows = rows.add_column(0, name, items[name])
    clock = time.perf_counter()
    commit = writer.commit(
        rows.select(ROWS.names),
        compute_dtype=encoder.compute_dtype,
        batch_size=batch_size,
        seconds=time.perf_counter() - started,
    )
    seconds.write += time.perf_counter() - clock
    logger.info(
        "shard %05d: %s items, %.0f items/s (waiting to read %.1f s, infer %.1f s, write %.1f s)",
        shard,
        f"{len(items):,}",
        len(items) / commit.seconds,
        seconds.read,
        seconds.infer,
        seconds.write,
    )
    return commit


def embed_labels(workspace: Path, plan: Plan, encoder: EncoderLike, batch_size: int = 256) -> None:
    """Embed the label texts of the plan and commit them."""
    started = time.perf_counter()
    texts = label_texts(read_labels(workspace, plan), plan.label_text)
    parts = [
        encoder.encode_texts(texts[start : start + batch_size])
        for start in range(0, len(texts), batch_size)
    ]
    seconds = time.perf_counter() - started
    write_labels(
        workspace,
        plan,
        np.concatenate(parts),
        compute_dtype=encoder.compute_dtype,
        seconds=seconds,
    )
    logger.info("labels: %d embedded in %.1f s", len(texts), seconds)


def _batches(
    plan: Plan, items: pa.Table, encoder: EncoderLike, pool: ThreadPoolExecutor, batch_size: int
) -> Iterator[list[_ReadItem]]:
    """Yield decoded items in row order, some batches ahead of their use."""
    futures: deque[Future[_ReadItem]] = deque()

    def take(num: int) -> list[_ReadItem]:
        return [futures.popleft().result() for _ in range(num)]

    for raw in _raw_items(plan, items):
        futures.append(pool.submit(_read, raw, encoder))
        if len(futures) >= (1 + _BATCHES_AHEAD) * batch_size:
            yield take(batch_size)
    while futures:
        yield take(min(batch_size, len(futures)))


def _raw_items(plan: Plan, items: pa.Table) -> Iterator[RawItem]:
    """Yield the catalog's items of a shard; within a file its rows follow one another."""
    files = items["source_file"].to_numpy()
    rows = items["source_row"].to_numpy()
    borders = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]
    for start, stop in itertools.pairwise(borders):
        first, last = int(rows[start]), int(rows[stop - 1])
        for batch in read_rows(plan.items, int(files[start]), first, last + 1):
            yield from batch


def _read(raw: RawItem, encoder: EncoderLike) -> _ReadItem:
    """Load and decode one item's picture; whatever is wrong with it becomes its error."""
    data, pixels, image_error = None, None, raw.image_error
    if raw.image is not None:
        try:
            data = raw.image.read_bytes() if isinstance(raw.image, Path) else raw.image
            pixels = encoder.preprocess(decode(data))
        except (PictureError, ValueError, ArithmeticError, MemoryError) as error:
            image_error = str(error) or type(error).__name__
        except FileNotFoundError:
            image_error = "no such file"
        except OSError as error:
            image_error = f"cannot be read: {error.strerror}"
    errors = [
        f"{name}: {reason}"
        for name, reason in (("image", image_error), ("title", raw.title_error))
        if reason is not None
    ]
    return _ReadItem(
        title=raw.title,
        pixels=pixels,
        error="; ".join(errors) or None,
        image_sha256=hashlib.sha256(data).hexdigest() if data is not None else None,
        title_sha256=hashlib.sha256(raw.title.encode()).hexdigest()
        if raw.title is not None
        else None,
    )


def _encode(
    batch: list[_ReadItem], encoder: EncoderLike
) -> tuple[Float16[np.ndarray, "B D"], Float16[np.ndarray, "B D"], Float32[np.ndarray, " B"]]:
    """Return image and title embeddings, NaN where there is none, and their cosine."""
    shape = (len(batch), encoder.spec.embed_dim)
    image_emb, title_emb = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    pixels = {row: item.pixels for row, item in enumerate(batch) if item.pixels is not None}
    if pixels:
        image_emb[list(pixels)] = encoder.encode_images(np.stack(list(pixels.values())))
    titles = {row: item.title for row, item in enumerate(batch) if item.title is not None}
    if titles:
        title_emb[list(titles)] = encoder.encode_texts(list(titles.values()))
    cosine = (image_emb * title_emb).sum(axis=1)
    return image_emb.astype(np.float16), title_emb.astype(np.float16), cosine


def _columns(batch: list[_ReadItem], cosine: Float32[np.ndarray, " B"]) -> pa.Table:
    """Return the rows table of a batch, still without row and item_id."""
    columns = {
        "image_ok": [item.pixels is not None for item in batch],
        "title_ok": [item.title is not None for item in batch],
        "error": [item.error for item in batch],
        "image_sha256": [item.image_sha256 for item in batch],
        "title_sha256": [item.title_sha256 for item in batch],
    }
    arrays = {name: pa.array(values, ROWS.field(name).type) for name, values in columns.items()}
    arrays["image_title_cosine"] = pa.array(cosine, pa.float32(), mask=np.isnan(cosine))
    return pa.table(arrays)


def _check_bad(commit: ShardCommit, max_bad: float, workspace: Path) -> None:
    num_rows = commit.stop - commit.start
    if commit.num_bad > max_bad * num_rows:
        raise TooManyBadRowsError(
            f"{commit.num_bad} of {num_rows} rows lack an image or title "
            f"({commit.num_bad / num_rows:.1%}, allowed are {max_bad:.1%})",
            where=f"{workspace / 'cache' / 'rows' / f'{commit.shard:05d}.parquet'}, column error",
            fix="mend the files and run the same command again, or raise --max-bad",
        )


def embed(
    workspace: Path,
    plan: Plan,
    shards: Sequence[int],
    get_encoder: Callable[[], EncoderLike],
    *,
    with_labels: bool,
    batch_size: int = 256,
    num_workers: int = 2,
    max_bad: float = 0.05,
    redo: bool = False,
) -> None:
    """Embed shards and, asked to or with shard 0, the labels; skip what is done.

    Done is a shard whose every checksum is right and that has no more bad rows than allowed: a
    shard that had more is tried again, because the cause may be mended.

    Args:
        workspace: folder with the plan.
        plan: the workspace's plan.
        shards: positions in the plan.
        get_encoder: loads the planned encoder; called once, and only if there is work.
        with_labels: embed the labels too.
        batch_size: B.
        num_workers: threads that read and decode pictures.
        max_bad: share of a shard's rows that may lack an embedding; checked after all shards.
        redo: embed the shards again although they are done.
    Raises: SourceChangedError, TooManyBadRowsError, ShardError, SpecMismatchError.
    """
    for shard in shards:
        plan.shard_range(shard)
    encoder = functools.cache(get_encoder)
    if with_labels or 0 in shards:
        if _labels_are_done(workspace, plan):
            logger.info("labels are done already")
        else:
            embed_labels(workspace, plan, encoder(), batch_size)
    too_bad: list[TooManyBadRowsError] = []
    is_source_checked = False
    if shards:
        open_arrays(workspace, plan)
    for shard in shards:
        commit = None if redo else _done(workspace, plan, shard, max_bad)
        if commit is None:
            if not is_source_checked:
                check_unchanged(plan.items)
                is_source_checked = True
            commit = embed_shard(
                workspace,
                plan,
                shard,
                encoder(),
                batch_size=batch_size,
                num_workers=num_workers,
            )
        try:
            _check_bad(commit, max_bad, workspace)
        except TooManyBadRowsError as error:
            too_bad.append(error)
    if too_bad:
        raise too_bad[0]


def _done(workspace: Path, plan: Plan, shard: int, max_bad: float) -> ShardCommit | None:
    """Return the commit of a shard that need not be made again, else None."""
    state = shard_state(workspace, plan, shard, checksums=True)
    if state.commit is None:
        if state.reason:
            logger.warning("shard %05d is made again: %s", shard, state.reason)
        return None
    if state.commit.num_bad > max_bad * (state.commit.stop - state.commit.start):
        logger.info("shard %05d has %d bad rows: trying again", shard, state.commit.num_bad)
        return None
    logger.info("shard %05d is done already", shard)
    return state.commit


def _labels_are_done(workspace: Path, plan: Plan) -> bool:
    try:
        read_label_emb(workspace, plan)
    except (CacheIncompleteError, CacheCorruptError, ConfigError) as error:
        logger.info("%s: making them", error.what)
        return False
    return True
