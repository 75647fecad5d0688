"""The synthetic images against the facts they are rebuilt from."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from pipeline.synthetic.shapes import (
    CIRCLE_SQUARE,
    RECTANGLE_TRIANGLE,
    SETS,
    SIZE,
    Circle,
    Drawing,
    Rectangle,
    Square,
    Triangle,
    circle_square,
    make_images,
    rectangle_triangle,
    wrong_codes,
)

NUM_DRAWN = 400


def drawings(label: int) -> list[tuple[Drawing, Rectangle, Triangle]]:
    """Return many drawings of a class, with their two shapes."""
    rng = np.random.default_rng(label)
    found = [rectangle_triangle(label, rng) for _ in range(NUM_DRAWN)]
    return [(each, each.white[0], each.black[0]) for each in found]


def sides(triangle: Triangle) -> list[float]:
    corners = [
        (0.0, 0.0),
        (triangle.base, 0.0),
        (triangle.tip_x, triangle.height),
    ]
    return [math.dist(a, b) for a, b in itertools.combinations(corners, 2)]


@pytest.mark.parametrize("label", range(4))
def test_rectangles_have_the_sides_places_corners_and_angles_they_should(label: int) -> None:
    """Sides in [64, 88), 20 from the border, radius 20 or 0, whole degrees in (-90, 90)."""
    drawn = drawings(label)
    for drawing, rectangle, _ in drawn:
        for start, side in ((rectangle.x, rectangle.width), (rectangle.y, rectangle.height)):
            assert 64 <= side < 88
            assert 20 <= start < SIZE - side - 20
        assert rectangle.radius == (20 if label < 2 else 0)
        assert -90 < drawing.angle < 90
    widths = {rectangle.width for _, rectangle, _ in drawn}
    angles = [drawing.angle for drawing, _, _ in drawn]
    assert widths == set(range(64, 88))  # all of them occur
    assert min(angles) <= -85
    assert max(angles) >= 85
    assert abs(np.mean(angles)) < 10


@pytest.mark.parametrize("label", range(4))
def test_triangles_lie_in_their_rectangle_and_have_the_form_of_their_class(label: int) -> None:
    """Offset in [4, side // 2], from 16 to the room left; 60 degrees everywhere, or 90 at one."""
    offsets = set()
    for _, rectangle, triangle in drawings(label):
        right, down = triangle.x - rectangle.x, triangle.y - rectangle.y
        assert 4 <= right <= rectangle.width // 2
        assert 4 <= down <= rectangle.height // 2
        offsets |= {right - rectangle.width // 2, down - rectangle.height // 2, right}
        room = rectangle.width - right, rectangle.height - down
        if label % 2 == 0:
            assert 16 <= triangle.base < min(room)
            np.testing.assert_allclose(sides(triangle), triangle.base)
        else:
            legs = triangle.base, triangle.height
            assert all(16 <= leg < most for leg, most in zip(legs, room, strict=True))
            assert triangle.tip_x == 0
            assert max(sides(triangle)) == pytest.approx(math.hypot(*legs))
    assert {0, 4} <= offsets  # both ends occur


@pytest.mark.parametrize("angle", [0, 30, -77])
def test_white_areas_are_those_of_the_numbers(angle: int) -> None:
    """Pixels against geometry, whatever the angle; a pixel's edge is all they may differ by."""
    rectangle, rounded = Rectangle(24, 26, 80, 70), Rectangle(24, 26, 80, 70, 20)
    triangle = Triangle(50, 50, 30, 15.0, 15 * math.sqrt(3))
    cases = [
        (Drawing((rectangle,), angle=angle), 80 * 70),
        (Drawing((rounded,), angle=angle), 80 * 70 - (4 - math.pi) * 20**2),
        (Drawing((rectangle,), (triangle,), angle), 80 * 70 - 30 * 15 * math.sqrt(3) / 2),
        (Drawing((Circle(64.0, 60.0, 40),), angle=angle), math.pi * 20**2),
        (Drawing((Square(64.0, 60.0, 41),), angle=angle), 41**2),
    ]
    for drawing, area in cases:
        pixels = drawing.pixels()
        assert set(np.unique(pixels)) == {0, 255}
        assert (pixels == 255).sum() == pytest.approx(area, rel=0.01)


def test_rotation_is_counterclockwise_about_the_center() -> None:
    """A square right of the center goes up by 90 degrees, as in Pillow."""
    turned = Drawing((Square(100.5, 64.5, 9),), angle=90).pixels()
    rows, columns = np.nonzero(turned)
    assert (rows.mean(), columns.mean()) == pytest.approx((27.5, 64), abs=0.6)


@pytest.mark.parametrize("label", range(3))
def test_circles_and_squares_keep_apart_and_inside(label: int) -> None:
    """Two shapes of size [16, 42), as many squares as the class says, 10 between their circles."""
    rng = np.random.default_rng(label)
    sizes = set()
    for _ in range(NUM_DRAWN):
        drawing = circle_square(label, rng)
        first, second = drawing.white
        assert sum(isinstance(shape, Square) for shape in drawing.white) == label
        for shape in (first, second):
            assert 16 <= shape.size < 42
            assert shape.size / 2 <= min(shape.x, shape.y)
            assert max(shape.x, shape.y) <= SIZE - shape.size / 2
            sizes.add(shape.size)
        distance = math.dist((first.x, first.y), (second.x, second.y))
        assert distance > (first.size + second.size) / math.sqrt(2) + 10  # of any two squares
    assert sizes == set(range(16, 42))


def test_an_image_shows_two_shapes_of_their_areas() -> None:
    """Counted in the pixels: nothing touches, nothing is cut off."""
    images, labels = make_images(CIRCLE_SQUARE, "test", 0)
    for image, label in zip(images[:60], labels[:60], strict=True):
        regions, num_regions = ndimage.label(image)
        assert num_regions == 2
        num_squares = 0
        for place in ndimage.find_objects(regions):
            height, width = (each.stop - each.start for each in place)
            assert abs(height - width) <= 1
            filled = (image[place] == 255).mean()
            num_squares += filled > 0.95
            assert filled > 0.95 or filled == pytest.approx(math.pi / 4, abs=0.05)
        assert num_squares == label


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "num_classes"),
    [(RECTANGLE_TRIANGLE, 1000, 500, 4), (CIRCLE_SQUARE, 600, 399, 3)],
)
def test_sets_are_balanced_and_as_large_as_they_should_be(
    name: str, num_train: int, num_test: int, num_classes: int
) -> None:
    """In any order, so that a batch is no single class."""
    for split, num_images in (("train", num_train), ("test", num_test)):
        images, labels = make_images(name, split, 1)
        assert images.shape == (num_images, SIZE, SIZE)
        assert images.dtype == np.uint8
        assert np.bincount(labels).tolist() == [num_images // num_classes] * num_classes
        assert len(set(labels[:20])) == num_classes


def test_a_seed_draws_the_same_images_and_train_is_not_test() -> None:
    """And the splits have no image in common."""
    images, labels = make_images(CIRCLE_SQUARE, "test", 5)
    again, same = make_images(CIRCLE_SQUARE, "test", 5)
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(same, labels)
    other, _ = make_images(CIRCLE_SQUARE, "test", 6)
    train, _ = make_images(CIRCLE_SQUARE, "train", 5)
    seen = {image.tobytes() for image in images}
    assert not seen & {image.tobytes() for image in (*other, *train)}


def test_the_codes_are_the_papers() -> None:
    """Classes 1 and 4, and 2 and 3, share nothing; every other pair shares a feature."""
    codes = SETS[RECTANGLE_TRIANGLE].codes
    shared = (codes[:, None] & codes[None]).sum(axis=2)
    assert shared.tolist() == [[2, 1, 1, 0], [1, 2, 0, 1], [1, 0, 2, 1], [0, 1, 1, 2]]
    assert SETS[CIRCLE_SQUARE].codes.astype(int).tolist() == [[1, 0], [1, 1], [0, 1]]


@pytest.mark.parametrize(("name", "num_wrong"), [(RECTANGLE_TRIANGLE, 16), (CIRCLE_SQUARE, 4)])
def test_wrong_codes_say_something_else_of_who_shares_what(name: str, num_wrong: int) -> None:
    """An order that keeps all shared counts is a relabeling of the bits, and not wrong."""
    codes = SETS[name].codes.astype(int)
    found = [each.astype(int) for each in wrong_codes(SETS[name].codes)]
    assert len(found) == num_wrong
    for wrong in found:
        assert sorted(wrong.tolist()) == sorted(codes.tolist())
        assert not np.array_equal(wrong @ wrong.T, codes @ codes.T)
    num_orders = math.factorial(len(codes))
    orders = itertools.permutations(range(len(codes)))
    kept = [o for o in orders if np.array_equal((codes @ codes.T)[np.ix_(o, o)], codes @ codes.T)]
    assert num_orders - len(kept) == num_wrong
