"""Train, val and test."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.splits import TEST, TRAIN, VAL, assign_splits, choose_held_out, divide
from schemas.errors import CatalogError


def ids(num: int) -> pa.Array:
    return pa.array([f"item-{i}" for i in range(num)])


def test_a_tenth_is_test_and_as_many_val() -> None:
    """As in the paper: 10,000 test items, at most a tenth."""
    codes = assign_splits(ids(1000), np.arange(1000) % 7, seed=0)
    assert np.bincount(codes).tolist() == [800, 100, 100]


def test_at_most_ten_thousand_are_held_out() -> None:
    """12M items do not need 1.2M test items."""
    codes = assign_splits(ids(120_000), np.arange(120_000) % 3, seed=0)
    assert np.bincount(codes)[[VAL, TEST]].tolist() == [10_000, 10_000]


def test_every_label_has_its_share() -> None:
    """Stratified: a label of a tenth of the items has a tenth of the test items."""
    labels = np.repeat([0, 1, 2], [500, 400, 100])
    codes = assign_splits(ids(1000), labels, seed=0)
    assert np.bincount(labels[codes == TEST]).tolist() == [50, 40, 10]


def test_every_label_keeps_a_train_item() -> None:
    """A label never trained on cannot be predicted, only missed."""
    labels = np.arange(30) // 2
    codes = assign_splits(ids(30), labels, seed=0)
    assert set(labels[codes == TRAIN]) == set(labels)


def test_the_split_follows_the_id_not_the_order() -> None:
    """Shuffling a catalog must not move test items into train."""
    labels = np.arange(200) % 5
    order = np.random.default_rng(0).permutation(200)
    codes = assign_splits(ids(200), labels, seed=0)
    shuffled = assign_splits(ids(200).take(pa.array(order)), labels[order], seed=0)
    np.testing.assert_array_equal(shuffled, codes[order])


def test_the_seed_changes_the_split() -> None:
    """It is the one knob for another draw."""
    labels = np.zeros(200, int)
    first, second = (assign_splits(ids(200), labels, seed=seed) for seed in (0, 1))
    assert (first != second).any()


def test_a_given_split_is_kept() -> None:
    """Published test sets stay comparable; null counts as train."""
    given = pa.array(["train", "val", "test", None, "train"])
    codes = assign_splits(ids(5), np.zeros(5, int), seed=0, given=given)
    assert codes.tolist() == [TRAIN, VAL, TEST, TRAIN, TRAIN]


def test_a_missing_val_is_taken_from_train_only() -> None:
    """Many public sets have train and test alone."""
    given = pa.array(["train"] * 80 + ["test"] * 20)
    codes = assign_splits(ids(100), np.zeros(100, int), seed=0, given=given)
    assert (codes[80:] == TEST).all()
    assert (codes == VAL).sum() == 10


def test_unknown_split_names_are_listed() -> None:
    """`valid` silently read as train would leak the val items."""
    with pytest.raises(CatalogError, match="'valid'"):
        assign_splits(ids(2), np.zeros(2, int), seed=0, given=pa.array(["train", "valid"]))


def test_items_keep_the_splits_that_older_plans_give_them() -> None:
    """Another hash would move test items of planned catalogs into train."""
    codes = assign_splits(ids(60), np.arange(60) % 4, seed=7)
    assert np.flatnonzero(codes == VAL).tolist() == [2, 10, 29, 35, 36, 43]
    assert np.flatnonzero(codes == TEST).tolist() == [0, 25, 34, 51, 53, 56]


def test_as_many_items_are_held_out_of_parts_as_of_the_whole() -> None:
    """At the full 20,000, with labels that give all, some and none of their items."""
    rng = np.random.default_rng(0)
    labels = np.minimum(rng.geometric(0.01, 300_000), 999)
    hashes = rng.integers(2**64, size=len(labels), dtype=np.uint64)
    codes = np.full(len(labels), TRAIN, np.int8)
    parts = zip(*(np.array_split(each, 37) for each in (labels, hashes, codes)), strict=True)
    counts = np.zeros((1000, 3), int)
    counts[:, TRAIN] = np.bincount(labels, minlength=1000)
    expected = divide(labels, hashes, codes)
    rows, splits = choose_held_out(parts, counts)
    assert rows.tolist() == np.flatnonzero(expected != TRAIN).tolist()
    assert splits.tolist() == expected[rows].tolist()
    assert np.bincount(splits).tolist() == [0, 10_000, 10_000]
