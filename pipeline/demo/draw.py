"""Draw flat clip-art shapes in unit coordinates: the pen every product recipe holds.

Takes a Pillow image and a placement; recipes draw in a unit square (x right, y down) and the pen
maps every point through one affine matrix, so pose costs nothing extra. Shapes are polygons on an
image twice the final size; the scene shrinks it once, which is the antialiasing. Writes nothing.
Cost: about 15 microseconds a shape, 10 to 40 shapes a product, so some 2 core hours at 12M items.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]
Fill = str | Color
Outline = Sequence[Point] | str

NAMED_COLORS: Mapping[str, Color] = {
    "black": (38, 38, 42),
    "white": (240, 240, 238),
    "gray": (140, 144, 150),
    "silver": (190, 196, 203),
    "navy": (34, 48, 96),
    "blue": (44, 98, 200),
    "sky": (118, 182, 232),
    "teal": (22, 138, 140),
    "green": (52, 150, 72),
    "olive": (112, 116, 58),
    "lime": (160, 208, 60),
    "yellow": (246, 206, 52),
    "gold": (212, 170, 66),
    "orange": (238, 126, 36),
    "red": (208, 40, 44),
    "burgundy": (122, 28, 50),
    "pink": (242, 150, 182),
    "purple": (122, 70, 168),
    "brown": (112, 70, 42),
    "tan": (192, 146, 96),
    "beige": (226, 208, 178),
    "oak": (200, 156, 102),
    "walnut": (104, 68, 46),
    "copper": (186, 108, 70),
}

FIXED_COLORS: Mapping[str, Color] = {
    "steel": (176, 184, 192),
    "steel_dark": (120, 128, 138),
    "wood": (188, 140, 86),
    "wood_dark": (140, 98, 56),
    "rubber": (48, 48, 52),
    "ink": (30, 30, 34),
    "paper": (248, 246, 240),
    "glass": (206, 228, 238),
    "glass_dark": (158, 192, 210),
    "screen": (24, 30, 46),
    "leaf": (62, 140, 66),
    "skin": (236, 192, 158),
    "flame": (250, 180, 60),
    "brass": (206, 164, 70),
    "water": (92, 168, 220),
}

_CIRCLE = [(math.cos(i * math.tau / 30), math.sin(i * math.tau / 30)) for i in range(30)]
_SPLINE_STEPS = tuple(
    (
        0.5 * (-t + 2 * t * t - t**3),
        0.5 * (2 - 5 * t * t + 3 * t**3),
        0.5 * (t + 4 * t * t - 3 * t**3),
        0.5 * (t**3 - t * t),
    )
    for t in (0.0, 0.2, 0.4, 0.6, 0.8)
)


def mix(first: Color, second: Color, share: float) -> Color:
    """Blend two colors: first * (1 - share) + second * share, share in [0, 1]."""
    r, g, b = (round(p + (q - p) * share) for p, q in zip(first, second, strict=True))
    return (r, g, b)


def jitter(color: Color, rng: random.Random, *, amount: int = 14) -> Color:
    """Move each channel by at most `amount`, within 0..255."""
    r, g, b = (min(255, max(0, channel + rng.randint(-amount, amount))) for channel in color)
    return (r, g, b)


def tones(main: Color, second: Color, rng: random.Random) -> dict[str, Color]:
    """Give every color name a recipe may use its RGB for one item."""
    colors = dict(FIXED_COLORS)
    colors.update(NAMED_COLORS)
    main, second = jitter(main, rng), jitter(second, rng)
    black, white = (20, 20, 26), (255, 255, 255)
    colors.update(
        main=main,
        dark=mix(main, black, 0.28),
        deep=mix(main, black, 0.52),
        light=mix(main, white, 0.34),
        pale=mix(main, white, 0.66),
        second=second,
        second_dark=mix(second, black, 0.3),
        second_light=mix(second, white, 0.4),
    )
    return colors


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the unit square lands on the canvas: one affine matrix."""

    xx: float
    """pixels right per unit right"""
    xy: float
    """pixels right per unit down"""
    x0: float
    """pixels right of the unit square's origin"""
    yx: float
    """pixels down per unit right"""
    yy: float
    """pixels down per unit down"""
    y0: float
    """pixels down of the unit square's origin"""

    @classmethod
    def centered(
        cls,
        center: Point,
        size: float,
        *,
        turn: float = 0.0,
        squeeze: float = 1.0,
        shear: float = 0.0,
        is_flipped: bool = False,
    ) -> "Placement":
        """Put the middle of the unit square at `center`, `size` pixels wide, turned by radians."""
        cos, sin = math.cos(turn) * size, math.sin(turn) * size
        wide = -squeeze if is_flipped else squeeze
        xx, xy = cos * wide, -sin + shear * size
        yx, yy = sin * wide, cos
        return cls(
            xx=xx,
            xy=xy,
            x0=center[0] - 0.5 * (xx + xy),
            yx=yx,
            yy=yy,
            y0=center[1] - 0.5 * (yx + yy),
        )


@cache
def outline(path: str) -> tuple[Point, ...]:
    """Read points written like an SVG path in percent: "10 20, 30 40" is (0.1, 0.2), (0.3, 0.4)."""
    pairs = (pair.split() for pair in path.split(","))
    return tuple((float(x) / 100, float(y) / 100) for x, y in pairs)


