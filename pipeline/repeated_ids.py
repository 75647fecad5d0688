"""Find item ids that occur more than once, among more of them than memory holds.

Takes a hash of each id and divides the hashes by their first byte into temporary files, each of
which is sorted by itself: where no hash repeats, no id does. Where one does, the ids themselves are
divided and counted, so that the answer is exact. Cost at 1B items: 8 GB of files, 31 MB of memory
and two minutes; ids that repeat cost another pass and their own size.

n some items.
"""

import contextlib
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, UInt64

_NUM_FILES = 256
_HELD_ROWS = 1 << 20
_BORDERS = np.arange(1, _NUM_FILES, dtype=np.uint64) << np.uint64(56)
_IDS = pa.schema([("item_id", pa.string()), ("row", pa.int64()), ("count", pa.int64())])


class HashFiles:
    """Hashes in temporary files, to see whether one occurs twice."""

    def __init__(self, folder: Path) -> None:
        """Name the folder of the files."""
        self._files = [folder / f"hashes-{number:03d}" for number in range(_NUM_FILES)]
        self._held: list[UInt64[np.ndarray, " n"]] = []
        self._num_held = 0
        self._one_repeats = False

    def add(self, hashes: UInt64[np.ndarray, " n"]) -> None:
        """Take more of them. Raises: OSError."""
        self._held.append(hashes)
        self._num_held += len(hashes)
        if self._num_held >= _HELD_ROWS:
            self._flush()

    def _flush(self) -> None:
        hashes = np.sort(np.concatenate([*self._held, np.empty(0, np.uint64)]))
        self._held, self._num_held = [], 0
        self._one_repeats |= _repeats(hashes)
        if self._one_repeats:  # and no file is needed, which might get all of few ids
            return
        for file, part in zip(self._files, _divided(hashes), strict=True):
            with file.open("ab") as handle:
                part.tofile(handle)

    def one_repeats(self) -> bool:
        """Say whether a hash occurs more than once, and remove the files. Raises: OSError."""
        self._flush()
        for file in self._files:
            if not self._one_repeats:
                self._one_repeats = _repeats(np.sort(np.fromfile(file, np.uint64)))
            file.unlink(missing_ok=True)
        return self._one_repeats


def _repeats(hashes: UInt64[np.ndarray, " n"]) -> bool:
    return bool((hashes[1:] == hashes[:-1]).any())


def _divided(hashes: UInt64[np.ndarray, " n"]) -> list[UInt64[np.ndarray, " m"]]:
    """Cut sorted hashes by their first byte."""
    return np.split(hashes, np.searchsorted(hashes, _BORDERS))


def find_repeated(
    parts: Iterable[tuple[pa.Array, UInt64[np.ndarray, " n"]]], folder: Path
) -> tuple[int, list[str]]:
    """Return how many ids occur more than once, and the three of them that come first.

    Args:
        parts: all ids and their hashes, in order.
        folder: for temporary files, which stay.
    Raises: OSError.
    """
    files = [folder / f"ids-{number:03d}" for number in range(_NUM_FILES)]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_stream(str(file), _IDS)) for file in files]
        start = 0
        for ids, hashes in parts:
            table, ends = _counted(ids, hashes, start)
            start += len(ids)
            for writer, (begin, end) in zip(writers, itertools.pairwise(ends), strict=True):
                if begin < end:
                    writer.write_table(table.slice(begin, end - begin))
    num_repeated, first = 0, []
    for file in files:
        with pa.OSFile(str(file)) as handle:
            each = pa.ipc.open_stream(handle).read_all().group_by("item_id")
        found = each.aggregate([("row", "min"), ("count", "sum")])
        found = found.filter(pc.greater(found["count_sum"], 1)).sort_by("row_min")
        num_repeated += len(found)
        first += [(row["row_min"], row["item_id"]) for row in found.slice(0, 3).to_pylist()]
    return num_repeated, [item_id for _, item_id in sorted(first)[:3]]


def _counted(
    ids: pa.Array, hashes: UInt64[np.ndarray, " n"], start: int
) -> tuple[pa.Table, list[int]]:
    """Return each different id with its first row and how often it occurs, and the files' parts."""
    rows: Int64[np.ndarray, " n"] = np.arange(start, start + len(ids))
    table = pa.table({"item_id": ids, "row": rows, "hash": hashes}).group_by("item_id")
    counts = table.aggregate([("row", "min"), ("row", "count"), ("hash", "min")])
    counts = counts.sort_by("hash_min")
    borders = np.searchsorted(counts["hash_min"].to_numpy(), _BORDERS).tolist()
    columns = (counts[name] for name in ("item_id", "row_min", "row_count"))
    return pa.table(list(columns), schema=_IDS), [0, *borders, len(counts)]
