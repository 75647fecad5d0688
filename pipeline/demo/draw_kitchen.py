"""Cookware, drinkware, tableware and kitchen tools.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def pan(
    pen: Pen,
    *,
    deep: float = 0.16,
    handle: str = "long",
    lid: bool = False,
    wide: float = 0.56,
    round_bottom: float = 0.0,
) -> None:
    """Draw a pan from the side: depth, one long handle or two ears, lid, round bottom."""
    deep, low = pen.near(deep, 0.02), 0.78
    high = low - deep
    left = 0.06 if handle == "long" else 0.5 - wide / 2
    right = left + wide
    if handle == "long":
        pen.line([(right - 0.02, high + 0.05), (0.97, high - 0.02)], 0.06, "rubber")
        pen.disc(0.94, high - 0.015, 0.014, "paper")
    elif handle == "ears":
        for x in (left, right):
            pen.ring(x, high + 0.07, 0.07, 0.05, 0.035, "dark")
    bend = round_bottom * wide
    rise = low - deep * 0.25 * (1 + bend)
    body = [(left, high), (left, high), (right, high), (right, high)]
    body += [(right - 0.02 - bend * 0.3, rise), (right - 0.08 - bend, low)]
    body += [(left + 0.08 + bend, low), (left + 0.02 + bend * 0.3, rise)]
    pen.blob(body, "main")
    if deep > 0.1:
        pen.line([(left + 0.07, high + 0.06), (left + 0.09, low - 0.08)], 0.03, "light")
    middle = (left + right) / 2
    if lid:
        edge = [(left - 0.01, high), (left - 0.01, high), (left + 0.12, high - 0.09)]
        edge += [(right - 0.12, high - 0.09), (right + 0.01, high), (right + 0.01, high)]
        pen.blob(edge, "dark")
        pen.box(middle - 0.05, high - 0.15, middle + 0.05, high - 0.08, "rubber", r=0.02)
    else:
        pen.oval(middle, high, wide / 2, 0.045 + 0.02 * (deep < 0.12), "deep")
        pen.arc(middle, high, wide / 2, 0.05, (0.0, 1.0), 0.016, "light")


def tray(pen: Pen) -> None:
    """Draw a muffin pan from above."""
    pen.box(0.06, 0.22, 0.94, 0.8, "main", r=0.06)
    pen.box(0.11, 0.27, 0.89, 0.75, "dark", r=0.04)
    for i in range(6):
        pen.oval(0.24 + i % 3 * 0.26, 0.39 + i // 3 * 0.24, 0.1, 0.095, "deep")
        pen.arc(0.24 + i % 3 * 0.26, 0.39 + i // 3 * 0.24, 0.1, 0.095, (0.5, 1.0), 0.016, "pale")


def cup(
    pen: Pen,
    *,
    tall: float = 0.5,
    wide: float = 0.5,
    taper: float = 0.05,
    handle: float = 0.14,
    lid: str = "",
    glass: bool = False,
    foam: bool = False,
) -> None:
    """Draw a cup: size, taper, handle, lid; glass ones show the drink."""
    tall, low = pen.near(tall, 0.03), 0.84
    high = low - tall
    left, right = 0.46 - wide / 2, 0.46 + wide / 2
    if handle > 0:
        pen.ring(
            right - 0.01,
            high + tall * 0.45,
            handle,
            tall * 0.28,
            0.05,
            "main" if not glass else "glass_dark",
        )
    body = [(left, high), (right, high), (right - taper, low), (left + taper, low)]
    pen.poly(body, "glass" if glass else "main")
    if glass:
        drink = "gold" if foam else "main"
        pen.poly(
            [
                (left + 0.04, high + 0.12),
                (right - 0.04, high + 0.12),
                (right - taper - 0.03, low - 0.04),
                (left + taper + 0.03, low - 0.04),
            ],
            drink,
        )
        if foam:
            for i in range(5):
                pen.disc(left + 0.06 + i * (wide - 0.1) / 4, high + 0.05, 0.07, "paper")
        pen.line([(left + 0.1, high + 0.2), (left + taper + 0.06, low - 0.12)], 0.025, "pale")
    else:
        pen.oval(0.46, high, wide / 2, 0.05, "deep")
        pen.arc(0.46, high, wide / 2, 0.05, (0.0, 1.0), 0.014, "pale")
        if pen.chance(0.5):
            pen.disc(0.46, high + tall * 0.5, 0.1 * wide / 0.5, "second")
    if lid == "sip":
        pen.box(left - 0.02, high - 0.07, right + 0.02, high + 0.03, "rubber", r=0.03)
        pen.box(0.5, high - 0.11, 0.6, high - 0.05, "rubber", r=0.02)
        pen.box(left + 0.03, high + tall * 0.35, right - 0.03, high + tall * 0.6, "rubber", r=0.02)
    elif lid == "screw":
        pen.box(0.34, high - 0.1, 0.58, high + 0.02, "steel_dark", r=0.03)
        pen.arc(0.46, high - 0.1, 0.09, 0.08, (0.5, 1.0), 0.03, "steel_dark")


def stem_glass(pen: Pen) -> None:
    """Draw a stemmed wine glass."""
    high = 0.1
    low = high + pen.near(0.4, 0.02)
    pen.line([(0.5, low - 0.03), (0.5, 0.88)], 0.028, "glass_dark")
    pen.oval(0.5, 0.9, 0.2, 0.04, "glass_dark")
    bowl = [
        (0.32, high),
        (0.32, high),
        (0.68, high),
        (0.68, high),
        (0.74, low - 0.2),
        (0.5, low),
        (0.26, low - 0.2),
    ]
    pen.blob(bowl, "glass")
    half = high + 0.18
    pen.blob(
        [
            (0.284, half),
            (0.284, half),
            (0.716, half),
            (0.716, half),
            (0.644, low - 0.05),
            (0.5, low - 0.02),
            (0.356, low - 0.05),
        ],
        "main",
    )


def dish(pen: Pen) -> None:
    """Draw a plate from above."""
    pen.disc(0.5, 0.5, 0.44, "main")
    pen.disc(0.5, 0.5, 0.4, "light")
    pen.disc(0.5, 0.5, 0.28, "main")
    pen.arc(0.5, 0.5, 0.28, 0.28, (0.0, 1.0), 0.012, "dark")


def utensil(pen: Pen, *, head: str = "spoon") -> None:
    """Draw a long-handled kitchen tool, head up."""
    pen.line("50 40, 50 66", 0.035, "steel")
    pen.box(0.455, 0.6, 0.545, 0.97, "main", r=0.04)
    if head == "spoon":
        pen.oval(0.5, 0.22, 0.12, 0.19, "steel")
        pen.oval(0.49, 0.2, 0.07, 0.13, "silver")
    elif head == "fork":
        pen.blob("39 20, 61 20, 60 36, 50 44, 40 36", "steel")
        for i in range(4):
            pen.line([(0.4 + i * 0.066, 0.24), (0.4 + i * 0.066, 0.03)], 0.03, "steel")
    elif head == "whisk":
        for wide in (0.05, 0.11, 0.17):
            pen.ring(0.5, 0.27, wide, 0.24, 0.018, "steel_dark")


def knife(pen: Pen) -> None:
    """Draw a chef's knife lying flat."""
    start = 0.34
    tip = start + pen.near(0.6, 0.03)
    pen.blob(
        [
            (start, 0.43),
            (start, 0.43),
            (tip - 0.1, 0.43),
            (tip, 0.47),
            (tip, 0.47),
            (tip - 0.16, 0.57),
            (start, 0.57),
            (start, 0.57),
        ],
        "steel",
    )
    pen.line([(start + 0.02, 0.55), (tip - 0.18, 0.55)], 0.02, "silver")
    pen.box(0.03, 0.42, start + 0.01, 0.53, "main", r=0.04)
    for i in range(3):
        pen.disc(0.1 + i * 0.09, 0.475, 0.014, "steel")