class Pen:
    """Draw polygons in unit coordinates with one item's colors and its own randomness."""

    def __init__(
        self,
        image: Image.Image,
        place: Placement,
        colors: Mapping[str, Color],
        rng: random.Random,
        *,
        edge: float = 0.0,
        is_sketch: bool = False,
    ) -> None:
        """Bind image, placement and colors; `edge` is the outline width in unit lengths."""
        self._draw = ImageDraw.Draw(image)
        self._place = place
        self._colors = colors
        self._scale = math.sqrt(abs(place.xx * place.yy - place.xy * place.yx))
        self._edge = max(1, round(edge * self._scale)) if edge > 0 else 0
        self._is_sketch = is_sketch
        self.rng = rng

    def near(self, value: float, spread: float = 0.03) -> float:
        """Return `value` moved by at most `spread`: the small differences between two products."""
        return value + self.rng.uniform(-spread, spread)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.rng.random() < probability

    def color(self, fill: Fill) -> Color:
        """Look a color name up; an RGB tuple passes through."""
        return self._colors[fill] if isinstance(fill, str) else fill

    def _to_pixels(self, points: Iterable[Point] | str) -> list[Point]:
        if isinstance(points, str):
            points = outline(points)
        p = self._place
        xx, xy, x0, yx, yy, y0 = p.xx, p.xy, p.x0, p.yx, p.yy, p.y0
        return [(xx * x + xy * y + x0, yx * x + yy * y + y0) for x, y in points]

    def _fill(self, pixels: list[Point], fill: Fill) -> None:
        color = self.color(fill)
        if self._is_sketch:
            tone = mix((236, 236, 236), color, 0.12)
            self._draw.polygon(pixels, fill=tone)
            self._draw.line([*pixels, pixels[0]], fill=(60, 60, 64), width=max(2, self._edge))
            return
        self._draw.polygon(pixels, fill=color)
        if self._edge:
            edge = mix(color, (16, 16, 22), 0.55)
            self._draw.line([*pixels, pixels[0]], fill=edge, width=self._edge)

    def poly(self, points: Outline, fill: Fill) -> None:
        """Fill a polygon with straight sides."""
        self._fill(self._to_pixels(points), fill)

    def blob(self, points: Outline, fill: Fill) -> None:
        """Fill a closed smooth curve through the points; a point given twice makes a corner."""
        self._fill(_spline(self._to_pixels(points), is_closed=True), fill)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Fill, *, r: float = 0.0
    ) -> None:
        """Fill a rectangle with corner radius `r`."""
        if r <= 0:
            self.poly(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), fill)
            return
        r = min(r, (x1 - x0) / 2, (y1 - y0) / 2)
        points: list[Point] = []
        for cx, cy, start in (
            (x1 - r, y1 - r, 0),
            (x0 + r, y1 - r, 1),
            (x0 + r, y0 + r, 2),
            (x1 - r, y0 + r, 3),
        ):
            for step in range(5):
                angle = (start + step / 4) * math.pi / 2
                points.append((cx + r * math.cos(angle), cy + r * math.sin(angle)))
        self.poly(points, fill)

    def oval(self, cx: float, cy: float, rx: float, ry: float, fill: Fill) -> None:
        """Fill an ellipse with half axes `rx` and `ry`."""
        self.poly([(cx + rx * c, cy + ry * s) for c, s in _CIRCLE], fill)

    def disc(self, cx: float, cy: float, r: float, fill: Fill) -> None:
        """Fill a circle."""
        self.oval(cx, cy, r, r, fill)

    def line(self, points: Outline, width: float, fill: Fill) -> None:
        """Draw straight strokes through the points, `width` in unit lengths."""
        self._stroke(self._to_pixels(points), width, fill)

    def curve(self, points: Outline, width: float, fill: Fill) -> None:
        """Draw one smooth stroke through the points."""
        self._stroke(_spline(self._to_pixels(points), is_closed=False), width, fill)

    def ring(self, cx: float, cy: float, rx: float, ry: float, width: float, fill: Fill) -> None:
        """Draw an ellipse's outline."""
        points = [(cx + rx * c, cy + ry * s) for c, s in _CIRCLE]
        self._stroke(self._to_pixels([*points, points[0], points[1]]), width, fill)

    def arc(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        turns: tuple[float, float],
        width: float,
        fill: Fill,
    ) -> None:
        """Draw part of an ellipse's outline; turns count clockwise from the right, 1 is full."""
        first, last = turns
        points = []
        for step in range(15):
            angle = (first + (last - first) * step / 14) * math.tau
            points.append((cx + rx * math.cos(angle), cy + ry * math.sin(angle)))
        self._stroke(self._to_pixels(points), width, fill)

    def _stroke(self, pixels: list[Point], width: float, fill: Fill) -> None:
        color = (60, 60, 64) if self._is_sketch else self.color(fill)
        thick = max(1, round(width * self._scale))
        if self._edge and thick >= 6 and not self._is_sketch:
            edge = mix(color, (16, 16, 22), 0.55)
            self._draw.line(pixels, fill=edge, width=thick + 2 * self._edge)
        self._draw.line(pixels, fill=color, width=thick, joint="curve" if thick > 4 else None)


def _spline(points: list[Point], *, is_closed: bool) -> list[Point]:
    """Give the points of the Catmull-Rom curve through `points`, five per span."""
    num = len(points)
    if is_closed:
        around = [points[-1], *points, points[0], points[1]]
    else:
        around = [points[0], *points, points[-1]]
        num -= 1
    out: list[Point] = []
    for i in range(num):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = around[i : i + 4]
        out.extend(
            (a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy)
            for a, b, c, d in _SPLINE_STEPS
        )
    if not is_closed:
        out.append(points[-1])
    return out
