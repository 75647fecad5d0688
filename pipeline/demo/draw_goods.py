"""Packaged goods and beauty: bottles, tubes, cartons, cosmetics, brushes.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def _label(pen: Pen, x0: float, y0: float, x1: float, y1: float, sign: str) -> None:
    pen.box(x0, y0, x1, y1, "paper" if pen.chance(0.6) else "second_light", r=0.01)
    cx, cy, size = (x0 + x1) / 2, (y0 + y1) / 2, min(x1 - x0, y1 - y0) * 0.26
    _sign(pen, cx, cy - size * 0.3, size, sign)
    pen.line([(x0 + 0.03, y1 - 0.04), (x1 - 0.03, y1 - 0.04)], 0.016, "gray")


def _sign(pen: Pen, cx: float, cy: float, s: float, sign: str) -> None:
    if sign == "leaf":
        pen.blob(
            [
                (cx - s, cy + s),
                (cx - s, cy + s),
                (cx - s * 0.6, cy - s * 0.6),
                (cx + s, cy - s),
                (cx + s, cy - s),
                (cx + s * 0.6, cy + s * 0.6),
            ],
            "leaf",
        )
    elif sign == "drop":
        pen.blob(
            [
                (cx, cy - s),
                (cx, cy - s),
                (cx + s * 0.7, cy + s * 0.4),
                (cx, cy + s),
                (cx - s * 0.7, cy + s * 0.4),
            ],
            "water",
        )
    elif sign == "sun":
        pen.disc(cx, cy, s * 0.8, "flame")
    elif sign == "fruit":
        pen.disc(cx, cy + s * 0.1, s * 0.8, "red")
        pen.line([(cx, cy - s * 0.5), (cx + s * 0.4, cy - s)], 0.016, "leaf")
    elif sign == "paw":
        pen.disc(cx, cy + s * 0.3, s * 0.55, "brown")
        for dx in (-0.7, 0.0, 0.7):
            pen.disc(cx + dx * s, cy - s * (0.5 if dx else 0.75), s * 0.28, "brown")
    elif sign == "wheat":
        pen.line([(cx, cy + s), (cx, cy - s)], 0.016, "gold")
        for i in range(3):
            y = cy - s + i * s * 0.6
            pen.line([(cx - s * 0.6, y), (cx, y + s * 0.5), (cx + s * 0.6, y)], 0.022, "gold")
    elif sign == "bean":
        pen.oval(cx, cy, s * 0.6, s * 0.85, "brown")
        pen.line([(cx, cy - s * 0.7), (cx, cy + s * 0.7)], 0.014, "beige")
    elif sign == "star":
        pen.poly(
            [
                (cx, cy - s),
                (cx + s * 0.35, cy + s * 0.9),
                (cx - s * 0.95, cy - s * 0.3),
                (cx + s * 0.95, cy - s * 0.3),
                (cx - s * 0.35, cy + s * 0.9),
            ],
            "gold",
        )
    else:
        pen.line([(cx - s, cy), (cx + s, cy)], 0.03, "ink")


def bottle(
    pen: Pen,
    *,
    wide: float = 0.36,
    tall: float = 0.66,
    neck: float = 0.12,
    cap: str = "plain",
    shoulder: float = 0.08,
    sign: str = "",
    clear: bool = False,
) -> None:
    """Draw a bottle: body size, neck width, kind of cap, sign on the label."""
    wide, tall, low = pen.near(wide, 0.02), pen.near(tall, 0.03), 0.95
    high = low - tall
    left, right = 0.5 - wide / 2, 0.5 + wide / 2
    _cap(pen, cap, neck, high)
    body = [(0.5 - neck / 2, high), (0.5 + neck / 2, high), (0.5 + neck / 2, high + 0.02)]
    body += [(right, high + shoulder + 0.02), (right, low - 0.03), (right - 0.03, low)]
    body += [
        (left + 0.03, low),
        (left, low - 0.03),
        (left, high + shoulder + 0.02),
        (0.5 - neck / 2, high + 0.02),
    ]
    pen.poly(body, "glass" if clear else "main")
    if clear:
        pen.box(left + 0.02, high + shoulder + 0.1, right - 0.02, low - 0.02, "main", r=0.02)
    _label(pen, left + 0.03, high + shoulder + tall * 0.18, right - 0.03, low - tall * 0.16, sign)
    pen.line([(left + 0.05, high + shoulder + 0.05), (left + 0.05, low - 0.06)], 0.018, "pale")


def _cap(pen: Pen, cap: str, neck: float, high: float) -> None:
    if cap == "spray":
        pen.poly(
            [
                (0.5 - neck / 2, high),
                (0.5 + neck / 2, high),
                (0.56, high - 0.14),
                (0.3, high - 0.14),
                (0.3, high - 0.09),
                (0.44, high - 0.08),
            ],
            "second",
        )
        pen.line([(0.4, high - 0.07), (0.36, high)], 0.03, "second_dark")
    elif cap == "cork":
        pen.box(0.5 - neck / 2, high - 0.2, 0.5 + neck / 2, high + 0.02, "main")
        pen.box(0.49 - neck / 2, high - 0.22, 0.51 + neck / 2, high - 0.12, "second")
    elif cap == "flip":
        pen.poly(
            [
                (0.5 - neck / 2, high),
                (0.5 + neck / 2, high),
                (0.53, high - 0.13),
                (0.47, high - 0.13),
            ],
            "second",
        )
    elif cap == "ball":
        pen.box(0.45, high - 0.05, 0.55, high, "gold")
        pen.disc(0.5, high - 0.1, 0.08, "second_light")
    elif cap == "dome":
        pen.blob(
            [
                (0.5 - neck / 2, high),
                (0.5 - neck / 2, high),
                (0.5 - neck / 2, high - 0.1),
                (0.5, high - 0.17),
                (0.5 + neck / 2, high - 0.1),
                (0.5 + neck / 2, high),
                (0.5 + neck / 2, high),
            ],
            "second",
        )
    else:
        pen.box(0.49 - neck / 2, high - 0.09, 0.51 + neck / 2, high + 0.01, "second", r=0.01)
        pen.line([(0.5, high - 0.08), (0.5, high)], 0.01, "second_dark")


def tube(pen: Pen, *, cap_down: bool = True, sign: str = "", paste: bool = False) -> None:
    """Draw a squeeze tube standing on its cap, or open with paste coming out."""
    pen.poly("28 6, 72 6, 66 78, 34 78", "main")
    pen.box(0.27, 0.03, 0.73, 0.1, "light")
    pen.box(0.36, 0.78, 0.64, 0.95 if cap_down else 0.86, "second", r=0.02)
    if paste:
        pen.blob("46 86, 54 86, 56 94, 48 98", "sky")
        for i in range(3):
            pen.line([(0.38 + i * 0.1, 0.2), (0.42 + i * 0.1, 0.7)], 0.03, "second_light")
        return
    _label(pen, 0.36, 0.24, 0.64, 0.6, sign)


def carton(
    pen: Pen, *, kind: str = "box", sign: str = "", wide: float = 0.56, tall: float = 0.84
) -> None:
    """Draw a printed pack: box, gable carton, pouch, pillow bag, can or sack."""
    left, right, high, low = 0.5 - wide / 2, 0.5 + wide / 2, 0.5 - tall / 2, 0.5 + tall / 2
    if kind == "gable":
        pen.box(left, high - 0.02, right, high + 0.06, "dark")
        pen.poly(
            [
                (left, high + 0.05),
                (right, high + 0.05),
                (right + 0.04, high + 0.22),
                (left - 0.04, high + 0.22),
            ],
            "light",
        )
        pen.box(left - 0.04, high + 0.21, right + 0.04, low, "main")
        pen.disc(0.5, high + 0.14, 0.05, "second")
        high += 0.2
    elif kind == "can":
        pen.box(left, high + 0.04, right, low - 0.03, "main")
        pen.oval(0.5, low - 0.03, wide / 2, 0.05, "steel_dark")
        pen.box(left, high + 0.12, right, low - 0.08, "main")
        pen.oval(0.5, high + 0.05, wide / 2, 0.06, "steel")
        pen.oval(0.5, high + 0.05, wide / 2 - 0.05, 0.04, "steel_dark")
    elif kind in {"pouch", "pillow", "sack"}:
        _soft_pack(pen, kind, left, right, high, low)
    else:
        pen.poly(
            [(right, high), (right + 0.12, high - 0.04), (right + 0.12, low - 0.06), (right, low)],
            "deep",
        )
        pen.poly(
            [(left, high), (left + 0.12, high - 0.04), (right + 0.12, high - 0.04), (right, high)],
            "light",
        )
        pen.box(left, high, right, low, "main")
        pen.box(left, high + 0.06, right, high + 0.2, "second")
    mid = (high + low) / 2
    _label(pen, left + 0.08, mid - tall * 0.16, right - 0.08, low - 0.1, sign)


def _soft_pack(pen: Pen, kind: str, left: float, right: float, high: float, low: float) -> None:
    if kind == "pouch":
        pen.blob(
            [
                (left + 0.02, high),
                (left + 0.02, high),
                (right - 0.02, high),
                (right - 0.02, high),
                (right - 0.03, 0.5),
                (right + 0.03, low),
                (right, low),
                (left, low),
                (left - 0.03, low),
                (left + 0.03, 0.5),
            ],
            "main",
        )
        pen.box(left, high, right, high + 0.06, "dark")
    elif kind == "pillow":
        pen.poly(
            [(left, high + 0.02), (right, high), (right + 0.02, low), (left - 0.02, low + 0.01)],
            "main",
        )
        for y in (high, low - 0.05):
            pen.box(left - 0.02, y, right + 0.02, y + 0.06, "light")
    else:
        pen.blob(
            [
                (left, high + 0.04),
                (0.5, high),
                (right, high + 0.04),
                (right + 0.02, low - 0.04),
                (0.5, low),
                (left - 0.02, low - 0.04),
            ],
            "main",
        )
        pen.line([(left + 0.03, high + 0.07), (right - 0.03, high + 0.07)], 0.016, "paper")


def lipstick(pen: Pen, *, kind: str = "lipstick") -> None:
    """Draw a lipstick, or a bottle of nail polish."""
    if kind == "lipstick":
        pen.poly("41 50, 41 20, 59 8, 59 50", "main")
        pen.box(0.38, 0.44, 0.62, 0.62, "gold")
        pen.box(0.34, 0.6, 0.66, 0.95, "second_dark", r=0.01)
    elif kind == "polish":
        pen.poly("42 52, 46 6, 54 6, 58 52", "ink")
        pen.blob("40 50, 60 50, 74 64, 72 92, 28 92, 26 64", "main")
        pen.line("36 66, 36 84", 0.03, "light")
    else:
        pen.box(0.41, 0.44, 0.59, 0.95, "main", r=0.03)
        pen.box(0.41, 0.08, 0.59, 0.45, "second", r=0.02)
        pen.line("46 50, 46 90", 0.03, "pale")


def palette(pen: Pen) -> None:
    """Draw an eyeshadow palette."""
    pen.box(0.08, 0.1, 0.92, 0.48, "dark", r=0.02)
    pen.box(0.12, 0.14, 0.88, 0.44, "glass")
    pen.box(0.08, 0.48, 0.92, 0.9, "dark", r=0.02)
    tones = ("main", "light", "second", "tan", "second_light", "copper", "deep", "pale")
    for i, tone in enumerate(tones):
        x, y = 0.13 + i % 4 * 0.19, 0.53 + i // 4 * 0.18
        pen.box(x, y, x + 0.16, y + 0.14, tone, r=0.01)


def groomer(pen: Pen, *, kind: str = "brush") -> None:
    """Draw a personal tool: hair brush, makeup brush, toothbrush, razor."""
    if kind == "brush":
        pen.line("50 50, 50 95", 0.1, "main")
        pen.oval(0.5, 0.3, 0.22, 0.27, "main")
        pen.oval(0.5, 0.3, 0.16, 0.21, "dark")
        for i in range(15):
            pen.disc(0.41 + i % 3 * 0.09, 0.16 + i // 3 * 0.07, 0.016, "paper")
    elif kind == "makeup":
        pen.poly("46 50, 54 50, 52 97, 48 97", "main")
        pen.box(0.43, 0.36, 0.57, 0.52, "gold")
        pen.blob("43 36, 36 20, 42 8, 58 8, 64 20, 57 36", "brown")
        pen.blob("38 16, 42 8, 58 8, 62 16", "pink")
    elif kind == "toothbrush":
        pen.line("50 30, 50 96", 0.07, "main")
        pen.line("50 4, 50 40", 0.05, "main")
        pen.box(0.52, 0.05, 0.66, 0.26, "paper")
        pen.box(0.52, 0.12, 0.66, 0.19, "sky")
        pen.line("50 62, 50 86", 0.03, "second_light")
    elif kind == "razor":
        pen.line("50 26, 52 60, 50 96", 0.075, "main")
        pen.box(0.28, 0.1, 0.72, 0.26, "second", r=0.03)
        for y in (0.14, 0.18, 0.22):
            pen.line([(0.31, y), (0.69, y)], 0.014, "silver")
    else:
        pen.box(0.46, 0.08, 0.54, 0.96, "main", r=0.04)
        pen.oval(0.5, 0.88, 0.07, 0.09, "second")
        pen.box(0.47, 0.3, 0.53, 0.56, "glass")


def soap(pen: Pen) -> None:
    """Draw a bar of soap with bubbles."""
    pen.box(0.1, 0.4, 0.86, 0.82, "main", r=0.15)
    pen.box(0.18, 0.46, 0.78, 0.74, "light", r=0.1)
    pen.line("34 60, 62 60", 0.04, "main")
    for x, y, r in ((0.7, 0.28, 0.1), (0.84, 0.4, 0.06), (0.55, 0.22, 0.06)):
        pen.disc(x, y, r, "glass")
        pen.disc(x - r * 0.3, y - r * 0.3, r * 0.25, "paper")
