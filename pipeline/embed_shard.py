"""One shard through reader, decoder, encoder and writer, a chunk at a time.

Each distinct picture and title of a shard is encoded once and put into every row that has it. A
bad item never stops a batch: it keeps its row, with NaN and the reason. What a chunk's embeddings
are depends on this chunk and those before it only, so that a run may stop and go on between any
two. Cost at 12M items: one decode and two forward passes for each distinct picture and title.

B batch, D embedding width, R rows of a chunk, S of a shard, H, W height and width in pixels.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float16, Float32, UInt8

from cache.layout import ITEM_DTYPE
from cache.reader import read_items, read_retired
from cache.storage import Storage
from cache.writer import ShardWriter
from pipeline.decode_pool import TASK_PICTURES, Decoded, DecodePool, JpegDecoder
from pipeline.item_contents import NUM_READERS, ReadItem, map_ahead, read_item
from pipeline.items import CatalogWatch, RawItem, read_places
from pipeline.logs import event
from pipeline.progress import Progress
from schemas.commit import ShardCommit
from schemas.plan import EncoderSpec, Plan
from schemas.tables import ROWS

logger = logging.getLogger(__name__)


Report = Callable[[int], None]
"""Told how many more items are decoded; what it raises stops the shard."""

RETIRED = "retired"
_TITLES_TOGETHER = 256
_RETIRED = RawItem(title=None, title_error=RETIRED, image=None, image_error=RETIRED)


def ignore(num_items: int) -> None:
    """Report to nobody."""


class EncoderLike(Protocol):
    """What embedding needs of an encoder; `pipeline.encoder.Encoder` in earnest."""

    spec: EncoderSpec
    compute_dtype: str
    jpegs: JpegDecoder | None

    def encode_images(
        self, batches: Iterable[UInt8[np.ndarray, "B H W 3"]]
    ) -> Iterator[Float32[np.ndarray, "B D"]]:
        """Embed batches of decoded pictures, in order, each before it asks for the next."""

    def encode_texts(self, texts: Sequence[str], batch_size: int) -> Float32[np.ndarray, "n D"]:
        """Embed texts."""


class ShardEncoder(EncoderLike, Protocol):
    """What embedding shards needs beside: texts are tokenized while pictures are embedded."""

    def tokenize(self, texts: Sequence[str]) -> Any:
        """Do the first part of embedding texts; any thread may."""

    def encode_tokens(self, parts: Sequence[Any], batch_size: int) -> Float32[np.ndarray, "n D"]:
        """Do the second, of some parts together."""


@dataclass
class _Content:
    """A distinct picture or title of the shard."""

    row: int
    """Row of the shard where it occurs first."""
    error: str | None = None
    """Why there is no embedding of it."""


@dataclass(kw_only=True)
class _Chunk:
    """A chunk under way: what each of its rows has, and what of it is new to the shard."""

    items: list[ReadItem] = field(default_factory=list)  # without their pictures
    images: list[_Content | None] = field(default_factory=list)
    titles: list[_Content | None] = field(default_factory=list)
    new_titles: dict[str, _Content] = field(default_factory=dict)
    tokens: list[Future[Any]] = field(default_factory=list)  # of its new titles, in order
    encoded: list[_Content] = field(default_factory=list)  # its new pictures that were decoded


@dataclass(kw_only=True)
class _Task:
    """Pictures on their way through the decoder."""

    contents: list[_Content]
    num_items: int
    is_last: bool


@dataclass(kw_only=True)
class _Timer:
    """Where a shard's time went, in seconds."""

    waiting: float = 0.0
    images: float = 0.0
    titles: float = 0.0
    writing: float = 0.0
    num_images: int = 0
    num_titles: int = 0
    num_items: int = 0