def board(pen: Pen) -> None:
    """Draw a cutting board with a hole."""
    pen.box(0.22, 0.2, 0.78, 0.94, "main", r=0.07)
    pen.box(0.42, 0.04, 0.58, 0.26, "main", r=0.06)
    pen.disc(0.5, 0.11, 0.035, "paper")
    for i in range(3):
        pen.line([(0.32 + i * 0.16, 0.28), (0.34 + i * 0.15, 0.88)], 0.012, "dark")


def rolling_pin(pen: Pen) -> None:
    """Draw a rolling pin."""
    pen.line("3 50, 97 50", 0.07, "dark")
    pen.box(0.18, 0.38, 0.82, 0.62, "main", r=0.03)
    pen.line("22 44, 78 44", 0.03, "light")


def colander(pen: Pen) -> None:
    """Draw a colander: a bowl with holes and two ears."""
    for x in (0.1, 0.9):
        pen.ring(x, 0.42, 0.07, 0.04, 0.03, "dark")
    high = 0.72 - pen.near(0.34, 0.02)
    pen.blob(
        [
            *[(0.08, high), (0.08, high), (0.92, high), (0.92, high)],
            *[(0.8, 0.66), (0.6, 0.76), (0.4, 0.76), (0.2, 0.66)],
        ],
        "main",
    )
    pen.box(0.36, 0.75, 0.64, 0.8, "dark", r=0.02)
    pen.oval(0.5, high, 0.42, 0.07, "deep")
    pen.arc(0.5, high, 0.42, 0.07, (0.0, 1.0), 0.016, "light")
    for i in range(11):
        pen.disc(0.24 + (i % 6) * 0.1 + (i // 6) * 0.05, 0.53 + (i // 6) * 0.09, 0.022, "ink")


def container(pen: Pen, *, jar: bool = False) -> None:
    """Draw a food container, or a glass jar with a metal lid."""
    if jar:
        pen.box(0.26, 0.18, 0.74, 0.92, "glass", r=0.1)
        pen.box(0.3, 0.4, 0.7, 0.88, "second", r=0.07)
        pen.box(0.3, 0.08, 0.7, 0.2, "main", r=0.02)
        for i in range(6):
            pen.line([(0.35 + i * 0.06, 0.1), (0.35 + i * 0.06, 0.19)], 0.01, "dark")
        pen.box(0.38, 0.5, 0.62, 0.7, "paper", r=0.02)
        return
    pen.poly("12 44, 88 44, 82 82, 18 82", "glass")
    pen.poly("16 58, 84 58, 81 80, 19 80", "second_light")
    pen.box(0.08, 0.36, 0.92, 0.46, "main", r=0.03)
    for x in (0.16, 0.76):
        pen.box(x, 0.42, x + 0.08, 0.52, "dark", r=0.01)
