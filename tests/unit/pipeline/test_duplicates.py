"""Duplicates against every pair looked at one by one."""

import logging
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import duplicates as module
from pipeline.duplicates import (
    SAME,
    NearDuplicates,
    Pairs,
    exact_pairs,
    groups_of,
    kept_of_groups,
)
from pipeline.whitening import Whitening


def shelves(num_items: int, num_copies: int, dim: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    """Return embeddings of items on 12 shelves; the last num_copies are copies of the first.

    Of a copy one modality is the same and the other a little off.
    """
    rng = np.random.default_rng(seed)
    found = {}
    shelf = np.arange(num_items) % 12
    for number, name in enumerate(("image", "title")):
        emb = 2 * rng.standard_normal((12, dim))[shelf] + rng.standard_normal((num_items, dim))
        noise = 0.2 * rng.standard_normal((num_copies, dim))
        noise[np.arange(num_copies) % 2 == number] = 0.0
        emb = np.vstack([emb, emb[:num_copies] + noise])
        found[name] = emb / np.linalg.norm(emb, axis=1, keepdims=True)
    return found


def search(emb: dict[str, np.ndarray], min_cosine: float = 0.8) -> NearDuplicates:
    rows = np.arange(len(emb["image"]))
    return NearDuplicates(lambda name, wanted: emb[name][wanted], rows, min_cosine)


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.one.tolist(), pairs.other.tolist(), strict=True))


def looked_at(emb: dict[str, np.ndarray], min_cosine: float) -> dict[tuple[int, int], float]:
    """Every near pair with its lower cosine, by the definition."""
    white = {name: Whitening(each)(each).astype(np.float64) for name, each in emb.items()}
    found = {}
    for one, other in combinations(range(len(emb["image"])), 2):
        cosines = [float(white[name][one] @ white[name][other]) for name in ("image", "title")]
        if max(cosines) >= SAME and min(cosines) >= min_cosine:
            found[one, other] = min(cosines)
    return found


def test_near_duplicates_are_those_of_the_definition() -> None:
    """Each pair once, by its lower cosine; shelf mates are none."""
    emb = shelves(150, 20)
    pairs = search(emb).pairs()
    expected = looked_at(emb, 0.8)
    assert {(i, 150 + i) for i in range(20)} <= set(expected)
    assert as_set(pairs) == set(expected)
    for one, other, score in zip(pairs.one, pairs.other, pairs.score, strict=True):
        assert score == pytest.approx(expected[one, other], abs=1e-4)


def test_both_alike_but_neither_the_same_is_no_duplicate() -> None:
    """Shelf mates are like that; a copy has one of the two untouched."""
    emb = shelves(150, 20)
    rng = np.random.default_rng(5)
    for name in emb:
        emb[name][150:] += 0.03 * rng.standard_normal((20, 24))
    assert len(search(emb).pairs().one) == len(looked_at(emb, 0.8)) < 20


def test_what_many_items_share_does_not_make_them_the_same() -> None:
    """With it counted, a shop that calls all its apples "Apples" would keep one of them."""
    emb = shelves(150, 20)  # of even copies the picture is the same, of odd ones the title
    rows, of = np.arange(170), np.arange(20)
    for name, parity in (("image", 0), ("title", 1)):
        tells = {each: np.ones(170, bool) for each in emb}
        tells[name][[2 + parity, 150 + 4 + parity]] = False
        read = lambda modality, wanted: emb[modality][wanted]  # noqa: E731
        found = as_set(NearDuplicates(read, rows, 0.8, tells).pairs())
        missed = {2 + parity, 4 + parity}
        assert {(i, 150 + i) for i in of if i not in missed} <= found
        assert not {(i, 150 + i) for i in missed} & found


def test_a_large_group_is_found_whole() -> None:
    """More copies than an item is first asked for: who has only near ones is asked again."""
    emb = shelves(60, 0)
    for name in emb:
        emb[name] = np.vstack([emb[name], np.repeat(emb[name][:1], 90, axis=0)])
    pairs = search(emb).pairs()
    assert len(pairs.one) == 91 * 90 // 2
    assert np.unique(groups_of(150, pairs)).tolist() == [-1, 0]


