"""Divide items into train, val and test, the same way on every machine and in any order.

An item's place depends on its id, its label and the seed: within each label, items are ranked by
a hash, and the first ranks are held out. Sizes follow the paper: 10,000 test items, at most a
tenth, and as many for validation. So `choose_held_out` needs no memory for the others.

N items, n some items, C labels.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int8, Int64, UInt64

from schemas.errors import CatalogError
from schemas.tables import SPLITS

MAX_HELD_OUT = 10_000
TRAIN, VAL, TEST = range(3)
_LAST_HASH = np.iinfo(np.uint64).max


def assign_splits(
    item_ids: pa.Array, labels: Int[np.ndarray, " N"], *, seed: int, given: pa.Array | None = None
) -> Int8[np.ndarray, " N"]:
    """Return each item's split as a position in SPLITS.

    A split that `given` lacks is taken out of its train items, stratified by label; each label
    keeps at least one train item.

    Args:
        item_ids: strings, unique.
        labels: class ids, 0..C-1.
        seed: salt of the hash.
        given: the catalog's own split column; null counts as train.
    Raises: CatalogError on a split name that is not train, val or test.
    """
    codes = np.full(len(labels), TRAIN, np.int8) if given is None else given_codes(given)
    return divide(labels, split_hashes(item_ids, seed), codes)


def divide(
    labels: Int[np.ndarray, " N"], hashes: UInt64[np.ndarray, " N"], given: Int8[np.ndarray, " N"]
) -> Int8[np.ndarray, " N"]:
    """Fill the splits that `given` lacks, as positions in SPLITS, out of its train items.

    Args:
        labels: class ids, 0..C-1.
        hashes: within a label, the lowest are taken first; of equal ones, the earlier.
        given: positions in SPLITS.
    """
    codes, num_held_out = given.copy(), _num_held_out(len(labels))
    for split in (TEST, VAL):
        if not (codes == split).any():
            candidates = np.flatnonzero(codes == TRAIN)
            quotas = _quotas(np.bincount(labels[candidates]), num_held_out)
            chosen = _lowest(labels[candidates], hashes[candidates], quotas)
            codes[candidates[chosen]] = split
    return codes


def choose_held_out(
    parts: Iterable[tuple[Int[np.ndarray, " n"], UInt64[np.ndarray, " n"], Int8[np.ndarray, " n"]]],
    counts: Int[np.ndarray, "C 3"],
    *,
    room: int = 65536,
) -> tuple[Int64[np.ndarray, " m"], Int8[np.ndarray, " m"]]:
    """Choose the items that `divide` takes out of train, of any number of them.

    How many a label gives follows from the counts, and it gives those of the lowest hashes. So no
    more are held than can still be among these.

    Args:
        parts: labels, hashes and given splits of the items, in order.
        counts: given items of each label and split.
        room: for candidates, beside twice as many as will be chosen.
    Returns: positions of the chosen items, rising, and their splits.
    """
    num_train = counts[:, TRAIN].copy()
    quotas = np.zeros((len(SPLITS), len(counts)), np.int64)
    for split in (TEST, VAL):
        if not counts[:, split].any():
            quotas[split] = _quotas(num_train, _num_held_out(int(counts.sum())))
            num_train -= quotas[split]
    wanted = quotas.sum(0)
    highest = np.full(len(counts), _LAST_HASH)  # a hash above its label's is not among the lowest
    labels, hashes, rows = np.empty(0, int), np.empty(0, np.uint64), np.empty(0, np.int64)
    start = 0
    for part_labels, part_hashes, given in parts:
        is_low = (given == TRAIN) & (wanted[part_labels] > 0)
        low = np.flatnonzero(is_low & (part_hashes <= highest[part_labels]))
        labels = np.concatenate([labels, part_labels[low]])
        hashes = np.concatenate([hashes, part_hashes[low]])
        rows = np.concatenate([rows, start + low])
        start += len(given)
        if len(rows) > 2 * wanted.sum() + room:
            lowest = _lowest(labels, hashes, wanted)
            labels, hashes, rows = labels[lowest], hashes[lowest], rows[lowest]
            num = np.bincount(labels, minlength=len(counts))
            is_full = (num == wanted) & (num > 0)
            highest[is_full] = hashes[np.cumsum(num)[is_full] - 1]
    lowest = _lowest(labels, hashes, wanted)
    is_test = np.isin(lowest, _lowest(labels, hashes, quotas[TEST]))
    order = np.argsort(rows[lowest])
    return rows[lowest][order], np.where(is_test, TEST, VAL).astype(np.int8)[order]


def extend_splits(
    item_ids: pa.Array,
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    given: pa.Array | None,
    split_counts: Int[np.ndarray, " 3"],
    train_counts: Int[np.ndarray, " C"],
) -> Int[np.ndarray, " n"]:
    """Return the splits of items that join a catalog, in which held-out splits keep their shares.

    An empty one gets the share that `assign_splits` would give it. By a hash of the id; a label
    keeps at least one train item where nothing else is given.

    Args:
        item_ids: strings, unique.
        labels: class ids, 0..C-1.
        seed: salt of the hash.
        given: the column `split` of the new items; null leaves it to the hash.
        split_counts: items of the catalog so far.
        train_counts: its train items of each label.
    Raises: CatalogError as `assign_splits`.
    """
    num_items = int(split_counts.sum()) + len(labels)
    usual = min(MAX_HELD_OUT, max(1, num_items // 10)) / num_items if num_items else 0.0
    shares = split_counts / max(split_counts.sum(), 1)
    ends = np.cumsum([shares[split] or usual for split in (TEST, VAL)])
    hashes = split_hashes(item_ids, seed)
    share = hashes.astype(np.float64) / 2.0**64
    codes = np.select([share < ends[0], share < ends[1]], [TEST, VAL], TRAIN).astype(np.int8)
    is_given = np.zeros(len(labels), bool)
    if given is not None:
        is_given = given.is_valid().to_numpy(zero_copy_only=False)
        codes[is_given] = given_codes(given)[is_given]
    counts = train_counts + np.bincount(labels[codes == TRAIN], minlength=len(train_counts))
    codes[(counts[labels] == 0) & ~is_given] = TRAIN
    return codes


def given_codes(given: pa.Array) -> Int8[np.ndarray, " N"]:
    """Return given splits as positions in SPLITS; null counts as train.

    Raises: CatalogError on a name that is not train, val or test.
    """
    refuse_unknown_splits(unknown_splits(given))
    return split_codes(given)


def split_codes(given: pa.Array) -> Int8[np.ndarray, " N"]:
    """Return given splits as positions in SPLITS; null, and what is no split, counts as train."""
    codes = pc.index_in(given, value_set=pa.array(SPLITS)).fill_null(TRAIN)
    return codes.to_numpy(zero_copy_only=False).astype(np.int8)


def unknown_splits(given: pa.Array) -> set[str]:
    """Return the names that are not train, val or test."""
    return set(pc.unique(given.drop_null()).to_pylist()) - set(SPLITS)


def refuse_unknown_splits(unknown: set[str]) -> None:
    """Raise a CatalogError that counts names which are no splits, if there are some."""
    if unknown:
        raise CatalogError(
            f"{len(unknown)} unknown split names: {', '.join(map(repr, sorted(unknown)[:3]))}",
            where="column split",
            fix=f"use {', '.join(SPLITS)}, or drop the column to have items divided",
        )


def split_hashes(item_ids: pa.Array, seed: int) -> UInt64[np.ndarray, " N"]:
    """Return the hash of each id that ranks it; 0.7 microseconds an item."""
    salt, blake2b = f"{seed} ".encode(), hashlib.blake2b
    ids = item_ids.fill_null("").cast(pa.large_binary()).to_pylist()
    hashes = b"".join([blake2b(salt + item_id, digest_size=8).digest() for item_id in ids])
    return np.frombuffer(hashes, "<u8").astype(np.uint64, copy=False)


def _num_held_out(num_items: int) -> int:
    return min(MAX_HELD_OUT, max(1, num_items // 10))


def _quotas(counts: Int[np.ndarray, " C"], num_wanted: int) -> Int64[np.ndarray, " C"]:
    """Share num_wanted among labels by largest remainder; each keeps an item."""
    num_items = int(counts.sum())
    shares = num_wanted * counts / max(num_items, 1)
    quotas = np.floor(shares).astype(np.int64)
    num_left = min(num_wanted, num_items) - int(quotas.sum())
    by_remainder = np.argsort(quotas - shares, kind="stable")
    quotas[by_remainder[:num_left]] += 1
    return np.minimum(quotas, np.maximum(counts - 1, 0))


def _lowest(
    labels: Int[np.ndarray, " N"],
    hashes: UInt64[np.ndarray, " N"],
    quotas: Int64[np.ndarray, " C"],
) -> Int64[np.ndarray, " n"]:
    """Return the positions of each label's lowest hashes, as many as its quota, by label.

    Of equal hashes the earlier one is lower.
    """
    counts = np.bincount(labels, minlength=len(quotas))
    order = np.lexsort((hashes, labels))
    first_of_label = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(labels)) - first_of_label[labels[order]]
    return order[rank < quotas[labels[order]]]
