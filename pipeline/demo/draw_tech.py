"""Electronics: screens, computers, audio, cameras and power.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def screen(
    pen: Pen, *, wide: float = 0.44, tall: float = 0.84, bezel: float = 0.03, stand: str = ""
) -> None:
    """Draw a flat screen: size, bezel, stand (feet or a laptop's keys)."""
    high = 0.5 - tall / 2 - (0.1 if stand else 0)
    left, right, low = 0.5 - wide / 2, 0.5 + wide / 2, high + tall
    if stand == "feet":
        for x in (left + 0.12, right - 0.12):
            pen.line([(x, low), (x + (x - 0.5) * 0.2, low + 0.09)], 0.035, "dark")
    elif stand == "keys":
        pen.poly(
            [(left, low), (right, low), (right + 0.12, low + 0.22), (left - 0.12, low + 0.22)],
            "light",
        )
        for i in range(3):
            y = low + 0.03 + i * 0.045
            pen.line([(left + 0.01 - i * 0.02, y), (right - 0.01 + i * 0.02, y)], 0.025, "rubber")
        pen.poly(
            [(0.42, low + 0.165), (0.58, low + 0.165), (0.6, low + 0.21), (0.4, low + 0.21)], "dark"
        )
    pen.box(left, high, right, low, "main", r=min(0.07, wide * 0.13) if wide < 0.6 else 0.02)
    chin = bezel
    inside = (left + bezel, high + bezel, right - bezel, low - chin)
    pen.box(*inside, "screen", r=0.02)
    _content(pen, *inside)


def _content(pen: Pen, x0: float, y0: float, x1: float, y1: float) -> None:
    kind, wide, tall = pen.rng.randrange(4), x1 - x0, y1 - y0
    if kind == 0:
        pen.poly(
            [
                (x0, y1),
                (x0, y0 + tall * 0.6),
                (x0 + wide * 0.4, y0 + tall * 0.35),
                (x1, y0 + tall * 0.7),
                (x1, y1),
            ],
            "teal",
        )
        pen.disc(x0 + wide * 0.75, y0 + tall * 0.25, 0.05, "yellow")
    elif kind == 1:
        for i in range(6):
            pen.box(
                x0 + wide * (0.1 + 0.28 * (i % 3)),
                y0 + tall * (0.2 + 0.3 * (i // 3)),
                x0 + wide * (0.3 + 0.28 * (i % 3)),
                y0 + tall * (0.4 + 0.3 * (i // 3)),
                ("sky", "lime", "orange", "pink", "yellow", "purple")[i],
                r=0.015,
            )
    elif kind == 2:
        pen.line(
            [(x0 + wide * 0.15, y0 + tall * 0.9), (x0 + wide * 0.7, y0 + tall * 0.1)], 0.04, "navy"
        )


def case(pen: Pen) -> None:
    """Draw a phone case from the back with a camera hole."""
    pen.box(0.28, 0.06, 0.72, 0.94, "main", r=0.08)
    pen.box(0.33, 0.1, 0.5, 0.3, "deep", r=0.04)
    for x, y in ((0.38, 0.16), (0.45, 0.16), (0.38, 0.24)):
        pen.disc(x, y, 0.03, "ink")
        pen.disc(x, y, 0.012, "glass_dark")
    if pen.chance(0.5):
        pen.disc(0.5, 0.6, 0.11, "second")


def keyboard(pen: Pen, *, piano: bool = False) -> None:
    """Draw a computer keyboard, or a piano keyboard."""
    pen.box(0.02, 0.32, 0.98, 0.7, "main", r=0.03)
    if piano:
        pen.box(0.05, 0.48, 0.95, 0.68, "paper")
        for i in range(1, 14):
            pen.line([(0.05 + i * 0.0643, 0.48), (0.05 + i * 0.0643, 0.68)], 0.007, "ink")
            if i % 7 not in {3, 0}:
                pen.box(0.03 + i * 0.0643, 0.48, 0.067 + i * 0.0643, 0.6, "ink")
        for i in range(5):
            pen.disc(0.2 + i * 0.06, 0.4, 0.016, "second")
        pen.box(0.6, 0.36, 0.78, 0.44, "screen")
        return
    for row in range(4):
        for i in range(12 if row < 3 else 0):
            x = 0.06 + i * 0.073 + row * 0.006
            pen.box(x, 0.36 + row * 0.08, x + 0.06, 0.42 + row * 0.08, "light", r=0.01)
    for x0, x1 in ((0.06, 0.2), (0.24, 0.7), (0.74, 0.93)):
        pen.box(x0, 0.6, x1, 0.66, "light", r=0.01)


def mouse(pen: Pen) -> None:
    """Draw a computer mouse from above."""
    if pen.chance(0.4):
        pen.curve("50 20, 56 8, 70 2", 0.02, "ink")
    pen.blob("50 14, 72 22, 76 54, 70 84, 50 93, 30 84, 24 54, 28 22", "main")
    pen.line("50 15, 50 44", 0.014, "deep")
    pen.curve("25 44, 50 48, 75 44", 0.014, "deep")
    pen.box(0.465, 0.24, 0.535, 0.38, "second", r=0.03)


def printer(pen: Pen) -> None:
    """Draw a printer with paper above and below."""
    pen.poly("28 10, 72 10, 72 40, 28 40", "paper")
    pen.box(0.1, 0.36, 0.9, 0.76, "main", r=0.05)
    pen.box(0.1, 0.36, 0.9, 0.48, "dark", r=0.04)
    pen.box(0.66, 0.39, 0.84, 0.46, "screen")
    pen.poly("24 62, 76 62, 82 90, 18 90", "paper")
    for i in range(3):
        pen.line([(0.28, 0.69 + i * 0.06), (0.7, 0.69 + i * 0.06)], 0.016, "sky")


def stick_drive(pen: Pen) -> None:
    """Draw a USB flash drive."""
    pen.box(0.7, 0.4, 0.95, 0.6, "steel")
    pen.box(0.78, 0.44, 0.84, 0.48, "ink")
    pen.box(0.78, 0.52, 0.84, 0.56, "ink")
    pen.box(0.1, 0.34, 0.72, 0.66, "main", r=0.06)
    pen.ring(0.15, 0.5, 0.03, 0.03, 0.018, "deep")
    pen.box(0.3, 0.44, 0.56, 0.56, "light", r=0.02)


def tower(pen: Pen) -> None:
    """Draw a desktop computer tower."""
    pen.box(0.26, 0.06, 0.74, 0.94, "main", r=0.03)
    pen.box(0.32, 0.13, 0.68, 0.19, "deep")
    pen.box(0.32, 0.23, 0.68, 0.28, "deep")
    pen.disc(0.5, 0.4, 0.04, "lime")
    for i in range(6):
        pen.line([(0.34, 0.56 + i * 0.055), (0.66, 0.56 + i * 0.055)], 0.022, "deep")


def headphones(pen: Pen) -> None:
    """Draw over-ear headphones."""
    pen.arc(0.5, 0.54, 0.35, 0.42, (0.5, 1.0), 0.06, "main")
    pen.arc(0.5, 0.54, 0.31, 0.37, (0.56, 0.94), 0.03, "dark")
    for x, side in ((0.16, 1), (0.84, -1)):
        pen.box(x - 0.09, 0.48, x + 0.09, 0.82, "main", r=0.08)
        pen.box(x + side * 0.1 - 0.05, 0.5, x + side * 0.1 + 0.05, 0.8, "rubber", r=0.05)


def earbuds(pen: Pen) -> None:
    """Draw a pair of earbuds, with a charging case below."""
    for x, side in ((0.32, 1), (0.68, -1)):
        pen.disc(x, 0.2, 0.12, "main")
        pen.oval(x + side * 0.1, 0.2, 0.045, 0.07, "rubber")
        pen.box(x - 0.035 - side * 0.03, 0.22, x + 0.035 - side * 0.03, 0.48, "main", r=0.03)
    pen.box(0.2, 0.58, 0.8, 0.92, "light", r=0.13)
    pen.line("20 70, 80 70", 0.014, "deep")
    pen.disc(0.5, 0.79, 0.016, "lime")


def speaker(pen: Pen) -> None:
    """Draw a portable loudspeaker."""
    pen.box(0.08, 0.32, 0.92, 0.7, "main", r=0.19)
    pen.oval(0.16, 0.51, 0.06, 0.15, "deep")
    pen.oval(0.84, 0.51, 0.06, 0.15, "deep")
    for x in (0.42, 0.5, 0.58):
        pen.disc(x, 0.38, 0.02, "paper")
    pen.curve("88 40, 97 30, 96 46", 0.022, "second")


def microphone(pen: Pen) -> None:
    """Draw a hand microphone."""
    pen.poly("42 40, 58 40, 55 95, 45 95", "main")
    pen.disc(0.5, 0.24, 0.19, "steel_dark")
    for x in (0.4, 0.5, 0.6):
        pen.line([(x, 0.1), (x, 0.38)], 0.012, "ink")
    for y in (0.16, 0.24, 0.32):
        pen.line([(0.33, y), (0.67, y)], 0.012, "ink")
    pen.box(0.38, 0.38, 0.62, 0.44, "ink")
    pen.box(0.48, 0.52, 0.52, 0.6, "red")


def camera(pen: Pen, *, kind: str = "dslr") -> None:
    """Draw a camera, or a lens alone."""
    if kind == "lens":
        pen.box(0.26, 0.1, 0.74, 0.34, "rubber", r=0.03)
        pen.box(0.22, 0.32, 0.78, 0.7, "main", r=0.03)
        for i in range(10):
            pen.line([(0.25 + i * 0.055, 0.4), (0.25 + i * 0.055, 0.58)], 0.02, "deep")
        pen.box(0.3, 0.7, 0.7, 0.88, "steel", r=0.02)
        pen.oval(0.5, 0.11, 0.22, 0.05, "glass_dark")
        return
    pen.box(0.36, 0.12, 0.64, 0.3, "dark", r=0.04)
    pen.box(0.04, 0.24, 0.96, 0.84, "main", r=0.07)
    pen.box(0.06, 0.3, 0.24, 0.8, "rubber", r=0.04)
    pen.box(0.1, 0.18, 0.2, 0.25, "steel")
    x, y = {"action": (0.66, 0.44), "web": (0.5, 0.38)}.get(kind, (0.55, 0.54))
    size = {"action": 0.16, "web": 0.16, "instant": 0.19}.get(kind, 0.25)
    pen.disc(x, y, size, "ink")
    pen.disc(x, y, size * 0.72, "steel_dark")
    pen.disc(x, y, size * 0.5, "navy")
    pen.disc(x - size * 0.2, y - size * 0.2, size * 0.16, "paper")


def tripod(pen: Pen) -> None:
    """Draw a camera tripod."""
    pen.box(0.38, 0.06, 0.62, 0.14, "ink", r=0.02)
    pen.line("62 12, 84 24", 0.03, "ink")
    pen.line("50 10, 50 56", 0.05, "steel_dark")
    for x in (0.16, 0.5, 0.84):
        pen.line([(0.5, 0.34), (x, 0.95)], 0.045, "main")
        pen.disc(x, 0.95, 0.03, "ink")


def drone(pen: Pen) -> None:
    """Draw a drone with four rotors."""
    pen.line("14 30, 86 66", 0.045, "dark")
    pen.line("86 30, 14 66", 0.045, "dark")
    for x, y in ((0.14, 0.3), (0.86, 0.3), (0.14, 0.66), (0.86, 0.66)):
        pen.oval(x, y - 0.05, 0.14, 0.03, "steel")
        pen.box(x - 0.025, y - 0.05, x + 0.025, y + 0.06, "ink")
    pen.box(0.34, 0.38, 0.66, 0.58, "main", r=0.08)
    pen.disc(0.5, 0.58, 0.06, "ink")
    pen.disc(0.5, 0.58, 0.025, "sky")


def controller(pen: Pen) -> None:
    """Draw a game controller."""
    pen.blob("14 34, 34 28, 66 28, 86 34, 97 72, 84 80, 66 62, 34 62, 16 80, 3 72", "main")
    pen.line("20 43, 32 43", 0.04, "deep")
    pen.line("26 37, 26 49", 0.04, "deep")
    for x, y, tone in (
        (0.74, 0.37, "green"),
        (0.8, 0.43, "red"),
        (0.68, 0.43, "sky"),
        (0.74, 0.49, "yellow"),
    ):
        pen.disc(x, y, 0.03, tone)
    for x in (0.38, 0.62):
        pen.disc(x, 0.54, 0.06, "ink")
        pen.disc(x, 0.54, 0.035, "gray")


def console(pen: Pen) -> None:
    """Draw a handheld game console with a screen between two grips."""
    pen.box(0.02, 0.3, 0.98, 0.72, "second", r=0.12)
    pen.box(0.8, 0.3, 0.98, 0.72, "main", r=0.12)
    pen.box(0.02, 0.3, 0.2, 0.72, "main", r=0.12)
    pen.box(0.2, 0.31, 0.8, 0.71, "ink")
    pen.box(0.24, 0.35, 0.76, 0.67, "screen")
    _content(pen, 0.24, 0.35, 0.76, 0.67)
    pen.disc(0.11, 0.43, 0.045, "ink")
    pen.disc(0.89, 0.58, 0.045, "ink")
    pen.disc(0.11, 0.58, 0.03, "paper")
    pen.disc(0.89, 0.43, 0.03, "paper")


def goggles(pen: Pen) -> None:
    """Draw a virtual reality headset with its strap."""
    pen.arc(0.5, 0.44, 0.44, 0.32, (0.5, 1.0), 0.07, "dark")
    pen.box(0.06, 0.38, 0.94, 0.78, "main", r=0.12)
    pen.box(0.12, 0.44, 0.88, 0.72, "ink", r=0.09)
    pen.poly("42 80, 50 68, 58 80", "paper")
    for x in (0.24, 0.76):
        pen.disc(x, 0.58, 0.035, "glass_dark")


def remote(pen: Pen) -> None:
    """Draw a remote control."""
    pen.box(0.36, 0.03, 0.64, 0.97, "main", r=0.06)
    pen.disc(0.42, 0.1, 0.025, "red")
    pen.disc(0.5, 0.28, 0.1, "dark")
    pen.disc(0.5, 0.28, 0.04, "light")
    for i in range(12):
        pen.disc(0.42 + (i % 3) * 0.08, 0.48 + (i // 3) * 0.09, 0.024, "pale")


def power_strip(pen: Pen) -> None:
    """Draw a power strip with outlets."""
    pen.curve("6 50, -2 30, 10 16, 30 14", 0.035, "dark")
    pen.box(0.05, 0.38, 0.97, 0.64, "main", r=0.05)
    for i in range(5):
        x = 0.15 + i * 0.14
        pen.disc(x, 0.51, 0.055, "pale")
        pen.line([(x - 0.02, 0.48), (x - 0.02, 0.54)], 0.014, "ink")
        pen.line([(x + 0.02, 0.48), (x + 0.02, 0.54)], 0.014, "ink")
    pen.box(0.84, 0.46, 0.92, 0.56, "red", r=0.01)


def projector(pen: Pen) -> None:
    """Draw a video projector."""
    pen.poly("70 46, 100 26, 100 82, 70 62", "flame")
    pen.box(0.06, 0.34, 0.86, 0.72, "main", r=0.05)
    pen.disc(0.68, 0.53, 0.14, "ink")
    pen.disc(0.68, 0.53, 0.09, "glass_dark")
    for i in range(5):
        pen.line([(0.14 + i * 0.05, 0.44), (0.14 + i * 0.05, 0.62)], 0.02, "deep")
    for x in (0.16, 0.72):
        pen.box(x, 0.71, x + 0.07, 0.78, "ink")
