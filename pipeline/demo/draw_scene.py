"""Compose one product picture: background, shadow, props, product, badge, light, noise, JPEG.

Takes a leaf, a generator and the other leaves (for props); gives a Pillow image and the color that
was drawn, or JPEG bytes. How often a picture is a close-up, a closed package or a crowded shelf is
stated in `SCENE_SHARES`: those are the pictures that are ambiguous for a person, too.
Cost: about 2 ms a picture on one core, so about 7 core hours at 12M items.
"""

import io
import math
import random
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from pipeline.demo.draw import NAMED_COLORS, Color, Pen, Placement, mix, tones
from pipeline.demo.taxonomy import Leaf

SUPERSAMPLE = 2
SCENE_SHARES: Mapping[str, float] = {
    "plain": 0.56,
    "close-up": 0.14,
    "package": 0.12,
    "several": 0.08,
    "crowded": 0.1,
}
SKETCH_SHARE, GRAY_SHARE, BADGE_SHARE, PROP_SHARE = 0.05, 0.06, 0.22, 0.12


def draw_picture(leaf: Leaf, rng: random.Random, others: Sequence[Leaf]) -> tuple[Image.Image, str]:
    """Draw one picture of `leaf`.

    Args:
        leaf: the category to draw.
        rng: the item's generator; the only source of randomness.
        others: categories that props and crowded shelves are taken from.
    Returns: an RGB image, shorter side 128..176 px, and the name of the product's color.
    """
    short = rng.randint(128, 160)
    long = min(192, round(short * rng.choice((1.0, 1.0, 1.1, 1.25, 1.33))))
    width, height = (long, short) if rng.random() < 0.5 else (short, long)
    size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
    color_name = rng.choice(leaf.hues)
    backdrop = _background(size, rng)
    scene = rng.choices(tuple(SCENE_SHARES), tuple(SCENE_SHARES.values()))[0]
    style = _Style(rng)
    if rng.random() < PROP_SHARE:
        _prop(backdrop, rng, rng.choice(others), style)
    if scene == "package":
        _package(backdrop, leaf, rng, color_name, style)
    elif scene == "several":
        _several(backdrop, leaf, rng, color_name, style)
    elif scene == "crowded":
        for _ in range(rng.randint(2, 3)):
            _prop(backdrop, rng, rng.choice(others), style, large=True)
        _product(backdrop, leaf, rng, color_name, style, share=rng.uniform(0.4, 0.58))
    else:
        share = rng.uniform(1.35, 2.0) if scene == "close-up" else rng.uniform(0.66, 0.92)
        _product(backdrop, leaf, rng, color_name, style, share=share)
    if rng.random() < BADGE_SHARE:
        _badge(backdrop, rng)
    return _finish(backdrop.reduce(SUPERSAMPLE), rng), color_name