def embed_shard(
    workspace: Storage,
    plan: Plan,
    shard: int,
    encoder: ShardEncoder,
    pool: DecodePool,
    watch: CatalogWatch,
    *,
    batch_size: int,
    redo: Callable[[pa.Table], bool] | None = None,
    report: Report = ignore,
) -> ShardCommit:
    """Embed what a shard lacks and commit it.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        shard: position in the plan.
        encoder: the planned one.
        pool: decodes its pictures.
        watch: of the plan's catalog.
        batch_size: B.
        redo: says of a finished chunk's rows whether it is to be made again all the same.
        report: told each time how many more items are decoded. What it raises stops the shard;
            finished chunks are kept.
    Returns: the shard's commit.
    Raises: ShardError, LeaseError, SpecMismatchError, SourceChangedError, WorkspaceError.
    """
    started, decoding = time.perf_counter(), pool.seconds
    writer = ShardWriter(
        workspace,
        plan,
        shard,
        compute_dtype=encoder.compute_dtype,
        batch_size=batch_size,
        decoder="pillow" if pool.jpegs is None else "nvjpeg",
    )
    with writer:
        for chunk in writer.chunks:
            rows = writer.rows(chunk)
            if redo is not None and rows is not None and redo(rows):
                writer.discard(chunk)
                break
        run = _ShardRun(workspace, plan, shard, encoder, pool, watch, writer, batch_size, report)
        try:
            run.embed_missing()
            commit = writer.commit()
        except BaseException:
            num_kept = len(writer.chunks) - len(writer.missing)
            logger.warning(
                "shard %05d: stopped; %d of %d chunks are kept",
                shard,
                num_kept,
                len(writer.chunks),
                extra=event(
                    "shard_stopped", shard=shard, chunks_kept=num_kept, chunks=len(writer.chunks)
                ),
            )
            raise
    timer = run.timer
    _log_end(commit, timer, time.perf_counter() - started, pool.seconds - decoding)
    return commit


def _log_end(commit: ShardCommit, timer: _Timer, seconds: float, decoding: float) -> None:
    """Print the shard's rate, and beside it what each part alone could do."""
    num_bytes = 2 * len(commit.image_crc32c) * commit.chunk_bytes
    rates = {
        "items_per_second": timer.num_items / seconds,
        "decode_images_per_second": timer.num_images / max(decoding, 1e-9),
        "encode_images_per_second": timer.num_images / max(timer.images, 1e-9),
        "encode_titles_per_second": timer.num_titles / max(timer.titles, 1e-9),
        "write_megabytes_per_second": num_bytes / 1e6 / max(timer.writing, 1e-9),
    }
    logger.info(
        "shard %05d: %s items, %.0f items/s; waited %.1f s for pictures, %.1f s images, "
        "%.1f s titles, %.1f s write; limits: decode %.0f images/s, encoder %.0f images/s and "
        "%.0f titles/s, disk %.0f MB/s; distinct: %s images, %s titles",
        commit.shard,
        f"{timer.num_items:,}",
        rates["items_per_second"],
        timer.waiting,
        timer.images,
        timer.titles,
        timer.writing,
        *list(rates.values())[1:],
        f"{timer.num_images:,}",
        f"{timer.num_titles:,}",
        extra=event(
            "shard_done",
            shard=commit.shard,
            items=timer.num_items,
            bad=commit.num_bad,
            seconds=round(seconds, 3),
            **{name: round(rate, 1) for name, rate in rates.items()},
        ),
    )


