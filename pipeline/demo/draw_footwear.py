"""Shoes, boots, skates and socks, seen from the side with the toe to the right.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def boot(
    pen: Pen,
    *,
    shaft: float = 0.4,
    toe: float = 0.0,
    heel: float = 0.04,
    sole: float = 0.05,
    slim: float = 0.0,
    laces: int = 0,
    tread: bool = False,
    gloss: bool = False,
    western: bool = False,
    fur: bool = False,
    cap: str = "",
    gear: str = "",
) -> None:
    """Draw a boot: shaft, foot, sole; toe 0 is blunt, 1 pointed; gear may be wheels."""
    shaft, base = pen.near(shaft, 0.05), 0.86 - sole - heel
    top, tip = max(0.04, base - 0.2 - shaft), 0.88 + 0.07 * toe
    back, front = 0.2 + slim, 0.5 - 0.4 * slim
    bulge = 0.06 * (1 - toe)
    upper = [(back, top), (back, top), (front, top), (front, top), (front + 0.01, base - 0.27)]
    upper += [(0.66, base - 0.19), (tip - 0.06, base - 0.1 - bulge), (tip, base - 0.02)]
    upper += [(tip, base), (tip, base), (back, base), (back, base), (back + 0.02, base - 0.2)]
    pen.blob(upper, "main")
    if cap:
        pen.blob([(0.74, base), (0.74, base - 0.12), (tip - 0.04, base - 0.1), (tip, base)], cap)
    pen.box(back + 0.01, base - 0.2, back + 0.06, base, "dark")
    if western:
        pen.blob([(back, top), (0.35, top + 0.09), (front, top), (0.35, top + 0.03)], "dark")
        for drop in (0.12, 0.2):
            pen.curve(
                [(back + 0.05, top + drop), (0.35, top + drop + 0.12), (front - 0.04, top + drop)],
                0.014,
                "second_light",
            )
        pen.curve([(0.58, base - 0.13), (0.7, base - 0.06), (0.84, base - 0.08)], 0.014, "light")
    if fur:
        for i in range(5):
            pen.disc(back + 0.01 + (front - back) * i / 4, top + 0.02, 0.05, "paper")
    for i in range(laces):
        y = base - 0.24 - i * (shaft + 0.02) / max(1, laces)
        pen.line([(front - 0.11, y), (front + 0.02, y - 0.03)], 0.022, "second_light")
    if gloss:
        pen.curve([(back + 0.07, top + 0.06), (back + 0.07, base - 0.3)], 0.03, "pale")
        pen.curve([(0.66, base - 0.13), (0.8, base - 0.1)], 0.025, "pale")
    _sole(pen, back, tip, base, sole, heel, tread=tread)
    if gear == "wheels":
        for x in (0.28, 0.42, 0.68, 0.82):
            pen.disc(x, 0.91, 0.06, "second")
            pen.disc(x, 0.91, 0.02, "steel")


def _sole(
    pen: Pen, back: float, tip: float, base: float, sole: float, heel: float, *, tread: bool
) -> None:
    pen.box(back - 0.02, base, tip + 0.02, base + sole, "rubber", r=0.02)
    if heel > 0.01:
        pen.poly(
            [
                (back - 0.01, base + sole - 0.01),
                (back + 0.18, base + sole - 0.01),
                (back + 0.15, base + sole + heel),
                (back + 0.01, base + sole + heel),
            ],
            "rubber",
        )
    if tread:
        for i in range(7):
            x = back + (tip - back) * i / 7
            pen.box(x, base + sole - 0.01, x + 0.06, base + sole + 0.03, "ink")


def sneaker(
    pen: Pen, *, collar: float = 0.0, sole: float = 0.08, stripe: str = "", studs: bool = False
) -> None:
    """Draw a laced sport shoe: collar height, sole thickness, a side mark, studs below."""
    base, lift = 0.8 - sole * 0.5, pen.near(collar, 0.02)
    top = 0.5 - lift
    upper = [(0.08, base), (0.08, base), (0.1, 0.58 - lift * 0.5), (0.09, top), (0.09, top)]
    upper += [(0.2, top + 0.04), (0.35, top - 0.01), (0.4, top), (0.62, 0.6), (0.78, 0.64)]
    upper += [(0.92, 0.68), (0.95, base - 0.02), (0.94, base), (0.94, base)]
    pen.blob(upper, "main")
    pen.blob([(0.73, base), (0.76, 0.66), (0.9, 0.68), (0.94, base), (0.94, base)], "second")
    pen.blob([(0.08, base), (0.09, 0.62), (0.19, 0.64), (0.22, base), (0.22, base)], "dark")
    if stripe == "swoosh":
        pen.curve("25 66, 36 75, 66 60", 0.035, "second_light")
    elif stripe == "bars":
        for i in range(3):
            pen.line([(0.34 + i * 0.08, 0.72), (0.42 + i * 0.08, 0.58)], 0.026, "second_light")
    elif stripe == "patch":
        pen.disc(0.24, top + 0.15, 0.06, "second_light")
    pen.line([(0.38, top + 0.02), (0.62, 0.61)], 0.04, "dark")
    for i in range(4):
        x, y = 0.4 + i * 0.06, top + 0.04 + i * (0.58 - top) / 4
        pen.line([(x - 0.03, y + 0.05), (x + 0.03, y - 0.01)], 0.022, "paper")
    pen.box(0.05, base, 0.97, base + sole, "paper", r=0.04)
    pen.curve(
        [(0.07, base + sole * 0.6), (0.4, base + sole * 0.8), (0.94, base + 0.04)], 0.018, "second"
    )
    if studs:
        for x in (0.12, 0.24, 0.58, 0.72, 0.85):
            pen.poly(
                [(x, base + sole), (x + 0.07, base + sole), (x + 0.05, base + sole + 0.07)], "ink"
            )


def pump(
    pen: Pen,
    *,
    heel: float = 0.3,
    wedge: bool = False,
    strap: bool = False,
    bow: bool = False,
    open_toe: bool = False,
) -> None:
    """Draw a dress shoe whose heel lifts the foot: pumps, wedges, and flats with heel 0."""
    heel = pen.near(heel, 0.03) if heel > 0 else 0.0
    ground = 0.82
    lift = ground - 0.04 - heel
    foot = [(0.12, lift - 0.2), (0.12, lift - 0.2), (0.16, lift - 0.02), (0.14, lift), (0.14, lift)]
    foot += [(0.34, lift + heel * 0.3), (0.62, ground - 0.02), (0.95, ground - 0.01)]
    foot += [(0.96, ground - 0.06), (0.84, ground - 0.15), (0.68, ground - 0.15)]
    foot += [(0.66, ground - 0.14), (0.45, lift + heel * 0.45 - 0.02), (0.28, lift - 0.04)]
    if wedge:
        pen.blob(
            [
                (0.13, lift - 0.02),
                (0.13, ground),
                (0.13, ground),
                (0.93, ground),
                (0.93, ground),
                (0.6, ground - 0.07),
                (0.36, lift + heel * 0.3),
            ],
            "tan",
        )
        for i in range(3):
            y = ground - 0.03 - i * 0.05
            pen.line([(0.14, y), (0.5 - i * 0.08, y)], 0.01, "brown")
    elif heel > 0:
        pen.poly([(0.13, lift - 0.04), (0.3, lift + 0.04), (0.19, ground), (0.14, ground)], "dark")
    pen.blob(foot, "main")
    pen.curve([(0.36, lift + heel * 0.33), (0.6, ground), (0.95, ground)], 0.025, "deep")
    if heel == 0:
        pen.box(0.14, ground - 0.01, 0.95, ground + 0.03, "deep", r=0.015)
    if strap:
        pen.arc(0.28, lift - 0.12, 0.15, 0.05, (0.0, 1.0), 0.03, "dark")
    if bow:
        pen.poly("68 66, 76 70, 68 74", "second")
        pen.poly("84 66, 76 70, 84 74", "second")
    if open_toe:
        pen.blob(
            [
                (0.86, ground - 0.11),
                (0.96, ground - 0.07),
                (0.93, ground - 0.02),
                (0.86, ground - 0.04),
            ],
            "skin",
        )


def loafer(
    pen: Pen, *, laces: int = 0, tassel: bool = False, fur: bool = False, heel: float = 0.04
) -> None:
    """Draw a low closed shoe: loafers, oxfords, slippers."""
    base = 0.78
    back = pen.near(0.5, 0.02)
    body = [(0.07, base), (0.07, base), (0.07, back), (0.07, back), (0.2, 0.62), (0.36, 0.56)]
    body += [(0.5, 0.5), (0.64, 0.56), (0.86, 0.62), (0.96, 0.7), (0.95, base), (0.95, base)]
    pen.blob(body, "main")
    pen.blob([(0.1, back + 0.03), (0.36, 0.58), (0.48, 0.53), (0.3, 0.55)], "deep")
    pen.curve("52 64, 68 62, 90 70", 0.016, "dark")
    if fur:
        for i in range(7):
            pen.disc(0.1 + i * 0.065, 0.55 - i * 0.005, 0.05, "paper")
    if laces:
        pen.blob("42 54, 50 50, 66 58, 50 64", "dark")
        for i in range(laces):
            pen.line([(0.44 + i * 0.06, 0.6), (0.5 + i * 0.06, 0.52)], 0.018, "second_light")
    if tassel:
        pen.poly("48 56, 62 60, 60 68, 46 64", "dark")
        pen.line("58 60, 63 70", 0.02, "second")
        pen.line("60 60, 67 69", 0.02, "second")
    pen.box(0.06, base, 0.96, base + 0.04, "rubber", r=0.015)
    if heel > 0.02:
        pen.box(0.07, base + 0.03, 0.3, base + 0.04 + heel, "rubber")


def sandal(pen: Pen) -> None:
    """Draw a slide sandal from the side: a sole and a wide band."""
    base = 0.76
    pen.box(0.05, base, 0.95, base + 0.07, "second_dark", r=0.03)
    pen.box(0.05, base - 0.03, 0.95, base + 0.01, "tan", r=0.02)
    pen.blob(
        [
            (0.5, base),
            (0.5, base),
            (0.56, 0.56),
            (0.72, 0.54),
            (0.86, 0.62),
            (0.9, base),
            (0.9, base),
        ],
        "main",
    )
    pen.curve("58 62, 72 60, 84 66", 0.02, "light")


def flip_flop(pen: Pen) -> None:
    """Draw a pair of flip flops from above."""
    for x, side in ((0.28, -1), (0.72, 1)):
        sole = [(x - 0.17, 0.25), (x, 0.07), (x + 0.17, 0.25), (x + 0.13, 0.55)]
        sole += [(x + 0.14, 0.82), (x, 0.94), (x - 0.14, 0.82), (x - 0.13, 0.55)]
        pen.blob(sole, "main")
        pen.curve([(x - 0.14, 0.5), (x + 0.02 * side, 0.22), (x + 0.14, 0.5)], 0.045, "second")
        pen.disc(x + 0.02 * side, 0.22, 0.025, "second_dark")


def sock(pen: Pen, *, length: float = 0.5) -> None:
    """Draw a striped sock with a cuff, heel and toe."""
    length = pen.near(length, 0.04)
    top = 0.62 - length
    leg = [(0.26, top), (0.26, top), (0.54, top), (0.54, top), (0.54, 0.55), (0.66, 0.68)]
    leg += [(0.86, 0.74), (0.86, 0.9), (0.6, 0.91), (0.34, 0.86), (0.24, 0.7)]
    pen.blob(leg, "main")
    pen.blob("72 90, 70 72, 86 74, 86 90", "second")
    pen.blob("25 76, 38 68, 38 86, 30 85", "second")
    for i in range(3):
        pen.box(0.26, top + 0.1 + i * 0.06, 0.54, top + 0.13 + i * 0.06, "second_light")
    pen.box(0.25, top - 0.02, 0.55, top + 0.07, "dark", r=0.02)