def encode_jpeg(image: Image.Image, rng: random.Random) -> bytes:
    """Encode as JPEG at a quality drawn from 60..92."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=rng.randint(60, 92))
    return buffer.getvalue()


class _Style:
    """What all shapes of one picture share: outline width and whether it is a line sketch."""

    def __init__(self, rng: random.Random) -> None:
        self.edge = rng.choice((0.0, 0.0, 0.006, 0.009, 0.012))
        self.is_sketch = rng.random() < SKETCH_SHARE


def _pen(
    image: Image.Image, place: Placement, rng: random.Random, color_name: str, style: _Style
) -> Pen:
    second = rng.choice(tuple(NAMED_COLORS))
    colors = tones(NAMED_COLORS[color_name], NAMED_COLORS[second], rng)
    return Pen(image, place, colors, rng, edge=style.edge, is_sketch=style.is_sketch)


def _product(
    image: Image.Image,
    leaf: Leaf,
    rng: random.Random,
    color_name: str,
    style: _Style,
    *,
    share: float,
    center: tuple[float, float] | None = None,
) -> None:
    width, height = image.size
    span = min(width, height) * share
    if center is None:
        slack_x = max(0.0, width - span) * 0.3 + 0.03 * width + max(0.0, share - 1) * width * 0.32
        slack_y = (
            max(0.0, height - span) * 0.3 + 0.03 * height + max(0.0, share - 1) * height * 0.32
        )
        center = (
            width / 2 + rng.uniform(-slack_x, slack_x),
            height / 2 + rng.uniform(-slack_y, slack_y),
        )
    if 0.3 < share < 1 and rng.random() < 0.5:
        _shadow(image, center, span, rng)
    turn = rng.gauss(0, 0.14) if rng.random() < 0.8 else rng.uniform(-math.pi, math.pi) * 0.5
    place = Placement.centered(
        center,
        span,
        turn=turn,
        squeeze=rng.uniform(0.84, 1.08),
        shear=rng.gauss(0, 0.06),
        is_flipped=rng.random() < 0.5,
    )
    leaf.recipe(_pen(image, place, rng, color_name, style), **leaf.params)


def _shadow(
    image: Image.Image, center: tuple[float, float], span: float, rng: random.Random
) -> None:
    under = image.getpixel((min(image.width - 1, max(0, int(center[0]))), image.height - 2))
    assert isinstance(under, tuple)
    tone = mix((under[0], under[1], under[2]), (30, 30, 40), rng.uniform(0.1, 0.3))
    x, y, half = center[0], center[1] + span * 0.44, span * 0.42
    ImageDraw.Draw(image).ellipse((x - half, y - half * 0.16, x + half, y + half * 0.16), fill=tone)


def _prop(
    image: Image.Image, rng: random.Random, leaf: Leaf, style: _Style, *, large: bool = False
) -> None:
    width, height = image.size
    center = (
        width * rng.choice((rng.uniform(0.08, 0.26), rng.uniform(0.74, 0.92))),
        height * rng.uniform(0.12, 0.88),
    )
    share = rng.uniform(0.3, 0.46) if large else rng.uniform(0.2, 0.34)
    _product(image, leaf, rng, rng.choice(leaf.hues), style, share=share, center=center)


def _several(
    image: Image.Image, leaf: Leaf, rng: random.Random, color_name: str, style: _Style
) -> None:
    width, height = image.size
    num = rng.randint(2, 4)
    for i in range(num):
        center = (
            width * (0.5 + (i - (num - 1) / 2) * 0.9 / num),
            height * rng.uniform(0.36, 0.64),
        )
        _product(image, leaf, rng, color_name, style, share=rng.uniform(0.4, 0.56), center=center)


def _package(
    image: Image.Image, leaf: Leaf, rng: random.Random, color_name: str, style: _Style
) -> None:
    """Draw a closed box or bag; the print on it shows the product small, or nothing."""
    width, height = image.size
    span = min(width, height) * rng.uniform(0.8, 0.94)
    place = Placement.centered(
        (width / 2, height / 2), span, turn=rng.gauss(0, 0.06), shear=rng.gauss(0, 0.04)
    )
    box_color = rng.choice(("tan", "tan", "white", "beige", *leaf.hues, "navy", "red"))
    pen = _pen(image, place, rng, box_color, style)
    kind = rng.randrange(3)
    if kind == 0:
        pen.poly("84 16, 97 8, 97 84, 84 94", "deep")
        pen.poly("6 16, 20 8, 97 8, 84 16", "light")
        pen.box(0.06, 0.16, 0.84, 0.94, "main")
    elif kind == 1:
        pen.box(0.1, 0.1, 0.9, 0.94, "pale", r=0.03)
        pen.box(0.1, 0.1, 0.9, 0.26, "main", r=0.03)
        pen.box(0.42, 0.02, 0.58, 0.14, "pale", r=0.04)
    else:
        pen.blob("12 6, 12 6, 88 6, 88 6, 92 50, 88 96, 88 96, 12 96, 12 96, 8 50", "main")
        pen.box(0.12, 0.06, 0.88, 0.14, "dark")
    for i in range(rng.randint(1, 3)):
        reach = rng.uniform(0.3, 0.6)
        pen.line([(0.16, 0.22 + i * 0.05), (0.16 + reach, 0.22 + i * 0.05)], 0.025, "second")
    if rng.random() < 0.72:
        center = (width / 2 + rng.uniform(-0.1, 0.06) * span, height / 2 + 0.14 * span)
        _product(image, leaf, rng, color_name, style, share=rng.uniform(0.28, 0.5), center=center)


def _background(size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    kind = rng.choices(
        ("white", "pale", "color", "gradient", "stripes", "dots", "shelf"),
        (0.36, 0.16, 0.08, 0.14, 0.08, 0.06, 0.12),
    )[0]
    hue = NAMED_COLORS[rng.choice(tuple(NAMED_COLORS))]
    if kind == "white":
        tone = rng.randint(244, 255)
        return Image.new("RGB", size, (tone, tone, tone))
    base = mix(
        hue, (255, 255, 255), rng.uniform(0.25, 0.6) if kind == "color" else rng.uniform(0.6, 0.9)
    )
    image = Image.new("RGB", size, base)
    draw = ImageDraw.Draw(image)
    other = mix(base, hue, rng.uniform(0.15, 0.4))
    if kind == "gradient":
        for i in range(24):
            top = height * i // 24
            draw.rectangle((0, top, width, height), fill=mix(base, other, i / 23))
    elif kind == "stripes":
        step, lean = rng.randint(20, 60), rng.randint(-width, width)
        for x in range(-width, 2 * width, step):
            draw.line((x, 0, x + lean, height), fill=other, width=step // 2)
    elif kind == "dots":
        step = rng.randint(26, 60)
        for x in range(0, width, step):
            for y in range(0, height, step):
                draw.ellipse((x, y, x + step // 2, y + step // 2), fill=other)
    elif kind == "shelf":
        line = round(height * rng.uniform(0.62, 0.84))
        wood = mix(NAMED_COLORS[rng.choice(("oak", "walnut", "gray", "beige", "white"))], base, 0.3)
        draw.rectangle((0, line, width, height), fill=wood)
        for i in range(rng.randint(0, 3)):
            y = line + (i + 1) * height // 14
            draw.line((0, y, width, y), fill=mix(wood, (60, 40, 30), 0.25), width=2)
    if rng.random() < 0.15:
        _faint_shapes(draw, size, rng, mix(base, other, 0.6))
    return image


def _faint_shapes(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: random.Random, tone: Color
) -> None:
    for _ in range(rng.randint(1, 4)):
        x, y, r = rng.randrange(size[0]), rng.randrange(size[1]), rng.randint(20, 90)
        if rng.random() < 0.5:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tone)
        else:
            draw.rectangle((x - r, y - r // 2, x + r, y + r // 2), fill=tone)


def _badge(image: Image.Image, rng: random.Random) -> None:
    """Draw a price badge, a banner or lines of small print, as shops do."""
    draw, (width, height) = ImageDraw.Draw(image), image.size
    tone = NAMED_COLORS[rng.choice(("red", "yellow", "green", "blue", "orange", "black"))]
    kind = rng.randrange(3)
    r = rng.randint(24, 40)
    if kind == 0:
        x, y = rng.choice((r + 6, width - r - 6)), rng.choice((r + 6, height - r - 6))
        points = [
            (
                x + (r if i % 2 else r * 0.8) * math.cos(i * math.tau / 24),
                y + (r if i % 2 else r * 0.8) * math.sin(i * math.tau / 24),
            )
            for i in range(24)
        ]
        draw.polygon(points, fill=tone)
        draw.line((x - r * 0.3, y + r * 0.4, x + r * 0.3, y - r * 0.4), fill="white", width=4)
        for side in (-1, 1):
            cx, cy = x + side * r * 0.32, y + side * r * 0.24
            draw.ellipse((cx - 6, cy - 6, cx + 6, cy + 6), fill="white")
    elif kind == 1:
        top = rng.choice((0, height - r))
        middle = top + r // 2
        draw.rectangle((0, top, width, top + r), fill=tone)
        draw.line((20, middle, width * rng.uniform(0.4, 0.8), middle), fill="white", width=9)
    else:
        left, line = rng.uniform(0.04, 0.5) * width, rng.choice((0.05, 0.86)) * height
        for _ in range(rng.randint(1, 3)):
            right = left + rng.uniform(0.2, 0.45) * width
            draw.line((left, line, right, line), fill=(90, 90, 96), width=5)
            line += 14


def _finish(image: Image.Image, rng: random.Random) -> Image.Image:
    """Apply light, color cast and sensor noise."""
    if rng.random() < GRAY_SHARE:
        image = image.convert("L").convert("RGB")
    gain, lift = rng.uniform(0.8, 1.08), rng.uniform(-10, 14)
    table: list[int] = []
    for _ in range(3):
        cast = gain * rng.uniform(0.96, 1.04)
        table.extend(min(255, max(0, round(level * cast + lift))) for level in range(256))
    image = image.point(table)
    if rng.random() < 0.5:
        raw = rng.randbytes(image.width * image.height)
        noise = Image.frombytes("L", image.size, raw).convert("RGB")
        image = Image.blend(image, noise, rng.uniform(0.02, 0.09))
    return image