class _ShardRun:
    """The shard's missing chunks, in order."""

    def __init__(
        self,
        workspace: Storage,
        plan: Plan,
        shard: int,
        encoder: ShardEncoder,
        pool: DecodePool,
        watch: CatalogWatch,
        writer: ShardWriter,
        batch_size: int,
        report: Report,
    ) -> None:
        self.timer = _Timer()
        self._plan, self._shard = plan, shard
        self._items, self._is_retired = shard_items(workspace, plan, shard)
        self._files = live_files(self._items, self._is_retired)
        self._encoder, self._pool, self._watch, self._writer = encoder, pool, watch, writer
        self._batch_size, self._report = batch_size, report
        self._batch = np.empty((batch_size, *plan.encoder.preprocess.size, 3), np.uint8)
        # By sha256: contents of earlier chunks, and of those that are being read ahead.
        self._images: dict[str, _Content] = {}
        self._titles: dict[str, _Content] = {}
        self._under_way: dict[int, _Chunk] = {}

    def embed_missing(self) -> None:
        """Embed and write every missing chunk."""
        missing = self._writer.missing
        if missing:
            self._watch.check(self._files)
        self._know_finished_chunks()
        num_rows = sum(stop - start for start, stop in map(self._writer.chunk_range, missing))
        with (
            Progress(f"embed shard {self._shard:05d}", num_rows, shard=self._shard) as progress,
            ThreadPoolExecutor(NUM_READERS) as readers,
            ThreadPoolExecutor(1) as tokenizer,
        ):
            decoded = self._pool.decode(self._tasks(missing, readers, tokenizer))
            for number in missing:
                self._embed_chunk(number, decoded, progress)

    def _know_finished_chunks(self) -> None:
        """Take the contents of finished chunks as known, as if this run had made them."""
        for chunk in self._writer.chunks:
            rows = self._writer.rows(chunk)
            if rows is None:
                continue
            for known, name in ((self._images, "image"), (self._titles, "title")):
                is_ok, shas = rows[f"{name}_ok"].to_pylist(), rows[f"{name}_sha256"].to_pylist()
                first = self._writer.chunk_range(chunk)[0] - self._writer.start
                for row, (ok, sha) in enumerate(zip(is_ok, shas, strict=True), first):
                    if ok and sha is not None:
                        known.setdefault(sha, _Content(row))

    def _tasks(
        self, missing: list[int], readers: ThreadPoolExecutor, tokenizer: ThreadPoolExecutor
    ) -> Iterator[tuple[_Task, list[bytes]]]:
        """Read the missing chunks' items and yield their new pictures, each once.

        Meanwhile their new titles are tokenized, while the encoder is busy with pictures.
        """
        for number in missing:
            start, stop = (row - self._writer.start for row in self._writer.chunk_range(number))
            chunk = self._under_way[number] = _Chunk()
            pictures: list[bytes] = []
            contents: list[_Content] = []
            num_items = num_tokenized = 0
            raw_items = self._raw_items(start, stop)
            for row, item in enumerate(map_ahead(readers, read_item, raw_items), start):
                num_items += 1
                if content := self._add(chunk, item, row):
                    assert item.image is not None
                    pictures.append(item.image)
                    contents.append(content)
                if len(chunk.new_titles) == num_tokenized + _TITLES_TOGETHER:
                    num_tokenized += self._tokenize(chunk, num_tokenized, tokenizer)
                if len(pictures) == TASK_PICTURES:
                    yield _Task(contents=contents, num_items=num_items, is_last=False), pictures
                    pictures, contents, num_items = [], [], 0
            self._tokenize(chunk, num_tokenized, tokenizer)
            yield _Task(contents=contents, num_items=num_items, is_last=True), pictures

    def _tokenize(self, chunk: _Chunk, start: int, tokenizer: ThreadPoolExecutor) -> int:
        """Have the new titles from a place on tokenized; return how many these are."""
        titles = list(itertools.islice(chunk.new_titles, start, None))
        if titles:
            chunk.tokens.append(tokenizer.submit(self._encoder.tokenize, titles))
        return len(titles)

    def _raw_items(self, start: int, stop: int) -> Iterator[RawItem]:
        """Read rows of the shard; what is retired may be gone, so it is not read."""
        is_retired = self._is_retired[start:stop]
        places = (
            self._items[name].to_numpy()[start:stop][~is_retired]
            for name in ("source_file", "source_row")
        )
        found = read_places(self._plan.items, *places)
        for is_gone in is_retired.tolist():
            yield _RETIRED if is_gone else next(found)

    def _add(self, chunk: _Chunk, item: ReadItem, row: int) -> _Content | None:
        """Note an item; return its picture's content if it is to be decoded."""
        new_image = None
        image = title = None
        if item.image_sha256 is not None and item.image is not None:
            image = self._images.get(item.image_sha256)
            # A chunk that is already there may lie behind this one: nothing may depend on it.
            if image is None or image.row > row:
                image = new_image = self._images[item.image_sha256] = _Content(row)
        if item.title is not None and item.title_sha256 is not None:
            title = self._titles.get(item.title_sha256)
            if title is None or title.row > row:
                title = self._titles[item.title_sha256] = _Content(row)
                chunk.new_titles[item.title] = title
        chunk.images.append(image)
        chunk.titles.append(title)
        chunk.items.append(_without_picture(item))
        return new_image

    def _embed_chunk(
        self, number: int, decoded: Iterator[Decoded[_Task]], progress: Progress
    ) -> None:
        timer, started = self.timer, time.perf_counter()
        waited = timer.waiting
        batches = self._batches(number, decoded, progress)
        image_parts = list(self._encoder.encode_images(batches))
        chunk = self._under_way.pop(number)
        timer.images += time.perf_counter() - started - (timer.waiting - waited)
        clock = time.perf_counter()
        tokens = [part.result() for part in chunk.tokens]
        title_emb = self._encoder.encode_tokens(tokens, self._batch_size)
        timer.titles += time.perf_counter() - clock
        timer.num_images += len(chunk.encoded)
        timer.num_titles += len(chunk.new_titles)
        timer.num_items += len(chunk.items)
        clock = time.perf_counter()
        first = self._writer.chunk_range(number)[0] - self._writer.start
        image_emb = np.concatenate(image_parts) if image_parts else np.empty((0, self._width))
        image = self._scatter("image", first, chunk.images, chunk.encoded, image_emb)
        title = self._scatter(
            "title", first, chunk.titles, list(chunk.new_titles.values()), title_emb
        )
        rows = self._rows(first, chunk, image, title)
        self._watch.check(self._files)  # since it was read
        self._writer.write(number, image=image, title=title, rows=rows)
        timer.writing += time.perf_counter() - clock

    @property
    def _width(self) -> int:
        return self._plan.encoder.embed_dim

    def _batches(
        self, number: int, decoded: Iterator[Decoded[_Task]], progress: Progress
    ) -> Iterator[UInt8[np.ndarray, "B H W 3"]]:
        """Yield the good pictures of one chunk in whole batches; note them in its `encoded`.

        A batch is valid until the next one is asked for.
        """
        batch, num = self._batch, 0
        is_last = False
        while not is_last:
            clock = time.perf_counter()
            outcome = next(decoded)
            self.timer.waiting += time.perf_counter() - clock
            task = outcome.tag
            is_last = task.is_last
            for content, error in zip(task.contents, outcome.errors, strict=True):
                content.error = error
            good = [place for place, error in enumerate(outcome.errors) if error is None]
            self._under_way[number].encoded += [task.contents[place] for place in good]
            while good:
                places, good = good[: len(batch) - num], good[len(batch) - num :]
                stop = num + len(places)
                outcome.pixels.take(places, axis=0, out=batch[num:stop], mode="clip")
                num = stop
                if num == len(batch):
                    yield batch
                    num = 0
            progress.update(task.num_items)
            self._report(task.num_items)
        if num:
            yield batch[:num]

    def _scatter(
        self,
        name: str,
        first: int,
        contents: list[_Content | None],
        encoded: list[_Content],
        embeddings: Float32[np.ndarray, "n D"],
    ) -> Float16[np.ndarray, "R D"]:
        """Put embeddings into the rows that have their content; NaN where there is none."""
        matrix = np.full((len(contents), self._width), np.nan, ITEM_DTYPE)
        for content, is_finite in zip(encoded, np.isfinite(embeddings).all(axis=1), strict=True):
            if not is_finite:
                content.error = "the encoder gave no finite embedding"
        places = {id(content): place for place, content in enumerate(encoded)}
        rows, sources = [], []
        for row, found in enumerate(contents):
            if found is None or found.error is not None:
                continue
            if found.row < first:
                matrix[row] = self._writer.embedding(name, found.row)
            else:
                rows.append(row)
                sources.append(places[id(found)])
        if rows:
            matrix[rows] = embeddings[sources]
        return matrix

    def _rows(
        self,
        first: int,
        chunk: _Chunk,
        image: Float16[np.ndarray, "R D"],
        title: Float16[np.ndarray, "R D"],
    ) -> pa.Table:
        """Return the chunk's rows table."""
        items = self._items.slice(first, len(chunk.items))
        # From what is stored, so that a reader who computes it gets the same.
        cosine = np.einsum("rd,rd->r", image.astype(np.float32), title.astype(np.float32))
        columns = {
            "row": items["row"],
            "item_id": items["item_id"],
            "image_ok": [content is not None and content.error is None for content in chunk.images],
            "title_ok": [content is not None and content.error is None for content in chunk.titles],
            "error": [
                _error(*row) for row in zip(chunk.items, chunk.images, chunk.titles, strict=True)
            ],
            "image_sha256": [item.image_sha256 for item in chunk.items],
            "title_sha256": [item.title_sha256 for item in chunk.items],
            "image_title_cosine": pa.array(cosine, pa.float32(), mask=np.isnan(cosine)),
        }
        return pa.table(columns, schema=ROWS)


def shard_items(
    workspace: Storage, plan: Plan, shard: int
) -> tuple[pa.Table, Bool[np.ndarray, " S"]]:
    """Return a shard's items, and which of them are retired.

    Raises: CacheCorruptError if a table is missing or not the planned one.
    """
    items = read_items(workspace, plan, shard)
    return items, np.isin(items["row"].to_numpy(), read_retired(workspace, plan))


def live_files(items: pa.Table, is_retired: Bool[np.ndarray, " S"]) -> list[int]:
    """Return the catalog files that a shard's items are read from, by their positions."""
    return np.unique(items["source_file"].to_numpy()[~is_retired]).tolist()


def _error(item: ReadItem, image: _Content | None, title: _Content | None) -> str | None:
    """Return why a row lacks an embedding, such as `image: no such file; title: null`."""
    reasons = {
        "image": image.error if image else item.image_error,
        "title": title.error if title else item.title_error,
    }
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or None


def _without_picture(item: ReadItem) -> ReadItem:
    return ReadItem(
        title=None,
        image=None,
        image_error=item.image_error,
        title_error=item.title_error,
        image_sha256=item.image_sha256,
        title_sha256=item.title_sha256,
    )
