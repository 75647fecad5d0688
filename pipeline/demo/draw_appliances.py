"""Kettles and small and large kitchen appliances.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def kettle(pen: Pen, *, rose: bool = False) -> None:
    """Draw a vessel with a spout: a teapot, or a watering can with a rose."""
    if rose:
        pen.line("60 68, 88 30", 0.06, "dark")
        pen.poly("80 32, 90 20, 99 32, 92 40", "second")
        pen.ring(0.3, 0.5, 0.22, 0.26, 0.045, "dark")
        pen.box(0.28, 0.42, 0.66, 0.86, "main", r=0.04)
        pen.oval(0.47, 0.42, 0.19, 0.05, "deep")
        return
    pen.blob("66 68, 66 52, 84 42, 90 34, 96 34, 88 56", "dark")
    pen.ring(0.16, 0.58, 0.11, 0.14, 0.045, "dark")
    pen.blob("28 45, 64 45, 76 62, 66 84, 26 84, 16 62", "main")
    pen.oval(0.46, 0.45, 0.17, 0.04, "dark")
    pen.disc(0.46, 0.38, 0.04, "second")
    pen.curve("28 52, 24 64, 30 76", 0.03, "light")


def toaster(pen: Pen) -> None:
    """Draw a toaster with two slices."""
    for x in (0.26, 0.54):
        pen.box(x, 0.16, x + 0.2, 0.42, "tan", r=0.06)
        pen.box(x + 0.025, 0.2, x + 0.175, 0.42, "beige", r=0.04)
    pen.box(0.12, 0.34, 0.88, 0.84, "main", r=0.12)
    pen.box(0.2, 0.36, 0.8, 0.4, "ink", r=0.02)
    pen.box(0.8, 0.48, 0.94, 0.54, "rubber", r=0.02)
    pen.disc(0.68, 0.7, 0.05, "steel")
    pen.box(0.14, 0.82, 0.86, 0.88, "rubber", r=0.02)


def blender(pen: Pen) -> None:
    """Draw a blender: a glass jar on a motor base."""
    pen.ring(0.66, 0.36, 0.11, 0.14, 0.04, "glass_dark")
    pen.poly("28 12, 68 12, 62 60, 34 60", "glass")
    pen.poly("31 30, 66 30, 62 58, 35 58", "second")
    pen.box(0.3, 0.05, 0.66, 0.13, "rubber", r=0.02)
    pen.poly("32 60, 64 60, 74 92, 22 92", "main")
    pen.disc(0.48, 0.77, 0.06, "steel")
    pen.disc(0.48, 0.77, 0.02, "ink")


def coffee_maker(pen: Pen) -> None:
    """Draw a drip coffee maker with its carafe."""
    pen.box(0.2, 0.1, 0.8, 0.9, "main", r=0.05)
    pen.box(0.32, 0.36, 0.82, 0.8, "paper")
    pen.poly("44 30, 68 30, 62 40, 50 40", "rubber")
    pen.ring(0.76, 0.6, 0.08, 0.1, 0.035, "rubber")
    pen.blob("44 46, 68 46, 76 66, 70 80, 42 80, 36 66", "glass")
    pen.blob("40 60, 72 60, 75 68, 70 79, 42 79, 37 68", "walnut")
    pen.box(0.3, 0.16, 0.5, 0.24, "screen", r=0.01)
    pen.box(0.18, 0.82, 0.82, 0.92, "dark", r=0.02)


def oven_box(pen: Pen) -> None:
    """Draw a washing machine."""
    pen.box(0.14, 0.06, 0.86, 0.94, "main", r=0.03)
    pen.box(0.14, 0.06, 0.86, 0.2, "light", r=0.02)
    pen.disc(0.72, 0.13, 0.04, "steel")
    pen.disc(0.5, 0.57, 0.28, "steel")
    pen.disc(0.5, 0.57, 0.21, "glass_dark")
    pen.arc(0.5, 0.57, 0.14, 0.14, (0.5, 0.8), 0.04, "paper")


def fridge(pen: Pen) -> None:
    """Draw a two-door refrigerator."""
    pen.box(0.24, 0.03, 0.76, 0.97, "main", r=0.03)
    pen.line("24 36, 76 36", 0.014, "deep")
    pen.box(0.3, 0.18, 0.34, 0.33, "steel_dark")
    pen.box(0.3, 0.4, 0.34, 0.62, "steel_dark")
    if pen.chance(0.4):
        pen.box(0.52, 0.46, 0.66, 0.58, "screen")


def mixer(pen: Pen) -> None:
    """Draw a stand mixer with a steel bowl."""
    pen.box(0.14, 0.8, 0.86, 0.9, "main", r=0.04)
    pen.box(0.14, 0.34, 0.34, 0.86, "main", r=0.05)
    pen.blob("12 30, 20 16, 76 18, 88 30, 76 42, 20 42", "main")
    pen.disc(0.84, 0.3, 0.05, "steel")
    pen.box(0.62, 0.4, 0.7, 0.52, "steel_dark")
    pen.blob("44 50, 44 50, 90 50, 90 50, 84 72, 67 80, 50 72", "steel")
    pen.line("24 24, 66 24", 0.03, "light")
