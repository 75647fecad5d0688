"""Hand tools, power tools, hardware and garden tools.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

import math

from pipeline.demo.draw import Pen


def hammer(pen: Pen, *, kind: str = "claw") -> None:
    """Draw a claw hammer, or an axe."""
    pen.box(0.46, 0.2, 0.54, 0.95, "wood" if kind != "claw" else "main", r=0.03)
    if kind == "claw":
        pen.box(0.46, 0.6, 0.54, 0.95, "rubber", r=0.03)
        pen.blob("24 12, 24 28, 50 26, 62 26, 82 36, 86 34, 66 14, 50 13", "steel")
        pen.box(0.18, 0.1, 0.28, 0.3, "steel_dark", r=0.02)
    elif kind == "axe":
        pen.blob("50 10, 66 12, 86 4, 90 24, 84 44, 66 30, 50 30", "main")
        pen.curve("86 5, 90 24, 84 43", 0.03, "silver")
        pen.box(0.4, 0.11, 0.54, 0.29, "main")
    else:
        pen.blob("4 34, 24 16, 50 10, 76 16, 96 34, 72 24, 50 20, 28 24", "steel_dark")


def driver(pen: Pen, *, kind: str = "screwdriver") -> None:
    """Draw a screwdriver, or a paint brush."""
    pen.box(0.43, 0.54, 0.57, 0.96, "main", r=0.05)
    for x in (0.47, 0.5, 0.53):
        pen.line([(x, 0.6), (x, 0.9)], 0.012, "dark")
    if kind == "screwdriver":
        pen.line("50 56, 50 12", 0.035, "steel")
        pen.poly("47 14, 53 14, 54.5 4, 45.5 4", "steel_dark")
    elif kind == "brush":
        pen.poly("44 58, 56 58, 68 44, 32 44", "main")
        pen.box(0.3, 0.32, 0.7, 0.45, "steel")
        pen.poly("31 32, 69 32, 66 6, 34 6", "tan")
        pen.poly("34 14, 66 14, 66 5, 34 5", "second")
    else:
        pen.poly("46 54, 54 54, 74 8, 26 8", "steel")


def wrench(pen: Pen, *, kind: str = "open") -> None:
    """Draw a hinged tool: pliers, scissors or shears."""
    if kind == "pliers":
        pen.poly("50 40, 42 30, 44 4, 49 4, 50 30", "steel_dark")
        pen.poly("50 40, 58 30, 56 4, 51 4, 50 30", "steel")
        pen.curve("46 42, 62 56, 66 95", 0.09, "main")
        pen.curve("54 42, 38 56, 34 95", 0.09, "main")
        pen.disc(0.5, 0.39, 0.07, "steel")
        return
    blade = 0.1 if kind == "shears" else 0.06
    pen.line("62 6, 42 58", blade, "steel")
    pen.line("38 6, 58 58", blade, "steel_dark")
    pen.disc(0.5, 0.4, 0.03, "ink")
    if kind == "shears":
        pen.curve("43 54, 32 74, 36 95", 0.08, "main")
        pen.curve("57 54, 68 74, 64 95", 0.08, "main")
        return
    pen.ring(0.36, 0.76, 0.13, 0.17, 0.06, "main")
    pen.ring(0.64, 0.76, 0.13, 0.17, 0.06, "main")


def tape_measure(pen: Pen) -> None:
    """Draw a tape measure with its tape out."""
    pen.box(0.66, 0.7, 0.99, 0.8, "yellow")
    for i in range(6):
        pen.line([(0.7 + i * 0.05, 0.7), (0.7 + i * 0.05, 0.75)], 0.01, "ink")
    pen.blob("10 80, 10 80, 10 42, 26 20, 56 20, 72 40, 72 80, 72 80", "main")
    pen.disc(0.4, 0.52, 0.18, "ink")
    pen.disc(0.4, 0.52, 0.12, "second_light")


def level(pen: Pen, *, ruler: bool = False) -> None:
    """Draw a spirit level with vials, or a ruler."""
    if ruler:
        pen.box(0.02, 0.38, 0.98, 0.6, "main")
        for i in range(23):
            pen.line(
                [(0.05 + i * 0.04, 0.38), (0.05 + i * 0.04, 0.48 if i % 5 == 0 else 0.43)],
                0.008,
                "ink",
            )
        return
    pen.box(0.02, 0.38, 0.98, 0.62, "main", r=0.01)
    pen.box(0.38, 0.4, 0.62, 0.52, "lime", r=0.03)
    pen.oval(0.5, 0.45, 0.05, 0.03, "paper")
    for x in (0.16, 0.84):
        pen.disc(x, 0.5, 0.07, "lime")
        pen.line([(x, 0.44), (x, 0.56)], 0.014, "ink")


def drill(pen: Pen, *, kind: str = "drill") -> None:
    """Draw a pistol-shaped device: cordless drill, hair dryer."""
    if kind == "dryer":
        pen.poly("34 44, 50 44, 46 94, 34 94", "dark")
        pen.blob("14 34, 20 16, 44 14, 74 20, 74 46, 44 54, 20 50", "main")
        pen.poly("72 20, 94 16, 94 50, 72 46", "ink")
        pen.disc(0.28, 0.34, 0.09, "second")
        pen.box(0.4, 0.6, 0.45, 0.7, "paper", r=0.01)
        return
    pen.poly("20 44, 40 44, 34 80, 16 80", "rubber")
    pen.box(0.08, 0.2, 0.6, 0.48, "main", r=0.06)
    if kind == "drill":
        pen.poly("60 24, 76 28, 76 40, 60 44", "ink")
        pen.line("76 34, 98 34", 0.03, "steel")
        pen.box(0.06, 0.78, 0.44, 0.94, "ink", r=0.03)
        pen.box(0.08, 0.79, 0.2, 0.86, "main")
    else:
        pen.poly("60 28, 82 32, 82 38, 60 42", "ink")
        pen.line("2 30, 10 30", 0.05, "paper")
    pen.box(0.37, 0.48, 0.43, 0.6, "red", r=0.02)
    pen.box(0.18, 0.28, 0.44, 0.36, "light", r=0.02)


def chainsaw(pen: Pen) -> None:
    """Draw a chainsaw."""
    pen.box(0.46, 0.48, 0.98, 0.64, "steel", r=0.07)
    for i in range(9):
        pen.box(0.5 + i * 0.05, 0.45, 0.53 + i * 0.05, 0.49, "ink")
    pen.box(0.1, 0.38, 0.54, 0.74, "main", r=0.05)
    pen.arc(0.34, 0.4, 0.16, 0.2, (0.5, 1.0), 0.05, "ink")
    pen.ring(0.12, 0.56, 0.1, 0.12, 0.045, "ink")
    pen.disc(0.36, 0.56, 0.08, "dark")


def circular(pen: Pen) -> None:
    """Draw a circular saw."""
    pen.disc(0.56, 0.58, 0.28, "steel")
    for i in range(14):
        turn = i * math.tau / 14
        pen.disc(0.56 + 0.28 * math.cos(turn), 0.58 + 0.28 * math.sin(turn), 0.025, "steel_dark")
    pen.blob("26 56, 30 28, 56 18, 84 34, 88 56", "main")
    pen.box(0.06, 0.66, 0.96, 0.72, "ink")
    pen.curve("34 30, 14 24, 12 46, 30 50", 0.07, "rubber")
    pen.disc(0.56, 0.58, 0.06, "ink")


def padlock(pen: Pen) -> None:
    """Draw a padlock."""
    pen.arc(0.5, 0.42, 0.2, 0.32, (0.5, 1.0), 0.08, "steel")
    pen.box(0.2, 0.42, 0.8, 0.92, "main", r=0.06)
    pen.disc(0.5, 0.62, 0.06, "ink")
    pen.poly("48 62, 52 62, 54 80, 46 80", "ink")


def toolbox(pen: Pen, *, kit: bool = False) -> None:
    """Draw a toolbox with a handle; a first aid kit carries a cross."""
    pen.arc(0.5, 0.38, 0.2, 0.2, (0.5, 1.0), 0.055, "dark")
    pen.box(0.06, 0.36, 0.94, 0.86, "main", r=0.04)
    if kit:
        pen.box(0.45, 0.46, 0.55, 0.76, "paper")
        pen.box(0.35, 0.56, 0.65, 0.66, "paper")
        return
    pen.box(0.06, 0.36, 0.94, 0.52, "dark", r=0.03)
    for x in (0.24, 0.68):
        pen.box(x, 0.46, x + 0.08, 0.6, "steel")


def ladder(pen: Pen) -> None:
    """Draw a step ladder."""
    pen.line("60 6, 88 95", 0.04, "dark")
    for x0, x1 in ((0.36, 0.14), (0.56, 0.62)):
        pen.line([(x0, 0.06), (x1, 0.95)], 0.05, "main")
    for i in range(5):
        share = 0.12 + i * 0.17
        pen.line(
            [
                (0.36 - 0.22 * share, 0.06 + 0.89 * share),
                (0.56 + 0.06 * share, 0.06 + 0.89 * share),
            ],
            0.045,
            "light",
        )
    pen.box(0.32, 0.03, 0.62, 0.09, "second")


def paint_can(pen: Pen) -> None:
    """Draw a paint can with drips."""
    pen.arc(0.5, 0.34, 0.33, 0.28, (0.5, 1.0), 0.022, "steel_dark")
    pen.box(0.18, 0.32, 0.82, 0.92, "steel")
    pen.box(0.18, 0.48, 0.82, 0.8, "paper")
    pen.oval(0.5, 0.32, 0.32, 0.08, "main")
    for x, y in ((0.26, 0.5), (0.4, 0.6), (0.66, 0.46)):
        pen.line([(x, 0.36), (x, y)], 0.07, "main")
        pen.disc(x, y, 0.035, "main")
    pen.disc(0.56, 0.66, 0.06, "main")


def long_tool(pen: Pen, *, kind: str = "shovel") -> None:
    """Draw a long-handled tool: shovel, broom."""
    pen.line("50 4, 50 70", 0.045, "wood" if kind == "shovel" else "main")
    if kind == "shovel":
        pen.ring(0.5, 0.06, 0.09, 0.05, 0.035, "main")
        pen.blob("36 60, 64 60, 66 80, 50 98, 34 80", "main")
        pen.line("50 62, 50 86", 0.02, "dark")
    elif kind == "broom":
        pen.poly("42 64, 58 64, 76 96, 24 96", "yellow")
        pen.box(0.4, 0.62, 0.6, 0.7, "second")
        for i in range(5):
            pen.line([(0.45 + i * 0.025, 0.72), (0.3 + i * 0.1, 0.95)], 0.01, "brown")
    else:
        pen.blob("30 94, 30 94, 34 74, 50 64, 66 74, 70 94, 70 94", "second")


def hose(pen: Pen) -> None:
    """Draw a coiled garden hose with a nozzle."""
    for size in (0.36, 0.29, 0.22):
        pen.ring(0.46, 0.54, size, size * 0.9, 0.06, "main")
        pen.ring(0.46, 0.53, size, size * 0.9, 0.014, "light")
    pen.line("70 30, 86 14", 0.05, "main")
    pen.line("84 16, 95 5", 0.08, "brass")


def mower(pen: Pen) -> None:
    """Draw a lawn mower."""
    pen.line("34 66, 6 12", 0.035, "ink")
    pen.line("2 14, 16 10", 0.045, "rubber")
    pen.blob("24 82, 26 64, 44 58, 86 60, 96 82", "main")
    pen.box(0.48, 0.42, 0.74, 0.62, "dark", r=0.04)
    pen.disc(0.61, 0.5, 0.06, "steel")
    for x, r in ((0.34, 0.12), (0.86, 0.1)):
        pen.disc(x, 0.82, r, "ink")
        pen.disc(x, 0.82, r * 0.45, "steel")


def barrow(pen: Pen) -> None:
    """Draw a wheelbarrow."""
    pen.line("2 38, 50 62, 84 76", 0.04, "wood")
    pen.line("30 56, 30 90", 0.04, "ink")
    pen.poly("22 30, 94 26, 76 62, 40 62", "main")
    pen.disc(0.82, 0.78, 0.14, "ink")
    pen.disc(0.82, 0.78, 0.06, "steel")


def gnome(pen: Pen) -> None:
    """Draw a garden gnome."""
    pen.poly("24 94, 32 50, 68 50, 76 94", "second")
    pen.disc(0.5, 0.42, 0.16, "skin")
    pen.poly("30 40, 50 2, 70 40", "main")
    pen.blob("34 46, 66 46, 60 66, 50 80, 40 66", "paper")
    pen.disc(0.5, 0.44, 0.045, "pink")
    pen.box(0.26, 0.8, 0.74, 0.86, "ink")
