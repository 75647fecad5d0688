"""The two synthetic sets of Dippel et al.: 128 x 128 pixels, white on black, nothing between.

    rectangle-triangle  a white rectangle with a black triangle in it, rotated; 4 classes
                        1 rounded, equilateral    2 rounded, right-angled
                        3 sharp, equilateral      4 sharp, right-angled
    circle-square       two white shapes; 3 classes: two circles, one of each, two squares

What is drawn is drawn as numbers first: a pixel is set if its center lies in the shape after the
rotation is undone, so sizes, areas and angles are exact but for a pixel's edge.

N images. Source: Dippel, Vogler and Hoehne, arXiv:2104.04323, rebuilt from its description and the
ranges of its published generator. Departures: that code rotates circle-square, too, which cuts
shapes at the border, and has half the size as radius, so that squares may touch; here the radius is
that of the circle around a square, for both shapes.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

SIZE = 128
RECTANGLE_TRIANGLE, CIRCLE_SQUARE = "rectangle-triangle", "circle-square"

_MARGIN = 20  # around the rectangle
_SIDES = (64, 88)
_CORNER_RADIUS = 20
_LEAST_OFFSET = 4  # of the triangle from the rectangle's corner
_LEAST_LEG = 16
_ANGLES = (-90, 90)
_SHAPE_SIZES = (16, 42)  # diameter of a circle, side of a square
_GAP = 10

Points = Float64[np.ndarray, "2 P"]
Inside = Bool[np.ndarray, " P"]


@dataclass(frozen=True)
class Rectangle:
    """Upper left corner, sides and the radius of its corners, 0 if they are sharp."""

    x: int
    y: int
    width: int
    height: int
    radius: int = 0

    def holds(self, points: Points) -> Inside:
        """Say which points lie inside: no further than the radius from the inner rectangle."""
        low = np.array([[self.x], [self.y]]) + self.radius
        high = np.array([[self.x + self.width], [self.y + self.height]]) - self.radius
        beyond = np.maximum(np.maximum(low - points, points - high), 0.0)
        return np.hypot(*beyond) <= self.radius


@dataclass(frozen=True)
class Triangle:
    """Corner, the side that runs right from it, and the corner below."""

    x: int
    y: int
    base: int
    tip_x: float
    """Of the third corner, from the first."""
    height: float

    def holds(self, points: Points) -> Inside:
        """Say which points lie inside."""
        x, y = points[0] - self.x, points[1] - self.y
        share = y / self.height  # 0 on the base, 1 at the tip
        left = share * self.tip_x
        right = self.base + share * (self.tip_x - self.base)
        return (share >= 0) & (share <= 1) & (x >= left) & (x <= right)


@dataclass(frozen=True)
class Circle:
    """Center and diameter."""

    x: float
    y: float
    size: int

    def holds(self, points: Points) -> Inside:
        """Say which points lie inside."""
        return np.hypot(points[0] - self.x, points[1] - self.y) <= self.size / 2


@dataclass(frozen=True)
class Square:
    """Center and side."""

    x: float
    y: float
    size: int

    def holds(self, points: Points) -> Inside:
        """Say which points lie inside."""
        offset = points - np.array([[self.x], [self.y]]) + self.size / 2
        return ((offset >= 0) & (offset < self.size)).all(axis=0)


Shape = Rectangle | Triangle | Circle | Square


@dataclass(frozen=True)
class Drawing:
    """What an image shows."""

    white: tuple[Shape, ...]
    black: tuple[Shape, ...] = ()
    """Over the white."""
    angle: int = 0
    """Degrees, counterclockwise, about the image's center."""

    def pixels(self) -> UInt8[np.ndarray, "128 128"]:
        """Return 255 where it is white, else 0."""
        angle = math.radians(self.angle)
        turn = np.array(  # clockwise, as rows run down: undoes the rotation
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        points = turn @ (_CENTERS - SIZE / 2) + SIZE / 2
        is_white = np.any([shape.holds(points) for shape in self.white], axis=0)
        for shape in self.black:
            is_white &= ~shape.holds(points)
        return np.where(is_white, 255, 0).astype(np.uint8).reshape(SIZE, SIZE)


_CENTERS: Points = np.mgrid[0:SIZE, 0:SIZE][::-1].reshape(2, -1) + 0.5


def rectangle_triangle(label: int, rng: np.random.Generator) -> Drawing:
    """Draw one of 4 classes.

    Args:
        label: 0 to 3.
        rng: where sizes, places and the angle come from.
    """
    is_rounded, is_equilateral = label < 2, label % 2 == 0
    width, height = (int(side) for side in rng.integers(*_SIDES, size=2))
    x, y = (int(rng.integers(_MARGIN, SIZE - side - _MARGIN)) for side in (width, height))
    right, down = (int(rng.integers(_LEAST_OFFSET, side // 2 + 1)) for side in (width, height))
    room = width - right, height - down
    if is_equilateral:
        side = int(rng.integers(_LEAST_LEG, min(room)))
        triangle = Triangle(x + right, y + down, side, side / 2, side * math.sqrt(3) / 2)
    else:
        base, leg = (int(rng.integers(_LEAST_LEG, each)) for each in room)
        triangle = Triangle(x + right, y + down, base, 0.0, float(leg))
    rectangle = Rectangle(x, y, width, height, _CORNER_RADIUS if is_rounded else 0)
    # Whole degrees between the ends, which are left out.
    angle = int(rng.integers(_ANGLES[0] + 1, _ANGLES[1]))
    return Drawing((rectangle,), (triangle,), angle)


def circle_square(label: int, rng: np.random.Generator) -> Drawing:
    """Draw one of 3 classes.

    Args:
        label: 0 to 2, the number of squares.
        rng: where sizes and places come from.
    """
    kinds = [Square if number < label else Circle for number in range(2)]
    sizes = rng.integers(*_SHAPE_SIZES, size=2)
    # Of the circle around a square of that size, for circles too: shapes never touch, and how far
    # they are apart says nothing of the class.
    radii = sizes / 2 * math.sqrt(2)
    # Both at once: beside a large square in the middle there may be no room for another.
    while True:
        centers = rng.uniform(sizes / 2, SIZE - sizes / 2, size=(2, 2)).T
        if math.dist(*centers) > radii.sum() + _GAP:
            break
    return Drawing(
        tuple(
            kind(float(x), float(y), int(size))
            for kind, (x, y), size in zip(kinds, centers, sizes, strict=True)
        )
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """One of the two sets."""

    draw: Callable[[int, np.random.Generator], Drawing]
    num_train: int
    num_test: int
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    codes: Bool[np.ndarray, "C Q"]
    """Features of each class: those that it shares with others are the same bits."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)


SETS = {
    RECTANGLE_TRIANGLE: SyntheticSet(
        draw=rectangle_triangle,
        num_train=1000,
        num_test=500,
        class_names=(
            "rounded, equilateral",
            "rounded, right-angled",
            "sharp, equilateral",
            "sharp, right-angled",
        ),
        feature_names=("rounded", "sharp", "equilateral", "right-angled"),
        codes=np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]], bool),
    ),
    CIRCLE_SQUARE: SyntheticSet(
        draw=circle_square,
        num_train=600,
        num_test=399,
        class_names=("two circles", "one of each", "two squares"),
        feature_names=("has a circle", "has a square"),
        codes=np.array([[1, 0], [1, 1], [0, 1]], bool),
    ),
}


def make_images(
    name: str, split: str, seed: int
) -> tuple[UInt8[np.ndarray, "N 128 128"], Int64[np.ndarray, " N"]]:
    """Return a split's images and their classes from 0, as many of each class, in any order.

    Args:
        name: `rectangle-triangle` or `circle-square`.
        split: `train` or `test`; drawn apart from each other.
        seed: of all that is random.
    """
    chosen = SETS[name]
    num_images = chosen.num_train if split == "train" else chosen.num_test
    rng = np.random.default_rng([seed, split == "test", list(SETS).index(name)])
    labels = rng.permutation(np.arange(num_images) % chosen.num_classes)
    return np.stack([chosen.draw(int(label), rng).pixels() for label in labels]), labels


def wrong_codes(codes: Bool[np.ndarray, "C Q"]) -> list[Bool[np.ndarray, "C Q"]]:
    """Return the codes given to the classes in every other order that says something else of them.

    An order that only exchanges bits for each other says the same as the right one: which classes
    share a feature. 16 of 24 are wrong for rectangle-triangle, 4 of 6 for circle-square.

    Args:
        codes: right ones.
    """
    num_classes, num_bits = codes.shape
    same = {codes[:, list(order)].tobytes() for order in itertools.permutations(range(num_bits))}
    orders = itertools.permutations(range(num_classes))
    found = (codes[list(order)] for order in orders)
    return [each for each in found if each.tobytes() not in same]
