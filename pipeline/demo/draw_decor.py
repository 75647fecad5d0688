"""Lighting, decoration and home textiles.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def lamp(pen: Pen, *, kind: str = "table") -> None:
    """Draw a lamp: table, pendant or desk."""
    if kind == "pendant":
        pen.line("50 0, 50 36", 0.018, "ink")
        pen.disc(0.5, 0.74, 0.08, "flame")
        pen.blob("12 74, 12 74, 24 48, 50 34, 76 48, 88 74, 88 74", "main")
        return
    if kind == "desk":
        pen.box(0.2, 0.87, 0.6, 0.94, "dark", r=0.03)
        pen.line("40 88, 24 50, 60 22", 0.04, "steel_dark")
        pen.disc(0.24, 0.5, 0.04, "ink")
        pen.poly("54 10, 68 22, 86 50, 50 36", "main")
        pen.poly("86 50, 50 36, 60 50, 74 53", "flame")
        return
    top = 0.1
    shade = 0.42
    half = 0.32
    pen.blob("46 50, 54 50, 66 72, 56 90, 44 90, 34 72", "second")
    pen.box(0.36, 0.89, 0.64, 0.94, "dark", r=0.02)
    pen.poly(
        [
            (0.5 - half * 0.6, top),
            (0.5 + half * 0.6, top),
            (0.5 + half, top + shade),
            (0.5 - half, top + shade),
        ],
        "main",
    )
    pen.line([(0.5 - half, top + shade), (0.5 + half, top + shade)], 0.025, "light")


def bulb(pen: Pen) -> None:
    """Draw a light bulb."""
    pen.blob("40 66, 36 56, 22 36, 30 14, 50 6, 70 14, 78 36, 64 56, 60 66", "main")
    pen.curve("44 62, 42 36, 50 44, 58 36, 56 62", 0.016, "orange")
    pen.box(0.39, 0.65, 0.61, 0.86, "steel", r=0.02)
    for y in (0.7, 0.76, 0.82):
        pen.line([(0.38, y), (0.62, y - 0.02)], 0.018, "steel_dark")
    pen.box(0.45, 0.86, 0.55, 0.92, "ink", r=0.03)


def pillow(pen: Pen) -> None:
    """Draw a throw pillow with a woven pattern."""
    pen.blob(
        "10 12, 10 12, 50 20, 90 12, 90 12, 82 50, 90 88, 90 88, 50 80, 10 88, 10 88, 18 50", "main"
    )
    kind = pen.rng.randrange(3)
    if kind == 0:
        for i in range(4):
            pen.line([(0.24 + i * 0.16, 0.22), (0.24 + i * 0.16, 0.78)], 0.05, "second")
    elif kind == 1:
        pen.poly("50 28, 70 50, 50 72, 30 50", "second")
    else:
        pen.disc(0.5, 0.5, 0.03, "deep")


def clock(pen: Pen) -> None:
    """Draw a wall clock."""
    pen.disc(0.5, 0.52, 0.42, "main")
    pen.disc(0.5, 0.52, 0.35, "paper")
    for x, y in ((0.5, 0.24), (0.5, 0.8), (0.22, 0.52), (0.78, 0.52)):
        pen.disc(x, y, 0.022, "ink")
    for x, y in ((0.64, 0.28), (0.36, 0.28), (0.64, 0.76), (0.36, 0.76)):
        pen.disc(x, y, 0.022, "ink")
    pen.line([(0.5, 0.52), (pen.near(0.5, 0.1), 0.34)], 0.035, "ink")
    pen.line([(0.5, 0.52), (0.68, pen.near(0.52, 0.12))], 0.025, "ink")


def frame(pen: Pen) -> None:
    """Draw a picture frame with a landscape."""
    pen.box(0.14, 0.08, 0.86, 0.92, "main", r=0.01)
    pen.box(0.21, 0.15, 0.79, 0.85, "paper")
    pen.box(0.27, 0.22, 0.73, 0.78, "sky")
    pen.poly("27 78, 27 60, 42 44, 56 62, 64 52, 73 64, 73 78", "second")
    pen.disc(0.62, 0.34, 0.06, "yellow")


def vase(pen: Pen, *, plant: str = "", pot: bool = False) -> None:
    """Draw a vase or a flower pot, with flowers or leaves in it."""
    if plant == "flowers":
        for i, (x, y) in enumerate(((0.34, 0.18), (0.5, 0.1), (0.66, 0.2))):
            pen.curve([(0.5, 0.5), (0.5 + (x - 0.5) * 0.5, 0.34), (x, y)], 0.02, "leaf")
            for dx, dy in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
                pen.disc(x + dx, y + dy, 0.045, ("pink", "second_light", "red")[i])
            pen.disc(x, y, 0.035, "yellow")
    elif plant == "leaves":
        for x, y in ((0.14, 0.32), (0.28, 0.12), (0.5, 0.04), (0.72, 0.12), (0.86, 0.32)):
            mx, my = 0.5 + (x - 0.5) * 0.5, (y + 0.6) / 2
            pen.blob([(0.5, 0.62), (mx - 0.07, my), (x, y), (mx + 0.07, my)], "leaf")
    if pot:
        pen.poly("26 58, 74 58, 67 94, 33 94", "main")
        pen.box(0.22, 0.5, 0.78, 0.61, "dark", r=0.01)
        return
    pen.blob("42 36, 42 36, 58 36, 58 36, 56 48, 72 66, 60 92, 40 92, 28 66, 44 48", "main")
    pen.curve("36 60, 34 70, 40 84", 0.03, "light")


def candle(pen: Pen) -> None:
    """Draw a candle in a jar with a flame."""
    pen.blob("50 6, 56 20, 50 27, 44 20", "flame")
    pen.line("50 25, 50 36", 0.018, "ink")
    pen.box(0.26, 0.36, 0.74, 0.92, "main", r=0.05)
    pen.oval(0.5, 0.38, 0.22, 0.04, "light")
    pen.box(0.34, 0.54, 0.66, 0.78, "paper", r=0.01)
    pen.line("40 64, 60 64", 0.02, "ink")


def rug(pen: Pen) -> None:
    """Draw an area rug with a border and fringes."""
    pen.box(0.06, 0.2, 0.94, 0.8, "main")
    pen.box(0.12, 0.26, 0.88, 0.74, "second")
    pen.box(0.17, 0.31, 0.83, 0.69, "main")
    pen.poly("50 34, 70 50, 50 66, 30 50", "second_light")
    for i in range(10):
        y = 0.22 + i * 0.062
        pen.line([(0.02, y), (0.06, y)], 0.014, "beige")
        pen.line([(0.94, y), (0.98, y)], 0.014, "beige")


def curtain(pen: Pen) -> None:
    """Draw a pair of curtains on a rod."""
    pen.line("2 8, 98 8", 0.035, "steel_dark")
    spans = ((0.06, 0.44), (0.56, 0.94))
    for x0, x1 in spans:
        pen.box(x0, 0.11, x1, 0.93, "main")
        for i in range(1, 5):
            x = x0 + (x1 - x0) * i / 5
            pen.line([(x, 0.12), (x, 0.93)], 0.025, "dark" if i % 2 else "light")
    pen.box(0.06, 0.56, 0.44, 0.61, "second")
    pen.box(0.56, 0.56, 0.94, 0.61, "second")


def towel(pen: Pen) -> None:
    """Draw a stack of folded towels."""
    for i, tone in enumerate(("main", "light", "dark")):
        y = 0.22 + i * 0.22
        pen.box(0.12, y, 0.88, y + 0.21, tone, r=0.09)
        pen.arc(0.2, y + 0.105, 0.06, 0.07, (0.25, 0.75), 0.014, "deep")
        pen.box(0.66, y, 0.72, y + 0.21, "second")
