"""Seats, tables, cases and beds.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Fill, Pen


def chair(pen: Pen, *, base: str = "legs", slats: int = 0, arms: bool = False) -> None:
    """Draw a chair from the front: base (legs, wheels, rocker), slats or upholstery, arms."""
    left, right = 0.28, 0.72
    high = 0.56 - pen.near(0.42, 0.03)
    if base == "legs":
        for x in (left + 0.03, right - 0.03):
            pen.line([(x, 0.56), (x + (x - 0.5) * 0.12, 0.95)], 0.045, "dark")
    elif base == "wheels":
        pen.line([(0.5, 0.56), (0.5, 0.84)], 0.05, "steel_dark")
        pen.line("24 92, 50 83, 76 92", 0.045, "ink")
        for x in (0.24, 0.5, 0.76):
            pen.disc(x, 0.94, 0.035, "ink")
    elif base == "rocker":
        for x in (left + 0.04, right - 0.04):
            pen.line([(x, 0.56), (x, 0.88)], 0.045, "dark")
        pen.curve("8 82, 30 93, 70 93, 92 82", 0.045, "deep")
    if slats:
        for i in range(slats):
            x = left + 0.04 + i * 0.36 / max(1, slats - 1)
            pen.line([(x, high + 0.03), (x, 0.56)], 0.035, "main")
        pen.box(left - 0.01, high, right + 0.01, high + 0.08, "main", r=0.03)
    else:
        pen.box(left + 0.02, high, right - 0.02, 0.58, "main", r=0.07)
        pen.box(left + 0.06, high + 0.05, right - 0.06, 0.52, "light", r=0.05)
    pen.box(left - 0.01, 0.54, right + 0.01, 0.61, "main", r=0.02)
    if arms:
        for x in (left - 0.05, right):
            pen.box(x, 0.39, x + 0.06, 0.58, "dark", r=0.02)


def sofa(pen: Pen) -> None:
    """Draw a sofa."""
    left, right = 0.05, 0.95
    high = 0.34
    for x in (left + 0.06, right - 0.1):
        pen.box(x, 0.78, x + 0.05, 0.87, "wood_dark")
    pen.box(left + 0.05, high, right - 0.05, 0.7, "dark", r=0.08)
    inner = 0.66
    for i in range(2):
        x = left + 0.12 + i * inner / 2
        pen.box(x, high + 0.05, x + inner / 2 - 0.01, 0.58, "main", r=0.05)
        pen.box(x, 0.56, x + inner / 2 - 0.01, 0.7, "light", r=0.03)
    pen.box(left, 0.68, right, 0.8, "main", r=0.03)
    for x in (left, right - 0.12):
        pen.box(x, 0.46, x + 0.12, 0.8, "dark", r=0.05)
    if pen.chance(0.6):
        pen.box(left + 0.14, 0.44, left + 0.28, 0.58, "second", r=0.03)


def bean_bag(pen: Pen) -> None:
    """Draw a bean bag."""
    pen.blob("8 80, 12 60, 34 24, 56 20, 74 40, 92 70, 86 86, 50 90, 14 88", "main")
    pen.curve("46 22, 34 50, 30 86", 0.014, "deep")
    pen.curve("48 22, 60 50, 72 86", 0.014, "deep")
    pen.blob("26 56, 50 48, 72 58, 50 66", "dark")


def bench(pen: Pen) -> None:
    """Draw a slatted bench."""
    for x in (0.14, 0.8):
        pen.box(x, 0.3, x + 0.06, 0.92, "dark")
    for i in range(3):
        pen.box(0.06, 0.3 + i * 0.09, 0.94, 0.36 + i * 0.09, "main", r=0.01)
    pen.box(0.04, 0.58, 0.96, 0.66, "light", r=0.02)


def table(pen: Pen, *, tall: float = 0.5, legs: str = "four", drawers: int = 0) -> None:
    """Draw a table: height, legs (four or hairpin), drawers."""
    low = 0.92
    high = low - pen.near(tall, 0.02)
    left, right = 0.05, 0.95
    thick = 0.025 if legs == "hairpin" else 0.06
    tone: Fill = "ink" if legs == "hairpin" else "dark"
    for x in (left + 0.06, right - 0.06):
        pen.line([(x, high), (x, low)], thick, tone)
    for x in (left + 0.16, right - 0.16):
        pen.line([(x, high), (x, low - 0.06)], thick * 0.8, "deep")
    pen.box(left, high - 0.03, right, high + 0.05, "main", r=0.01)
    for i in range(drawers):
        y = high + 0.06 + i * 0.15
        pen.box(right - 0.34, y, right - 0.04, y + 0.14, "light", r=0.01)
        pen.disc(right - 0.19, y + 0.07, 0.02, "brass")


def cabinet(
    pen: Pen,
    *,
    tall: float = 0.8,
    wide: float = 0.6,
    rows: int = 3,
    columns: int = 1,
    kind: str = "drawers",
    feet: bool = True,
    books: bool = False,
) -> None:
    """Draw a case: its size, and a grid of drawers or open shelves."""
    low = 0.92
    high = low - pen.near(tall, 0.02)
    left, right = 0.5 - wide / 2, 0.5 + wide / 2
    if feet:
        for x in (left + 0.03, right - 0.08):
            pen.box(x, low - 0.02, x + 0.05, low + 0.06, "deep")
    pen.box(left, high, right, low, "main", r=0.01)
    cell_w, cell_h = (wide - 0.06) / columns, (low - high - 0.06) / rows
    for i in range(rows * columns):
        x, y = left + 0.03 + i % columns * cell_w, high + 0.03 + i // columns * cell_h
        inside: Fill = "deep" if kind == "shelves" else "light"
        pen.box(x + 0.008, y + 0.008, x + cell_w - 0.008, y + cell_h - 0.008, inside)
        if kind == "drawers":
            pen.box(
                x + cell_w / 2 - 0.05,
                y + cell_h / 2 - 0.014,
                x + cell_w / 2 + 0.05,
                y + cell_h / 2 + 0.014,
                "brass",
            )
        elif books:
            for j in range(int((cell_w - 0.04) / 0.045)):
                tone = pen.rng.choice(("red", "navy", "second", "beige", "green"))
                rise = pen.rng.uniform(0.1, 0.4) * cell_h
                pen.box(
                    x + 0.02 + j * 0.045, y + rise, x + 0.058 + j * 0.045, y + cell_h - 0.01, tone
                )


def bed(pen: Pen, *, bunk: bool = False, crib: bool = False) -> None:
    """Draw a bed from its side, a bunk bed with a ladder, or a crib with bars."""
    if crib:
        pen.box(0.1, 0.62, 0.9, 0.74, "second_light", r=0.02)
        for i in range(9):
            pen.line([(0.12 + i * 0.095, 0.3), (0.12 + i * 0.095, 0.76)], 0.022, "main")
        pen.box(0.06, 0.26, 0.94, 0.32, "main", r=0.02)
        pen.box(0.06, 0.74, 0.94, 0.8, "main", r=0.02)
        for x in (0.07, 0.88):
            pen.box(x, 0.22, x + 0.05, 0.92, "dark", r=0.02)
        return
    for y in (0.34, 0.78) if bunk else (0.66,):
        pen.box(0.08, y - 0.1, 0.94, y, "paper", r=0.03)
        pen.box(0.1, y - 0.16, 0.3, y - 0.07, "pale", r=0.04)
        pen.box(0.32, y - 0.13, 0.95, y - 0.01, "second", r=0.03)
        pen.box(0.06, y - 0.02, 0.95, y + 0.09, "main")
    if bunk:
        for x in (0.05, 0.91):
            pen.box(x, 0.08, x + 0.05, 0.96, "dark")
        for x in (0.68, 0.82):
            pen.line([(x, 0.24), (x, 0.92)], 0.025, "deep")
        for i in range(4):
            pen.line([(0.68, 0.4 + i * 0.13), (0.82, 0.4 + i * 0.13)], 0.025, "deep")
        return
    pen.box(0.03, 0.28, 0.1, 0.88, "dark", r=0.02)
    pen.box(0.92, 0.5, 0.98, 0.88, "dark", r=0.02)


def mattress(pen: Pen) -> None:
    """Draw a mattress in light perspective."""
    pen.poly("2 56, 22 34, 98 34, 80 56", "paper")
    pen.poly("80 56, 98 34, 98 50, 80 74", "dark")
    pen.box(0.02, 0.56, 0.8, 0.74, "main", r=0.02)
    for i in range(5):
        pen.curve(
            [(0.1 + i * 0.15, 0.54), (0.18 + i * 0.15, 0.46), (0.27 + i * 0.15, 0.37)],
            0.01,
            "silver",
        )
    pen.line("4 65, 78 65", 0.014, "deep")
