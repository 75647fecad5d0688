"""Things worn or carried with clothes: hats, gloves, belts, eyewear, jewelry, bags.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def cap(pen: Pen) -> None:
    """Draw a baseball cap from the side."""
    dome = [
        (0.12, 0.64),
        (0.12, 0.64),
        (0.14, 0.4),
        (0.38, 0.24),
        (0.6, 0.36),
        (0.66, 0.64),
        (0.66, 0.64),
    ]
    pen.blob(dome, "main")
    pen.curve("38 25, 46 42, 46 64", 0.014, "dark")
    pen.disc(0.38, 0.24, 0.025, "dark")
    pen.disc(0.55, 0.5, 0.06, "second")
    pen.blob("56 60, 80 60, 97 70, 78 70, 56 66", "dark")


def beanie(pen: Pen) -> None:
    """Draw a knit hat with a folded brim and sometimes a pompom."""
    pen.blob("20 72, 22 40, 50 18, 78 40, 80 72, 50 74", "main")
    for i in range(5):
        x = 0.3 + i * 0.1
        pen.curve([(0.5 + (x - 0.5) * 0.4, 0.24), (x, 0.44), (x, 0.66)], 0.012, "dark")
    pen.box(0.17, 0.62, 0.83, 0.8, "second", r=0.05)
    if pen.chance(0.6):
        pen.disc(0.5, 0.17, 0.1, "second_light")


def brim_hat(pen: Pen) -> None:
    """Draw a cowboy hat: a dented crown and a brim with lifted sides."""
    brim = [(0.03, 0.48), (0.2, 0.68), (0.5, 0.68), (0.8, 0.68)]
    brim += [(0.97, 0.48), (0.84, 0.76), (0.5, 0.8), (0.16, 0.76)]
    pen.blob(brim, "main")
    high = 0.7 - pen.near(0.36, 0.03)
    body = [(0.28, 0.7), (0.28, 0.7), (0.3, high + 0.05), (0.4, high - 0.02), (0.5, high + 0.06)]
    body += [(0.6, high - 0.02), (0.7, high + 0.05), (0.72, 0.7), (0.72, 0.7)]
    pen.blob(body, "main")
    pen.blob("28 71, 28.5 60, 50 62, 71.5 60, 72 71, 50 73", "second")


def glove(pen: Pen) -> None:
    """Draw a glove with fingers."""
    width = 0.1
    for i, tall in enumerate((0.22, 0.12, 0.14, 0.26)):
        x = 0.36 + i * 0.115
        pen.line([(x, 0.5), (x + (i - 1.5) * 0.02, tall)], width, "main")
        pen.disc(x + (i - 1.5) * 0.02, tall, width / 2, "main")
    pen.line("36 66, 20 42", width + 0.02, "main")
    pen.disc(0.2, 0.42, width / 2 + 0.01, "main")
    pen.blob("32 44, 76 44, 74 74, 36 74", "main")
    pen.box(0.33, 0.72, 0.77, 0.9, "second", r=0.02)


def scarf(pen: Pen) -> None:
    """Draw a looped scarf with fringes."""
    for x, low in ((0.36, 0.86), (0.56, 0.76)):
        pen.poly([(x, 0.4), (x + 0.17, 0.4), (x + 0.19, low), (x - 0.02, low)], "main")
        for i in range(3):
            pen.box(x - 0.01, low - 0.1 - i * 0.1, x + 0.18, low - 0.06 - i * 0.1, "second")
        for i in range(5):
            pen.line([(x + i * 0.043, low), (x + i * 0.043, low + 0.08)], 0.014, "dark")
    pen.ring(0.5, 0.3, 0.24, 0.15, 0.17, "main")
    pen.arc(0.5, 0.32, 0.26, 0.17, (0.05, 0.45), 0.02, "dark")


def tie(pen: Pen) -> None:
    """Draw a necktie hanging from its knot."""
    pen.poly("43 20, 57 20, 63 80, 50 96, 37 80", "main")
    pen.poly("40 5, 60 5, 56 22, 44 22", "dark")
    for i in range(4):
        y = 0.34 + i * 0.13
        pen.line([(0.41, y + 0.08), (0.59, y)], 0.035, "second")


def bow_tie(pen: Pen) -> None:
    """Draw a bow tie."""
    pen.blob("50 46, 10 30, 8 50, 10 70, 50 54", "main")
    pen.blob("50 46, 90 30, 92 50, 90 70, 50 54", "main")
    pen.box(0.43, 0.42, 0.57, 0.58, "dark", r=0.03)
    if pen.chance(0.5):
        for x in (0.2, 0.3, 0.7, 0.8):
            pen.disc(x, 0.5, 0.025, "second_light")


def belt(pen: Pen, *, collar: bool = False) -> None:
    """Draw a coiled belt with a buckle; a collar is shorter and carries a tag."""
    pen.ring(0.48, 0.52, 0.36, 0.26 if collar else 0.3, 0.1, "main")
    pen.arc(0.48, 0.52, 0.36, 0.26 if collar else 0.3, (0.0, 1.0), 0.014, "light")
    if not collar:
        pen.line("78 68, 98 60", 0.1, "main")
    pen.box(0.68, 0.6, 0.86, 0.82, "brass", r=0.02)
    pen.box(0.71, 0.64, 0.83, 0.78, "dark")
    pen.line("70 71, 80 71", 0.02, "steel")
    if collar:
        pen.disc(0.44, 0.9, 0.08, "gold")
        for i in range(5):
            pen.disc(0.2 + i * 0.1, 0.77 - 0.04 * abs(i - 2) * abs(i - 2) * 0.4, 0.02, "steel")


def glasses(pen: Pen, *, lens: str = "glass", goggle: bool = False) -> None:
    """Draw glasses from the front; goggles are one wide lens on a strap."""
    if goggle:
        pen.line("0 50, 100 50", 0.14, "second")
        pen.blob("12 40, 50 30, 88 40, 88 62, 64 70, 50 60, 36 70, 12 62", "main")
        pen.blob("19 43, 50 37, 81 43, 80 58, 64 63, 50 54, 36 63, 20 58", lens)
        pen.line("28 56, 40 42", 0.03, "paper")
        return
    tall = pen.near(0.15, 0.03)
    for x in (0.27, 0.73):
        pen.oval(x, 0.5, 0.21, tall + 0.03, "main")
        pen.oval(x, 0.5, 0.17, tall - 0.01, lens)
        pen.line([(x - 0.08, 0.54), (x + 0.02, 0.43)], 0.02, "paper")
    pen.arc(0.5, 0.48, 0.06, 0.05, (0.5, 1.0), 0.035, "main")
    pen.line("6 46, 2 40, 10 32", 0.03, "main")
    pen.line("94 46, 98 40, 90 32", 0.03, "main")


def ring(pen: Pen) -> None:
    """Draw a finger ring with a cut stone."""
    pen.ring(0.5, 0.62, 0.26, 0.28, 0.06, "gold" if pen.chance(0.5) else "silver")
    pen.poly("34 20, 42 10, 58 10, 66 20, 50 40", "main")
    pen.poly("42 20, 58 20, 50 40", "pale")
    pen.line("34 20, 66 20", 0.012, "light")


def necklace(pen: Pen) -> None:
    """Draw a necklace: a chain with a pendant."""
    metal = "gold" if pen.chance(0.5) else "silver"
    points = [(0.14, 0.08), (0.2, 0.42), (0.5, 0.7), (0.8, 0.42), (0.86, 0.08)]
    pen.curve(points, 0.022, metal)
    pen.blob("50 68, 60 80, 50 95, 40 80", "main")
    pen.disc(0.47, 0.8, 0.02, "pale")


def earrings(pen: Pen) -> None:
    """Draw a pair of drop earrings."""
    metal = "gold" if pen.chance(0.5) else "silver"
    for x in (0.28, 0.72):
        pen.arc(x, 0.16, 0.05, 0.09, (0.4, 1.1), 0.022, metal)
        pen.line([(x, 0.2), (x, 0.5)], 0.02, metal)
        pen.blob([(x, 0.44), (x + 0.13, 0.7), (x, 0.88), (x - 0.13, 0.7)], "main")
        pen.disc(x - 0.03, 0.66, 0.025, "pale")


def watch(pen: Pen, *, face: str = "round") -> None:
    """Draw a watch: round with hands, or square with a screen."""
    wide = 0.14
    pen.box(0.5 - wide, 0.02, 0.5 + wide, 0.98, "main", r=0.05)
    for y in (0.84, 0.9, 0.13):
        pen.disc(0.5, y, 0.014, "deep")
    if face == "round":
        pen.disc(0.5, 0.5, 0.25, "steel")
        pen.disc(0.5, 0.5, 0.2, "paper" if pen.chance(0.6) else "ink")
        for x, y in ((0.5, 0.34), (0.5, 0.66), (0.34, 0.5), (0.66, 0.5)):
            pen.disc(x, y, 0.014, "steel_dark")
        pen.line("50 50, 50 37", 0.022, "gray")
        pen.line([(0.5, 0.5), (pen.near(0.58, 0.04), 0.53)], 0.022, "red")
        pen.box(0.74, 0.47, 0.79, 0.53, "steel")
        return
    half = 0.22
    pen.box(0.5 - half, 0.26, 0.5 + half, 0.74, "ink", r=0.07)
    pen.box(0.53 - half, 0.3, 0.47 + half, 0.7, "screen", r=0.05)
    pen.ring(0.5, 0.45, half * 0.5, half * 0.5, 0.03, "lime")
    pen.line([(0.52 - half * 0.6, 0.6), (0.48 + half * 0.6, 0.6)], 0.03, "sky")


def bag(
    pen: Pen,
    *,
    tall: float = 0.5,
    wide: float = 0.7,
    handle: float = 0.2,
    flap: bool = False,
    strap: bool = False,
    clasp: bool = True,
) -> None:
    """Draw a handbag: body size, handle height (0 none), flap, long strap, clasp."""
    tall, low = pen.near(tall, 0.03), 0.88
    high = low - tall
    left, right = 0.5 - wide / 2, 0.5 + wide / 2
    if strap:
        pen.curve(
            [
                (left + 0.03, high + 0.08),
                (0.2, 0.12),
                (0.5, 0.0),
                (0.8, 0.12),
                (right - 0.03, high + 0.08),
            ],
            0.03,
            "dark",
        )
    if handle > 0:
        pen.arc(0.5, high + 0.03, wide * 0.28, handle, (0.5, 1.0), 0.04, "dark")
    pen.poly([(left + 0.05, high), (right - 0.05, high), (right, low), (left, low)], "main")
    pen.box(left, low - 0.05, right, low + 0.01, "dark", r=0.02)
    if flap:
        pen.blob(
            [
                (left + 0.05, high),
                (left + 0.05, high),
                (right - 0.05, high),
                (right - 0.05, high),
                (right - 0.05, high + tall * 0.5),
                (0.5, high + tall * 0.62),
                (left + 0.05, high + tall * 0.5),
            ],
            "dark",
        )
    if clasp:
        pen.box(0.46, high + tall * 0.42, 0.54, high + tall * 0.58, "gold", r=0.02)


def backpack(pen: Pen) -> None:
    """Draw a backpack."""
    high = 0.92 - pen.near(0.72, 0.03)
    pen.arc(0.5, high + 0.02, 0.09, 0.09, (0.5, 1.0), 0.035, "dark")
    for x in (0.2, 0.8):
        pen.curve([(x, high + 0.16), (x + (x - 0.5) * 0.3, 0.6), (x, 0.86)], 0.05, "dark")
    body = [
        (0.22, 0.92),
        (0.22, 0.92),
        (0.2, high + 0.2),
        (0.32, high),
        (0.68, high),
        (0.8, high + 0.2),
        (0.78, 0.92),
        (0.78, 0.92),
    ]
    pen.blob(body, "main")
    pen.box(0.29, 0.58, 0.71, 0.87, "dark", r=0.06)
    pen.line("33 66, 67 66", 0.018, "steel")
    pen.arc(0.5, high + 0.34, 0.24, 0.24, (0.55, 0.95), 0.016, "deep")


def suitcase(pen: Pen, *, brief: bool = False) -> None:
    """Draw a suitcase with a pull handle and wheels, or a briefcase without."""
    if brief:
        pen.arc(0.5, 0.32, 0.12, 0.13, (0.5, 1.0), 0.04, "deep")
        pen.box(0.1, 0.3, 0.9, 0.82, "main", r=0.05)
        pen.line("10 52, 90 52", 0.016, "deep")
        for x in (0.26, 0.7):
            pen.box(x, 0.47, x + 0.07, 0.57, "brass")
        return
    high = 0.88 - pen.near(0.62, 0.03)
    for x in (0.38, 0.6):
        pen.line([(x, high), (x, 0.06)], 0.025, "steel")
    pen.box(0.35, 0.03, 0.63, 0.09, "ink", r=0.02)
    pen.box(0.2, high, 0.8, 0.88, "main", r=0.07)
    for i in range(4):
        pen.line([(0.3 + i * 0.135, high + 0.05), (0.3 + i * 0.135, 0.83)], 0.022, "dark")
    for x in (0.28, 0.72):
        pen.disc(x, 0.92, 0.045, "ink")


def wallet(pen: Pen) -> None:
    """Draw an open bifold wallet with cards."""
    pen.box(0.08, 0.26, 0.92, 0.8, "main", r=0.05)
    for i, tone in enumerate(("sky", "second_light", "gold")):
        pen.box(0.13, 0.36 + i * 0.12, 0.45, 0.5 + i * 0.12, tone, r=0.01)
        pen.box(0.12, 0.43 + i * 0.12, 0.46, 0.56 + i * 0.12, "dark")
    pen.line("50 27, 50 79", 0.02, "deep")
    pen.box(0.55, 0.34, 0.88, 0.74, "dark", r=0.02)


def umbrella(pen: Pen) -> None:
    """Draw an open umbrella with a hooked handle."""
    pen.line("50 10, 50 82", 0.03, "steel_dark")
    pen.arc(0.42, 0.82, 0.08, 0.1, (0.0, 0.5), 0.045, "brown")
    dome = [(0.05, 0.5), (0.05, 0.5), (0.2, 0.2), (0.5, 0.08), (0.8, 0.2), (0.95, 0.5), (0.95, 0.5)]
    pen.blob([*dome, (0.8, 0.44), (0.65, 0.5), (0.5, 0.44), (0.35, 0.5), (0.2, 0.44)], "main")
    pen.curve("35 50, 40 25, 50 8", 0.014, "dark")
    pen.curve("65 50, 60 25, 50 8", 0.014, "dark")
