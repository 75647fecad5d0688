"""The demo's label tree: enough categories, proper paths, a long tail."""

import random
from itertools import pairwise

import pytest
from PIL import Image

from pipeline.demo.catalog import draw_labels, leaves
from pipeline.demo.draw_scene import draw_picture
from pipeline.demo.taxonomy import class_counts


def test_there_are_at_least_200_leaves_with_unique_names() -> None:
    """Fewer would make top 5 trivial; a repeated name would give two labels one embedding."""
    names = [leaf.name for leaf in leaves()]
    assert len(names) >= 200
    assert len(set(names)) == len(names)


def test_every_path_has_three_levels_and_ends_with_the_name() -> None:
    """Taxonomy distance is read from the path, and labels.csv promises this ending."""
    for leaf in leaves():
        assert len(leaf.path) >= 3
        assert leaf.path[-1] == leaf.name
        assert not any(" > " in level or "," in level for level in leaf.path)


def test_counts_have_a_long_tail_and_no_empty_class() -> None:
    """Head, middle and tail accuracy mean something only if there is a tail."""
    counts = class_counts(20_000, len(leaves()))
    assert sum(counts) == 20_000
    assert min(counts) >= 15
    assert 300 <= max(counts) <= 1500
    assert max(counts) >= 10 * sorted(counts)[len(counts) // 4]


@pytest.mark.parametrize("num_items", [254, 300, 1000, 12_345])
def test_every_class_is_drawn_at_any_size(num_items: int) -> None:
    """A label without items cannot be learned, tested or shown."""
    labels = draw_labels(num_items, seed=3)
    assert len(labels) == num_items
    assert set(labels) == set(range(len(leaves())))


def test_items_are_not_sorted_by_label() -> None:
    """Sorted items would put whole classes into one shard and hide order bugs."""
    labels = draw_labels(2000, seed=0)
    same_as_next = sum(a == b for a, b in pairwise(labels))
    assert same_as_next < 200


def test_every_leaf_draws_a_picture_that_is_not_blank() -> None:
    """A typo in one row of a shelf table would stop a catalog halfway."""
    for leaf in leaves():
        image, color = draw_picture(leaf, random.Random(leaf.name), leaves())
        assert isinstance(image, Image.Image)
        assert min(image.size) >= 128
        assert color in leaf.hues
        low, high = image.convert("L").getextrema()
        assert isinstance(low, int)
        assert isinstance(high, int)
        assert high - low > 40