def test_rows_are_those_of_the_plan() -> None:
    """The search counts the items it was given, which are some of the plan's."""
    emb = shelves(100, 10)
    rows = np.arange(110) * 3 + 7
    found = NearDuplicates(lambda name, wanted: emb[name][(wanted - 7) // 3], rows, 0.8).pairs()
    assert {(7 + 3 * i, 7 + 3 * (100 + i)) for i in range(10)} <= as_set(found)


def test_cells_find_nearly_all_that_exact_search_finds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Large catalogs are searched in cells; what that misses is measured, not assumed."""
    emb = shelves(6000, 600)
    expected = as_set(search(emb).pairs())
    monkeypatch.setattr(module, "MAX_EXACT", 1000)
    with caplog.at_level(logging.INFO):
        cells = search(emb)
    found = as_set(cells.pairs())
    assert not cells.is_exact
    assert "searched in cells" in caplog.text
    assert found <= expected
    assert len(found) >= 0.95 * len(expected)
    num_found, num_all = cells.recall()
    # Pairs of the 1,000 items drawn, each seen from both ends.
    assert 50 < num_all < 600
    assert 0.9 * num_all <= num_found <= num_all


@pytest.mark.parametrize(
    ("num_items", "is_one_title", "expected"),
    [(150, False, None), (10, False, "10 items, below D = 24"), (150, True, "the same title")],
)
def test_a_catalog_that_shows_too_little_is_told_of(
    caplog: pytest.LogCaptureFixture, num_items: int, is_one_title: bool, expected: str | None
) -> None:
    """Thresholds mean nothing there; nobody would know why nothing is found."""
    emb = shelves(num_items, 0)
    if is_one_title:
        emb["title"][:] = emb["title"][0]
    with caplog.at_level(logging.WARNING):
        search(emb)
    assert ("may be missed" in caplog.text or "are missed" in caplog.text) == bool(expected)
    assert (expected or "") in caplog.text


@given(st.lists(st.integers(-1, 6), max_size=30))
def test_exact_pairs_link_each_to_the_first_of_its_key(keys: list[int]) -> None:
    """Negative keys are of items that nobody may be compared with."""
    expected = {
        (keys.index(key), row) for row, key in enumerate(keys) if key >= 0 and keys.index(key) < row
    }
    assert as_set(exact_pairs(np.array(keys, np.int64))) == expected


def naive_groups(num_items: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Spread the lowest row of a group until nothing changes."""
    least = list(range(num_items))
    changed = True
    while changed:
        changed = False
        for one, other in pairs:
            low = min(least[one], least[other])
            changed |= least[one] != low or least[other] != low
            least[one] = least[other] = low
    firsts = sorted({each for each in least if least.count(each) > 1})
    return [firsts.index(each) if each in firsts else -1 for each in least]


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_groups_are_connected_and_numbered_by_first_row(pairs: list[tuple[int, int]]) -> None:
    """A duplicate of a duplicate is of the group too; alone is no group."""
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    one, other = (np.array([pair[end] for pair in pairs], np.int64) for end in (0, 1))
    found = groups_of(15, Pairs(one, other, np.ones(len(one), np.float32)))
    assert found.tolist() == naive_groups(15, pairs)


@given(
    st.lists(
        st.tuples(st.integers(-1, 3), st.integers(0, 2), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_of_each_group_one_item_stays(items: list[tuple[int, int, int, bool]]) -> None:
    """What is wanted, then what is measured on, then the common label, then the first row."""
    group, labels, splits, wanted = (np.array(column) for column in zip(*items, strict=True))
    expected = []
    for number in range(4):
        rows = [row for row, item in enumerate(items) if item[0] == number]
        of_label = [items[row][1] for row in rows]
        expected += sorted(
            rows,
            key=lambda r: (not items[r][3], -items[r][2], -of_label.count(items[r][1]), r),
        )[:1]
    assert kept_of_groups(group, labels, splits, wanted).tolist() == expected
