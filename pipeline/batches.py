"""The train items in random order, a batch at a time: from memory, or from disk as they go by.

    memory   an epoch is one permutation of all train rows
    disk     blocks of consecutive rows are dealt out to windows that fit memory, each few that
             follow one another to different windows: in a catalog that is sorted by label every
             window gets its share of every label. The rows of a window are permuted. While one
             window is trained on, threads read the next.

Both depend on the seed and the epoch alone, so that a run can go on in the middle.

N items, B batch, b rows of it, D embedding width, W blocks of a window.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float16, Int64
from torch import Tensor

from cache.layout import ITEM_DTYPE, MODALITIES
from pipeline.ranks import ALONE, Ranks
from pipeline.residency import HOST, STREAM
from pipeline.seeds import derived_seed
from pipeline.tensors import Batch, FitData

Item = TypeVar("Item")
Result = TypeVar("Result")

# Of one process; two windows are there at a time. The same everywhere: the order depends on it.
_WINDOW_BYTES = 1 << 30


class Part(NamedTuple):
    """What one process gets of a batch."""

    batch: Batch
    places: Int64[Tensor, " b"] | None
    """Of its rows in the batch of all processes; None if it gets all of them."""
    num_rows: int
    """Of the batch of all processes, B."""


class Batches(Protocol):
    """A source of batches."""

    def epoch(self, epoch: int, first_step: int) -> Iterator[Part]:
        """Yield an epoch's batches from one of them on; always the same for the same seed."""
        ...


def make_batches(data: FitData, batch_size: int, seed: int, ranks: Ranks = ALONE) -> Batches:
    """Return the batches of data that is loaded."""
    if data.residency == STREAM:
        return StreamedBatches(data, batch_size, seed, ranks)
    return ResidentBatches(data, batch_size, seed, ranks)


class ResidentBatches:
    """From embeddings that are in memory whole."""

    def __init__(self, data: FitData, batch_size: int, seed: int, ranks: Ranks = ALONE) -> None:
        """Take loaded data."""
        self._data, self._batch_size, self._seed, self._ranks = data, batch_size, seed, ranks

    def epoch(self, epoch: int, first_step: int) -> Iterator[Part]:
        """Yield an epoch's batches from one of them on."""
        data = self._data
        device = data.device
        generator = torch.Generator(device).manual_seed(derived_seed("order", self._seed, epoch))
        order = torch.randperm(len(data.train), generator=generator, device=device)
        batches = data.train[order].split(self._batch_size)[first_step:]
        if data.residency == HOST and device.type != "cpu":
            yield from _ahead(self._part, batches)
        else:
            yield from map(self._part, batches)

    def _part(self, rows: Int64[Tensor, " B"]) -> Part:
        own, places = _own(rows, self._data, self._ranks)
        return Part(self._data.batch(own), places, len(rows))


