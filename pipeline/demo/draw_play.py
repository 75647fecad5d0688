"""Balls, rackets, exercise, outdoor gear and vehicles to ride.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

import math

from pipeline.demo.draw import Pen


def ball(pen: Pen, *, kind: str = "plain", size: float = 0.42) -> None:
    """Draw a ball with its sport's marks."""
    if kind == "football":
        pen.blob("4 50, 4 50, 26 26, 50 20, 74 26, 96 50, 96 50, 74 74, 50 80, 26 74", "main")
        pen.line("34 42, 66 42", 0.022, "paper")
        for i in range(5):
            pen.line([(0.38 + i * 0.06, 0.38), (0.38 + i * 0.06, 0.46)], 0.02, "paper")
        for x in (0.2, 0.8):
            pen.curve([(x, 0.3), (x + (0.5 - x) * 0.1, 0.5), (x, 0.7)], 0.03, "paper")
        return
    size = pen.near(size, 0.02)
    pen.disc(0.5, 0.5, size, "main")
    if kind == "soccer":
        for i in range(6):
            angle = i * math.tau / 5 - math.pi / 2
            reach = 0.0 if i == 5 else size * 0.78
            x, y = 0.5 + reach * math.cos(angle), 0.5 + reach * math.sin(angle)
            pen.poly(
                [
                    (
                        x + 0.12 * math.cos(angle + j * math.tau / 5),
                        y + 0.12 * math.sin(angle + j * math.tau / 5),
                    )
                    for j in range(5)
                ],
                "second",
            )
    elif kind == "basket":
        pen.line([(0.5, 0.5 - size), (0.5, 0.5 + size)], 0.02, "ink")
        pen.line([(0.5 - size, 0.5), (0.5 + size, 0.5)], 0.02, "ink")
        pen.curve("24 22, 36 50, 24 78", 0.02, "ink")
        pen.curve("76 22, 64 50, 76 78", 0.02, "ink")
    elif kind == "tennis":
        tone = "paper" if kind == "tennis" else "red"
        for x, side in ((0.2, 1), (0.8, -1)):
            pen.curve(
                [(x, 0.5 - size * 0.7), (x + side * 0.13, 0.5), (x, 0.5 + size * 0.7)], 0.028, tone
            )
    elif kind == "golf":
        for i in range(25):
            pen.disc(0.27 + i % 5 * 0.115, 0.27 + i // 5 * 0.115, 0.022, "silver")
    pen.disc(0.5 - size * 0.4, 0.5 - size * 0.45, size * 0.13, "pale")


def racket(pen: Pen, *, kind: str = "tennis") -> None:
    """Draw a tennis racket, or a table tennis paddle."""
    if kind == "paddle":
        pen.box(0.44, 0.6, 0.56, 0.95, "wood", r=0.03)
        pen.disc(0.5, 0.36, 0.31, "main")
        pen.poly("34 60, 66 60, 56 72, 44 72", "wood")
        pen.disc(0.84, 0.78, 0.08, "paper")
        return
    wide, shaft = (0.24, 0.05) if kind == "tennis" else (0.17, 0.025)
    pen.oval(0.5, 0.3, wide, 0.27, "paper")
    for i in range(1, 7):
        x = 0.5 - wide + i * wide * 2 / 7
        rise = 0.25 * math.sqrt(max(0.0, 1 - ((x - 0.5) / wide) ** 2))
        pen.line([(x, 0.3 - rise), (x, 0.3 + rise)], 0.009, "gray")
        y = 0.04 + i * 0.074
        reach = wide * math.sqrt(max(0.0, 1 - ((y - 0.3) / 0.26) ** 2))
        pen.line([(0.5 - reach, y), (0.5 + reach, y)], 0.009, "gray")
    pen.ring(0.5, 0.3, wide, 0.27, 0.04 if kind == "tennis" else 0.025, "main")
    if kind == "tennis":
        pen.line("36 52, 50 70, 64 52", 0.035, "main")
    pen.line("50 58, 50 84", shaft, "dark")
    pen.box(0.455, 0.74, 0.545, 0.97, "rubber", r=0.03)


def club(pen: Pen, *, kind: str = "bat") -> None:
    """Draw a bat, a hockey stick or a fishing rod."""
    if kind == "bat":
        pen.blob("46 90, 47 60, 42 30, 43 10, 50 4, 57 10, 58 30, 53 60, 54 90", "main")
        pen.box(0.44, 0.9, 0.56, 0.95, "dark", r=0.02)
        pen.box(0.462, 0.7, 0.538, 0.89, "second")
    elif kind == "hockey":
        pen.line("70 3, 46 82, 16 92", 0.055, "main")
        pen.line("44 84, 16 92", 0.08, "ink")
        pen.line("70 3, 65 18", 0.06, "paper")
    elif kind == "rod":
        pen.line("90 3, 30 78", 0.02, "main")
        pen.line("36 70, 16 95", 0.05, "tan")
        pen.disc(0.4, 0.76, 0.08, "steel_dark")
        pen.disc(0.4, 0.76, 0.035, "second")
        pen.curve("90 3, 94 40, 84 60", 0.01, "gray")
        pen.arc(0.82, 0.62, 0.03, 0.05, (0.0, 0.6), 0.014, "steel_dark")
    else:
        for x in (0.36, 0.62):
            pen.line([(x, 0.04), (x, 0.94)], 0.03, "main")
            pen.box(x - 0.035, 0.03, x + 0.035, 0.2, "rubber", r=0.02)
            pen.oval(x, 0.86, 0.08, 0.025, "ink")


def weight(pen: Pen, *, kind: str = "dumbbell") -> None:
    """Draw a dumbbell, or a kettlebell."""
    if kind == "kettlebell":
        pen.ring(0.5, 0.32, 0.2, 0.2, 0.08, "dark")
        pen.blob("36 40, 64 40, 82 66, 70 92, 30 92, 18 66", "main")
        pen.disc(0.5, 0.68, 0.1, "light")
        return
    pen.box(0.24, 0.465, 0.76, 0.535, "steel")
    sizes = ((0.2, 0.2), (0.1, 0.14))
    for x, tall in sizes:
        for side in (-1, 1):
            cx = 0.5 + side * (0.5 - x)
            pen.box(
                cx - 0.04,
                0.5 - tall,
                cx + 0.04,
                0.5 + tall,
                "main" if x == sizes[0][0] else "dark",
                r=0.02,
            )


def yoga_mat(pen: Pen) -> None:
    """Draw a mat half unrolled."""
    pen.poly("30 50, 98 62, 90 84, 20 70", "main")
    pen.line("30 36, 20 74", 0.22, "dark")
    pen.oval(0.2, 0.76, 0.11, 0.08, "main")
    pen.ring(0.2, 0.76, 0.06, 0.045, 0.018, "deep")


def jump_rope(pen: Pen) -> None:
    """Draw a jump rope with two grips."""
    pen.curve("24 30, 10 70, 34 92, 60 60, 86 84, 76 30", 0.028, "second")
    for x in (0.24, 0.76):
        pen.box(x - 0.05, 0.06, x + 0.05, 0.34, "main", r=0.04)


def treadmill(pen: Pen) -> None:
    """Draw a treadmill from the side."""
    pen.poly("4 84, 90 74, 94 82, 6 93", "ink")
    pen.line("82 80, 70 28", 0.055, "main")
    pen.line("70 30, 42 42", 0.035, "dark")
    pen.poly("62 18, 84 24, 80 34, 58 27", "main")
    pen.poly("65 21, 79 25, 77 29, 64 26", "sky")


def tent(pen: Pen, *, house: bool = False) -> None:
    """Draw a camping tent, or a dog house with a roof."""
    if house:
        pen.box(0.18, 0.44, 0.82, 0.92, "main")
        pen.poly("6 48, 50 10, 94 48", "second")
        pen.blob("36 92, 36 92, 36 66, 50 56, 64 66, 64 92, 64 92", "ink")
        return
    pen.poly("50 16, 96 84, 4 84", "main")
    pen.poly("50 16, 96 84, 68 84", "dark")
    pen.poly("46 28, 58 84, 30 84", "deep")
    pen.poly("46 28, 30 84, 22 84", "second")
    pen.line("50 16, 46 8", 0.025, "ink")


def sleeping_bag(pen: Pen) -> None:
    """Draw a mummy sleeping bag."""
    pen.blob("34 94, 26 50, 30 16, 50 5, 70 16, 74 50, 66 94", "main")
    pen.oval(0.5, 0.2, 0.13, 0.11, "second")
    for i in range(5):
        y = 0.4 + i * 0.11
        pen.curve([(0.29, y), (0.5, y + 0.03), (0.71, y)], 0.014, "deep")
    pen.line("62 28, 64 80", 0.014, "steel")


def bicycle(pen: Pen, *, scooter: bool = False) -> None:
    """Draw a bicycle, or a kick scooter."""
    if scooter:
        for x in (0.18, 0.84):
            pen.disc(x, 0.84, 0.09, "ink")
            pen.disc(x, 0.84, 0.035, "steel")
        pen.line("18 78, 70 80, 80 70", 0.06, "main")
        pen.line("84 84, 74 14", 0.04, "steel_dark")
        pen.line("62 16, 86 12", 0.05, "rubber")
        return
    for x in (0.22, 0.78):
        pen.ring(x, 0.66, 0.19, 0.19, 0.035, "ink")
        pen.line([(x - 0.17, 0.66), (x + 0.17, 0.66)], 0.008, "gray")
        pen.line([(x, 0.49), (x, 0.83)], 0.008, "gray")
    pen.line("22 66, 38 40, 68 38, 46 68, 22 66", 0.032, "main")
    pen.line("38 40, 46 68", 0.032, "main")
    pen.line("78 66, 66 28, 76 24", 0.032, "main")
    pen.line("38 40, 36 32", 0.024, "steel")
    pen.box(0.28, 0.28, 0.46, 0.33, "ink", r=0.02)
    pen.disc(0.46, 0.68, 0.05, "steel_dark")


def helmet(pen: Pen, *, kind: str = "bike") -> None:
    """Draw a helmet: bike (vents) or football (face guard)."""
    pen.blob("10 62, 12 36, 36 16, 66 18, 88 40, 90 62, 90 62, 10 62", "main")
    if kind == "bike":
        for x in (0.28, 0.46, 0.64):
            pen.blob([(x, 0.28), (x + 0.09, 0.3), (x + 0.1, 0.52), (x + 0.02, 0.5)], "ink")
        pen.curve("24 62, 40 90, 60 62", 0.022, "ink")
    elif kind == "sport":
        pen.box(0.1, 0.58, 0.5, 0.82, "main", r=0.06)
        pen.disc(0.36, 0.62, 0.06, "ink")
        for y in (0.6, 0.7, 0.8):
            pen.curve([(0.5, y), (0.8, y), (0.96, y - 0.04)], 0.026, "steel_dark")
        pen.line("94 56, 92 78", 0.026, "steel_dark")
        pen.curve("18 34, 40 20, 72 24", 0.04, "second")
    else:
        pen.blob("2 66, 10 60, 90 60, 99 68, 50 70", "dark")
        pen.curve("50 17, 50 40, 50 60", 0.08, "light")


def plank(pen: Pen, *, kind: str = "skateboard") -> None:
    """Draw a skateboard, or a surfboard."""
    if kind == "skateboard":
        for x in (0.26, 0.74):
            pen.box(x - 0.06, 0.54, x + 0.06, 0.6, "steel")
            pen.disc(x - 0.04, 0.63, 0.06, "second")
            pen.disc(x + 0.06, 0.63, 0.06, "second")
        pen.blob("2 42, 14 49, 86 49, 98 42, 90 55, 10 55", "main")
    elif kind == "surfboard":
        pen.blob("50 2, 50 2, 66 30, 66 70, 56 96, 44 96, 34 70, 34 30", "main")
        pen.line("50 5, 50 95", 0.016, "dark")
        pen.box(0.34, 0.36, 0.66, 0.44, "second")
        pen.box(0.34, 0.48, 0.66, 0.52, "second_light")
    else:
        pen.blob("2 46, 2 46, 20 52, 80 52, 98 46, 98 46, 82 66, 18 66", "main")
        pen.oval(0.5, 0.53, 0.16, 0.035, "ink")
        pen.line("24 34, 78 74", 0.026, "steel_dark")
        pen.oval(0.23, 0.33, 0.07, 0.04, "second")
        pen.oval(0.79, 0.75, 0.07, 0.04, "second")


def cooler(pen: Pen) -> None:
    """Draw an ice chest with a carry handle."""
    pen.arc(0.5, 0.42, 0.36, 0.28, (0.5, 1.0), 0.04, "steel_dark")
    pen.box(0.1, 0.44, 0.9, 0.88, "main", r=0.04)
    pen.box(0.07, 0.34, 0.93, 0.48, "paper", r=0.04)
    pen.box(0.43, 0.44, 0.57, 0.54, "steel_dark", r=0.01)
    pen.box(0.2, 0.6, 0.8, 0.68, "second_light", r=0.02)


def lantern(pen: Pen, *, torch: bool = False) -> None:
    """Draw a camping lantern, or a flashlight."""
    if torch:
        pen.poly("62 40, 84 30, 84 68, 62 58", "dark")
        pen.box(0.06, 0.41, 0.64, 0.57, "main", r=0.03)
        pen.oval(0.84, 0.49, 0.04, 0.19, "flame")
        pen.box(0.4, 0.38, 0.5, 0.43, "red", r=0.01)
        for i in range(4):
            pen.line([(0.12 + i * 0.05, 0.42), (0.12 + i * 0.05, 0.56)], 0.014, "deep")
        return
    pen.arc(0.5, 0.24, 0.2, 0.2, (0.5, 1.0), 0.03, "steel_dark")
    pen.box(0.32, 0.2, 0.68, 0.32, "main", r=0.03)
    pen.box(0.34, 0.32, 0.66, 0.7, "glass")
    pen.blob("50 38, 58 54, 50 66, 42 54", "flame")
    for x in (0.36, 0.64):
        pen.line([(x, 0.3), (x, 0.72)], 0.022, "dark")
    pen.box(0.28, 0.7, 0.72, 0.92, "main", r=0.04)


def glove_sport(pen: Pen, *, boxing: bool = True) -> None:
    """Draw a boxing glove, or a baseball mitt."""
    if boxing:
        pen.blob("30 70, 22 46, 30 18, 56 10, 80 26, 80 54, 68 70", "main")
        pen.blob("30 58, 20 40, 30 32, 44 46, 46 60", "dark")
        pen.box(0.3, 0.68, 0.7, 0.92, "second", r=0.03)
        pen.line("30 80, 70 80", 0.022, "paper")
        return
    for x, y in ((0.2, 0.34), (0.38, 0.16), (0.56, 0.13), (0.74, 0.2), (0.88, 0.38)):
        pen.line([(0.5 + (x - 0.5) * 0.5, 0.66), (x, y)], 0.15, "main")
        pen.disc(x, y, 0.075, "main")
    pen.blob("20 60, 50 42, 84 60, 70 90, 34 90", "main")
    pen.disc(0.48, 0.52, 0.14, "paper")
    pen.arc(0.4, 0.52, 0.1, 0.12, (0.8, 1.2), 0.014, "red")
