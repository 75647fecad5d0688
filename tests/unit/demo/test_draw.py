"""The pen: affine placement, paths, and products that share parts with their relatives."""

import random

import numpy as np
import pytest
from PIL import Image

from pipeline.demo.catalog import leaves
from pipeline.demo.draw import NAMED_COLORS, Pen, Placement, outline, tones

SIDE = 96


def silhouette(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Draw a leaf upright, without scene, and give where it differs from the white ground."""
    leaf = next(leaf for leaf in leaves() if leaf.name == name)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    colors = tones(NAMED_COLORS["navy"], NAMED_COLORS["red"], random.Random(0))
    place = Placement.centered((SIDE / 2, SIDE / 2), SIDE)
    leaf.recipe(Pen(image, place, colors, random.Random(0)), **leaf.params)
    return (np.asarray(image).min(axis=2) < 235).astype(np.float32)


def overlap(first: str, second: str) -> float:
    """Give intersection over union of two silhouettes."""
    a, b = silhouette(first), silhouette(second)
    return float((a * b).sum() / np.maximum(a, b).sum())


@pytest.mark.parametrize(
    ("family", "stranger"),
    [
        (("Cowboy Boots", "Rain Boots", "Hiking Boots", "Snow Boots"), "Dinner Plates"),
        (("T-Shirts", "Polo Shirts", "Sweaters", "Hoodies"), "Frying Pans"),
        (("Running Shoes", "Basketball Shoes", "Tennis Shoes"), "Table Lamps"),
        (("Wine", "Shampoo", "Ketchup"), "Bicycles"),
    ],
)
def test_relatives_look_more_alike_than_strangers(family: tuple[str, ...], stranger: str) -> None:
    """Errors among siblings are the point of the demo: they come from shared parts."""
    within = [overlap(a, b) for a in family for b in family if a < b]
    across = [overlap(a, stranger) for a in family]
    assert min(within) > max(across)
    assert sum(within) / len(within) > 0.4


def test_a_placement_turns_about_the_middle_of_the_unit_square() -> None:
    """Pose must not move a product out of its picture."""
    for turn in (0.0, 1.0, 3.0):
        place = Placement.centered((50, 40), 20, turn=turn, shear=0.1, is_flipped=True)
        x = place.xx * 0.5 + place.xy * 0.5 + place.x0
        y = place.yx * 0.5 + place.yy * 0.5 + place.y0
        assert (x, y) == pytest.approx((50, 40))


def test_an_outline_reads_points_in_percent() -> None:
    """All recipes are written in this form."""
    assert outline("10 20, -5 97.5") == ((0.1, 0.2), (-0.05, 0.975))


def test_an_unknown_color_name_is_an_error() -> None:
    """A typo in a recipe must not paint a wrong color in silence."""
    image = Image.new("RGB", (8, 8))
    pen = Pen(image, Placement.centered((4, 4), 8), {}, random.Random(0))
    with pytest.raises(KeyError, match="mauve"):
        pen.disc(0.5, 0.5, 0.2, "mauve")