class StreamedBatches:
    """From embeddings that stay on disk."""

    def __init__(
        self,
        data: FitData,
        batch_size: int,
        seed: int,
        ranks: Ranks = ALONE,
        *,
        window_blocks: int | None = None,
    ) -> None:
        """Take data that was checked.

        Args:
            data: items and cache.
            batch_size: B.
            seed: of the order.
            ranks: this process among those of the run; it reads its own blocks only.
            window_blocks: W; None for 1 GiB a process.
        """
        self._data, self._batch_size, self._seed, self._ranks = data, batch_size, seed, ranks
        block_bytes = data.block_rows * data.embed_dim * ITEM_DTYPE.itemsize * len(MODALITIES)
        in_window = _WINDOW_BYTES * ranks.size // block_bytes
        self._window_blocks = window_blocks or max(1, in_window)
        # Where the train rows of each block begin, among all train rows.
        self._train = data.train.cpu().numpy()
        num_blocks = -(-len(data.labels) // data.block_rows)
        bounds = np.arange(num_blocks + 1) * data.block_rows
        self._starts = np.searchsorted(self._train, bounds)

    def epoch(self, epoch: int, first_step: int) -> Iterator[Part]:
        """Yield an epoch's batches from one of them on; windows before it are not read."""
        windows, order, ends = self._order(epoch)
        first_row = first_step * self._batch_size
        at = int(np.searchsorted(ends, first_row, side="right"))
        reading = _ahead(self._read, windows[at:])
        window = next(reading, None)
        for start in range(first_row, len(order), self._batch_size):
            stop = min(start + self._batch_size, len(order))
            pieces = []
            while start < stop:
                if start == ends[at]:
                    at, window = at + 1, None  # given up before the one after next is read
                    window = next(reading)
                assert window is not None
                end = min(stop, ends[at])
                pieces.append(self._part(order[start:end], window))
                start = end
            yield _joined(pieces)

    def _order(
        self, epoch: int
    ) -> tuple[list[Int64[np.ndarray, " W"]], Int64[np.ndarray, " n"], list[int]]:
        """Return the blocks of each window, all train rows in order, and where windows end."""
        rng = np.random.default_rng(derived_seed("stream", self._seed, epoch))
        blocks = np.flatnonzero(np.diff(self._starts))
        num_windows = -(-len(blocks) // self._window_blocks)
        rounds = np.tile(np.arange(num_windows), (-(-len(blocks) // num_windows), 1))
        window = rng.permuted(rounds, axis=1).ravel()[: len(blocks)]
        windows = [blocks[window == number] for number in range(num_windows)]
        rows = [rng.permutation(self._rows_of(each)) for each in windows]
        ends = np.cumsum([len(each) for each in rows]).tolist()
        return windows, np.concatenate(rows), ends

    def _rows_of(self, blocks: Int64[np.ndarray, " W"]) -> Int64[np.ndarray, " n"]:
        """Return the train rows in some blocks."""
        starts, counts = self._starts[blocks], np.diff(self._starts)[blocks]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._train[np.repeat(starts, counts) + within]

    def _read(self, blocks: Int64[np.ndarray, " W"]) -> "_Window":
        data = self._data
        own = blocks[self._ranks.owns(blocks * data.block_rows, data.block_rows)]
        slots = np.full(len(self._starts) - 1, -1)
        slots[own] = np.arange(len(own))
        found = []
        for name in MODALITIES:
            matrix = np.empty((len(own) * data.block_rows, data.embed_dim), ITEM_DTYPE)
            data.cache.read_blocks(name, own, data.block_rows, matrix)
            found.append(torch.from_numpy(matrix).to(data.device))
        return _Window(slots, *found)

    def _part(self, rows: Int64[np.ndarray, " B"], window: "_Window") -> Part:
        data = self._data
        own, places = _own(torch.from_numpy(rows), data, self._ranks)
        blocks, within = np.divmod(own.numpy(), data.block_rows)
        where = torch.from_numpy(window.slots[blocks] * data.block_rows + within).to(data.device)
        batch = Batch(
            own.to(data.device),
            window.image_emb.index_select(0, where),
            window.title_emb.index_select(0, where),
        )
        return Part(batch, None if places is None else places.to(data.device), len(rows))


class _Window(NamedTuple):
    """Blocks that were read."""

    slots: Int64[np.ndarray, " b"]
    """Of each block of the cache, its place among those read."""
    image_emb: Float16[Tensor, "n D"]
    title_emb: Float16[Tensor, "n D"]


def cut(part: Part, num_pieces: int) -> list[Part]:
    """Cut a batch, or a process's part of it; a piece knows its places in the whole."""
    batch, places, num_rows = part
    if num_pieces == 1:
        return [part] if len(batch.rows) else []
    if places is None:
        places = torch.arange(num_rows, device=batch.rows.device)
    size = max(1, -(-len(places) // num_pieces))
    columns = zip(*(column.split(size) for column in (*batch, places)), strict=True)
    return [
        Part(Batch(*columns_of[:-1]), columns_of[-1], num_rows)
        for columns_of in columns
        if len(columns_of[-1])
    ]


def _own(
    rows: Int64[Tensor, " B"], data: FitData, ranks: Ranks
) -> tuple[Int64[Tensor, " b"], Int64[Tensor, " b"] | None]:
    """Return the rows that this process holds, and their places if these are not all."""
    if ranks.size == 1:
        return rows, None
    places = ranks.owns(rows, data.block_rows).nonzero()[:, 0]
    return rows[places], places


def _joined(parts: list[Part]) -> Part:
    """Return the parts of a batch that spans windows as one."""
    if len(parts) == 1:
        return parts[0]
    batch = Batch(*(torch.cat(each) for each in zip(*(part.batch for part in parts), strict=True)))
    num_rows = [part.num_rows for part in parts]
    if parts[0].places is None:
        return Part(batch, None, sum(num_rows))
    places = [
        part.places + before
        for part, before in zip(parts, np.cumsum([0, *num_rows]).tolist(), strict=False)
        if part.places is not None
    ]
    return Part(batch, torch.cat(places), sum(num_rows))


def _ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) of each item, the next one computed while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            if pending:
                found = pending.popleft().result()
                pending.append(pool.submit(function, item))
                yield found
                del found  # a window is gigabytes
            else:
                pending.append(pool.submit(function, item))
        if pending:
            yield pending.popleft().result()
