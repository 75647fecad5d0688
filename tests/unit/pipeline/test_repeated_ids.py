"""Ids that occur more than once, found without all of them in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.repeated_ids import HashFiles, find_repeated


@pytest.mark.parametrize(("again", "is_found"), [([], False), ([1_234_567], True)])
def test_a_hash_is_found_again_millions_later(
    tmp_path: Path, again: list[int], is_found: bool
) -> None:
    """The two stand in different parts, which are sorted on their own."""
    hashes = np.random.default_rng(0).integers(2**64, size=2_500_000, dtype=np.uint64)
    hashes = np.unique(hashes)
    np.random.default_rng(1).shuffle(hashes)
    files = HashFiles(tmp_path)
    for part in np.array_split(hashes, 40):
        files.add(part)
    files.add(hashes[again])
    assert files.one_repeats() == is_found
    assert not list(tmp_path.iterdir())


def test_the_highest_and_the_lowest_hash_have_their_files(tmp_path: Path) -> None:
    """Every hash must meet its equal, those at the borders between files too."""
    borders = np.arange(256, dtype=np.uint64) << np.uint64(56)
    hashes = np.concatenate([borders, borders - np.uint64(1)])
    for hash_again in hashes:
        files = HashFiles(tmp_path)
        files.add(hashes)
        files._flush()
        assert not files._one_repeats
        files.add(np.array([hash_again]))
        assert files.one_repeats()


def test_a_column_that_is_no_id_fills_no_file(tmp_path: Path) -> None:
    """Ids that are all equal would all go to one file, and then to memory."""
    files = HashFiles(tmp_path)
    for _ in range(3):
        files.add(np.zeros(1 << 20, np.uint64))
    assert not list(tmp_path.iterdir())
    assert files.one_repeats()


def test_ids_that_only_share_a_hash_do_not_repeat(tmp_path: Path) -> None:
    """Of a billion ids two may: they are no reason to refuse the catalog."""
    ids, hashes = pa.array(["a", "b", "c"]), np.array([7, 7, 2**63], np.uint64)
    assert find_repeated([(ids, hashes)], tmp_path) == (0, [])


def test_the_first_three_are_those_that_occur_first(tmp_path: Path) -> None:
    """Not those whose hash is low: a person looks for them from the top."""
    ids = pa.array(["e", "d", "x", "c", "b", "b", "c", "d", "e"])
    hashes = np.array([5, 4, 9, 3, 2, 2, 3, 4, 5], np.uint64) << np.uint64(56)
    parts = [(ids[:5], hashes[:5]), (ids[5:], hashes[5:])]
    assert find_repeated(parts, tmp_path) == (4, ["e", "d", "c"])
