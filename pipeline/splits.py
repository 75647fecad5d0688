"""Divide items into train, val and test, the same way on every machine and in any order.

An item's place depends on its id, its label and the seed: within each label, items are ranked by
a hash, and the first ranks are held out. Sizes follow the paper: 10,000 test items, at most a
tenth, and as many for validation.
"""

import hashlib

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Shaped

from schemas.errors import CatalogError
from schemas.tables import SPLITS

MAX_HELD_OUT = 10_000
TRAIN, VAL, TEST = range(3)


def assign_splits(
    item_ids: pa.Array, labels: Int[np.ndarray, " N"], *, seed: int, given: pa.Array | None = None
) -> Int[np.ndarray, " N"]:
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
    codes = np.full(len(labels), TRAIN, np.int8)
    if given is not None:
        codes = _given_codes(given)
    hashes = np.fromiter((_hash(item, seed) for item in item_ids.to_pylist()), np.uint64)
    num_held_out = min(MAX_HELD_OUT, max(1, len(labels) // 10))
    for split in (TEST, VAL):
        if not (codes == split).any():
            candidates = np.flatnonzero(codes == TRAIN)
            chosen = _stratified(labels[candidates], hashes[candidates], num_held_out)
            codes[candidates[chosen]] = split
    return codes


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
    hashes = np.fromiter((_hash(item, seed) for item in item_ids.to_pylist()), np.uint64)
    share = hashes.astype(np.float64) / 2.0**64
    codes = np.select([share < ends[0], share < ends[1]], [TEST, VAL], TRAIN).astype(np.int8)
    is_given = np.zeros(len(labels), bool)
    if given is not None:
        is_given = given.is_valid().to_numpy(zero_copy_only=False)
        codes[is_given] = _given_codes(given)[is_given]
    counts = train_counts + np.bincount(labels[codes == TRAIN], minlength=len(train_counts))
    codes[(counts[labels] == 0) & ~is_given] = TRAIN
    return codes


def _given_codes(given: pa.Array) -> Int[np.ndarray, " N"]:
    names = given.to_pylist()
    unknown = sorted({name for name in names if name is not None and name not in SPLITS})
    if unknown:
        raise CatalogError(
            f"{len(unknown)} unknown split names: {', '.join(map(repr, unknown[:3]))}",
            where="column split",
            fix=f"use {', '.join(SPLITS)}, or drop the column to have items divided",
        )
    codes = {name: code for code, name in enumerate(SPLITS)} | {None: TRAIN}
    return np.fromiter((codes[name] for name in names), np.int8)


def _hash(item_id: str, seed: int) -> int:
    text = f"{seed} {item_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _stratified(
    labels: Int[np.ndarray, " N"], hashes: Int[np.ndarray, " N"], num_wanted: int
) -> Shaped[np.ndarray, " n"]:
    """Return the positions of about num_wanted items, each label's share by largest remainder."""
    if not len(labels):
        return np.empty(0, np.int64)
    counts = np.bincount(labels)
    shares = num_wanted * counts / len(labels)
    quotas = np.floor(shares).astype(np.int64)
    num_left = min(num_wanted, len(labels)) - int(quotas.sum())
    by_remainder = np.argsort(quotas - shares, kind="stable")
    quotas[by_remainder[:num_left]] += 1
    quotas = np.minimum(quotas, np.maximum(counts - 1, 0))
    order = np.lexsort((hashes, labels))
    first_of_label = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(labels)) - first_of_label[labels[order]]
    return order[rank < quotas[labels[order]]]
