"""Toys and musical instruments.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Fill, Pen


def bear(pen: Pen) -> None:
    """Draw a teddy bear sitting."""
    for x in (0.3, 0.7):
        pen.disc(x, 0.16, 0.1, "main")
        pen.disc(x, 0.16, 0.055, "light")
    for x in (0.24, 0.76):
        pen.oval(x, 0.62, 0.1, 0.15, "main")
    for x in (0.3, 0.7):
        pen.oval(x, 0.88, 0.14, 0.1, "dark")
        pen.oval(x, 0.88, 0.07, 0.06, "light")
    pen.oval(0.5, 0.7, 0.24, 0.23, "main")
    pen.oval(0.5, 0.72, 0.14, 0.15, "light")
    pen.disc(0.5, 0.3, 0.22, "main")
    for x in (0.42, 0.58):
        pen.disc(x, 0.27, 0.026, "ink")
    pen.oval(0.5, 0.37, 0.09, 0.07, "pale")
    pen.oval(0.5, 0.34, 0.035, 0.025, "ink")


def doll(pen: Pen) -> None:
    """Draw a fashion doll in a dress."""
    for x in (0.44, 0.56):
        pen.line([(x, 0.64), (x, 0.95)], 0.05, "skin")
    for side in (-1, 1):
        pen.line([(0.5 + side * 0.1, 0.38), (0.5 + side * 0.26, 0.6)], 0.045, "skin")
    pen.oval(0.5, 0.21, 0.17, 0.19, "brown" if pen.chance(0.5) else "gold")
    pen.oval(0.5, 0.2, 0.11, 0.13, "skin")
    pen.poly("42 34, 58 34, 55 50, 76 78, 24 78, 45 50", "main")
    for x in (0.46, 0.54):
        pen.disc(x, 0.2, 0.015, "ink")
    pen.line("47 27, 53 27", 0.016, "red")


def vehicle(pen: Pen, *, kind: str = "car") -> None:
    """Draw a toy car, a dump truck or a train engine."""
    wheels = [(0.26, 0.72, 0.11), (0.74, 0.72, 0.11)]
    if kind == "car":
        pen.blob("3 68, 5 54, 24 48, 34 32, 62 32, 76 48, 95 54, 97 70, 97 70, 3 70", "main")
        pen.poly("36 36, 49 36, 49 48, 30 48", "glass")
        pen.poly("53 36, 61 36, 70 48, 53 48", "glass")
        pen.disc(0.93, 0.58, 0.03, "yellow")
    elif kind == "dump":
        pen.poly("2 30, 60 30, 54 62, 10 62", "main")
        pen.box(0.06, 0.6, 0.96, 0.7, "rubber")
        pen.box(0.64, 0.34, 0.94, 0.66, "second")
        pen.box(0.74, 0.39, 0.91, 0.5, "glass")
        wheels = [(0.22, 0.74, 0.12), (0.46, 0.74, 0.12), (0.8, 0.74, 0.12)]
    elif kind == "train":
        pen.box(0.08, 0.22, 0.4, 0.68, "second")
        pen.box(0.14, 0.3, 0.34, 0.46, "glass")
        pen.box(0.04, 0.17, 0.44, 0.24, "dark")
        pen.box(0.38, 0.4, 0.88, 0.68, "main", r=0.08)
        pen.poly("70 40, 67 20, 85 20, 82 40", "dark")
        pen.poly("86 66, 99 80, 86 80", "red")
        wheels = [(0.22, 0.74, 0.13), (0.5, 0.77, 0.09), (0.72, 0.77, 0.09)]
    else:
        pen.box(0.44, 0.44, 0.9, 0.62, "main", r=0.04)
        pen.line("76 44, 76 24", 0.035, "ink")
        pen.box(0.2, 0.2, 0.5, 0.25, "main")
        for x in (0.23, 0.46):
            pen.line([(x, 0.22), (x, 0.56)], 0.025, "ink")
        wheels = [(0.28, 0.66, 0.2), (0.82, 0.75, 0.11)]
    for x, y, r in wheels:
        pen.disc(x, y, r, "ink")
        pen.disc(x, y, r * 0.45, "steel")


def plane(pen: Pen) -> None:
    """Draw a toy airplane with a propeller."""
    pen.poly("40 50, 56 50, 48 86, 36 86", "dark")
    pen.blob("4 42, 30 38, 76 36, 90 48, 76 60, 30 56", "main")
    pen.poly("4 44, 2 20, 12 20, 22 42", "second")
    pen.poly("40 42, 56 42, 52 16, 42 16", "dark")
    pen.blob("58 40, 64 30, 74 33, 76 40", "glass")
    pen.line("93 26, 93 70", 0.035, "wood_dark")
    pen.disc(0.92, 0.48, 0.04, "second")


def blocks(pen: Pen) -> None:
    """Draw studded building bricks."""
    tones: tuple[Fill, ...] = ("main", "second", "yellow")
    for i, (x, y, w) in enumerate(((0.08, 0.66, 0.5), (0.46, 0.42, 0.44), (0.2, 0.18, 0.3))):
        for j in range(int(w / 0.12)):
            pen.box(x + 0.03 + j * 0.12, y - 0.05, x + 0.1 + j * 0.12, y + 0.02, tones[i])
        pen.box(x, y, x + w, y + 0.22, tones[i], r=0.01)


def puzzle(pen: Pen, *, cube: bool = False) -> None:
    """Draw jigsaw pieces, or a color cube."""
    if cube:
        for i in range(9):
            x, y = 0.14 + (i % 3) * 0.24, 0.14 + (i // 3) * 0.24
            pen.box(x, y, x + 0.24, y + 0.24, "ink")
            pen.box(
                x + 0.02,
                y + 0.02,
                x + 0.22,
                y + 0.22,
                pen.rng.choice(("red", "green", "blue", "yellow", "orange", "paper")),
                r=0.03,
            )
        return
    for x, y, tone in (
        (0.1, 0.12, "main"),
        (0.52, 0.12, "second"),
        (0.1, 0.54, "second_light"),
        (0.54, 0.58, "light"),
    ):
        pen.box(x, y, x + 0.36, y + 0.36, tone)
        pen.disc(x + 0.38, y + 0.18, 0.07, tone)
        pen.disc(x + 0.18, y + 0.38, 0.07, tone)
        pen.disc(x + 0.18, y + 0.03, 0.06, "paper")


def board_game(pen: Pen) -> None:
    """Draw a checkered game board with pieces."""
    pen.box(0.08, 0.08, 0.92, 0.92, "dark")
    for i in range(36):
        x, y = 0.13 + i % 6 * 0.123, 0.13 + i // 6 * 0.123
        pen.box(x, y, x + 0.123, y + 0.123, "main" if (i + i // 6) % 2 else "beige")
    for i in range(5):
        pen.disc(
            0.19 + pen.rng.randrange(6) * 0.123,
            0.19 + pen.rng.randrange(6) * 0.123,
            0.045,
            "ink" if i % 2 else "red",
        )


def duck(pen: Pen) -> None:
    """Draw a rubber duck."""
    pen.blob("8 50, 20 56, 44 54, 66 52, 86 66, 74 88, 36 90, 14 76", "main")
    pen.disc(0.66, 0.32, 0.2, "main")
    pen.poly("82 30, 98 36, 82 42", "orange")
    pen.disc(0.71, 0.27, 0.03, "ink")
    pen.blob("26 64, 50 60, 56 70, 38 78", "dark")


def kite(pen: Pen) -> None:
    """Draw a kite with a tail of bows."""
    pen.curve("44 64, 30 76, 42 88, 26 97", 0.016, "ink")
    for x, y in ((0.33, 0.76), (0.37, 0.87)):
        pen.poly([(x - 0.06, y - 0.03), (x, y), (x - 0.05, y + 0.04)], "second")
        pen.poly([(x + 0.06, y - 0.03), (x, y), (x + 0.05, y + 0.04)], "second")
    pen.poly("56 2, 84 30, 44 66, 24 24", "main")
    pen.poly("56 2, 84 30, 53 26", "second")
    pen.poly("24 24, 53 26, 44 66", "second_light")


def robot(pen: Pen) -> None:
    """Draw a toy robot."""
    pen.line("50 12, 50 3", 0.02, "steel_dark")
    pen.disc(0.5, 0.04, 0.03, "red")
    for x in (0.2, 0.8):
        pen.box(x - 0.05, 0.42, x + 0.05, 0.7, "dark", r=0.04)
    for x in (0.38, 0.62):
        pen.box(x - 0.07, 0.76, x + 0.07, 0.95, "dark")
    pen.box(0.32, 0.12, 0.68, 0.36, "main", r=0.03)
    pen.box(0.27, 0.38, 0.73, 0.78, "main", r=0.03)
    for x in (0.42, 0.58):
        pen.disc(x, 0.22, 0.045, "yellow")
    pen.box(0.42, 0.3, 0.58, 0.33, "ink")
    pen.box(0.35, 0.46, 0.65, 0.6, "second")
    for i in range(3):
        pen.disc(0.4 + i * 0.1, 0.68, 0.025, "red" if i == 0 else "lime")


def stacker(pen: Pen, *, top_toy: bool = False) -> None:
    """Draw stacking rings on a post, or a spinning top."""
    if top_toy:
        pen.box(0.46, 0.08, 0.54, 0.34, "wood", r=0.02)
        pen.blob("12 44, 50 30, 88 44, 66 70, 50 92, 50 92, 34 70", "main")
        pen.curve("14 45, 50 54, 86 45", 0.05, "second")
        return
    pen.box(0.46, 0.1, 0.54, 0.8, "paper", r=0.04)
    for i, tone in enumerate(("red", "orange", "yellow", "green", "main")):
        half = 0.16 + i * 0.055
        pen.box(0.5 - half, 0.2 + i * 0.135, 0.5 + half, 0.33 + i * 0.135, tone, r=0.06)
    pen.box(0.2, 0.87, 0.8, 0.95, "second", r=0.03)


def guitar(pen: Pen, *, kind: str = "acoustic") -> None:
    """Draw an acoustic guitar, or a violin with its bow."""
    small = 0.8 if kind == "violin" else 1.0
    pen.line("50 54, 50 14", 0.06, "wood_dark" if kind != "violin" else "ink")
    pen.box(0.45, 0.02, 0.55, 0.15, "dark", r=0.02)
    for i in range(3):
        pen.disc(0.43, 0.04 + i * 0.04, 0.016, "steel")
        pen.disc(0.57, 0.04 + i * 0.04, 0.016, "steel")
    w, cut = 0.27 * small, 0.1
    pen.blob(
        [
            (0.5, 0.46),
            (0.5 + w * 0.8, 0.52),
            (0.5 + w - cut, 0.64),
            (0.5 + w, 0.82),
            (0.5, 0.97),
            (0.5 - w, 0.82),
            (0.5 - w + cut, 0.64),
            (0.5 - w * 0.8, 0.52),
        ],
        "main",
    )
    if kind == "violin":
        for x in (0.42, 0.58):
            pen.curve([(x, 0.66), (x + 0.02, 0.72), (x - 0.01, 0.8)], 0.016, "ink")
        pen.line("84 10, 80 95", 0.022, "brown")
    else:
        pen.disc(0.5, 0.67, 0.08 * small, "ink")
    pen.box(0.42, 0.84, 0.58, 0.87, "ink")
    for x in (0.485, 0.515):
        pen.line([(x, 0.1), (x, 0.85)], 0.006, "silver")


def drum(pen: Pen) -> None:
    """Draw a drum kit."""
    for x in (0.14, 0.86):
        pen.line([(x, 0.2), (x + (0.5 - x) * 0.2, 0.94)], 0.02, "steel_dark")
        pen.oval(x, 0.2, 0.14, 0.03, "gold")
    pen.box(0.24, 0.28, 0.46, 0.46, "main")
    pen.box(0.54, 0.28, 0.76, 0.46, "main")
    pen.box(0.02, 0.54, 0.26, 0.72, "main")
    pen.disc(0.5, 0.7, 0.24, "main")
    pen.disc(0.5, 0.7, 0.2, "paper")


def brass_horn(pen: Pen) -> None:
    """Draw a trumpet."""
    pen.line("4 44, 80 44", 0.04, "main")
    pen.ring(0.46, 0.54, 0.24, 0.1, 0.035, "main")
    for i in range(3):
        pen.box(0.4 + i * 0.08, 0.34, 0.45 + i * 0.08, 0.66, "light", r=0.01)
        pen.disc(0.425 + i * 0.08, 0.32, 0.025, "dark")
    pen.blob("72 43, 86 38, 97 24, 97 64, 86 50, 72 46", "main")
    pen.box(0.01, 0.4, 0.06, 0.48, "dark")
