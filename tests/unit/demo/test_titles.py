"""Titles: varied, often vague, sometimes misleading, at the rates the generator states."""

import random
from collections import Counter

from pipeline.demo.catalog import leaves
from pipeline.demo.titles import MISLEADING_SHARE, make_title, naming_of

NUM_TITLES = 4000


def titles_of_all() -> list[tuple[int, str]]:
    """Write titles round robin over the leaves, all drawn in red."""
    everything = leaves()
    rng = random.Random(5)
    labels = [i % len(everything) for i in range(NUM_TITLES)]
    return [
        (label, make_title(everything[label], rng, color="red", others=everything))
        for label in labels
    ]


def test_titles_vary_and_are_never_empty() -> None:
    """Repeats would let a classifier remember instead of read."""
    titles = [title for _, title in titles_of_all()]
    assert all(title.strip() for title in titles)
    assert len(set(titles)) > 0.97 * len(titles)


def test_about_half_of_the_titles_do_not_name_their_category() -> None:
    """That half is why a title alone is not enough, and it must stay near its stated share."""
    kinds = Counter(naming_of(leaves()[label], title) for label, title in titles_of_all())
    shares = {kind: count / NUM_TITLES for kind, count in kinds.items()}
    assert 0.3 <= shares["name"] + shares["synonym"] <= 0.55
    assert 0.15 <= shares["group"] <= 0.4
    assert 0.2 <= shares["none"] <= 0.45


def test_misleading_titles_come_at_the_stated_rate() -> None:
    """Words of another category are the honest trap of cross-selling shops."""
    marks = ("goes with", "compatible", "looks like", "not ", "lovers", "case for", "next to")
    marks += ("with order", "pairs well", "also bought", "as seen on")
    found = sum(any(mark in title.lower() for mark in marks) for _, title in titles_of_all())
    assert abs(found / NUM_TITLES - MISLEADING_SHARE) < 0.04


def test_a_title_that_names_a_color_mostly_names_the_drawn_one() -> None:
    """Color is the one attribute both modalities show; it should agree."""
    titles = [title.lower().replace(",", " ").split() for _, title in titles_of_all()]
    wrong = sum("blue" in words for words in titles)
    right = sum("red" in words for words in titles)
    assert right > 0.3 * NUM_TITLES
    assert wrong < 0.02 * right
