"""Clothes seen from the front: tops, jackets, trousers, dresses and underwear.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def top(
    pen: Pen,
    *,
    sleeve: float = 0.5,
    hem: float = 0.85,
    neck: str = "crew",
    front: str = "",
    fit: float = 0.0,
    quilt: bool = False,
    knit: bool = False,
    pockets: str = "",
    belt: bool = False,
    stitch: bool = False,
    mark: bool = False,
) -> None:
    """Draw a top: sleeve 0 none to 1 long, hem height, neck shape, front closing, pockets."""
    hem, flare = pen.near(hem, 0.02), 0.03 if hem > 0.88 else 0.0
    left, right = 0.29 + fit, 0.71 - fit
    if sleeve > 0:
        _sleeves(pen, sleeve, cuffs=knit or front == "zip", puffs=quilt)
    body = [(0.36, 0.14), (0.42, 0.17), (0.58, 0.17), (0.64, 0.14), (0.76, 0.2)]
    body += [(right, 0.38), (right + flare, hem), (left - flare, hem), (left, 0.38), (0.24, 0.2)]
    pen.poly(body, "main")
    if quilt:
        for i in range(5):
            y = 0.26 + i * (hem - 0.26) / 5
            pen.curve([(left, y), (0.5, y + 0.025), (right, y)], 0.014, "deep")
            pen.line([(left + 0.03, y + 0.05), (left + 0.1, y + 0.06)], 0.02, "light")
    if knit:
        pen.box(left - flare, hem - 0.06, right + flare, hem + 0.01, "dark")
        for i in range(6):
            x = left + 0.04 + i * (right - left - 0.06) / 6
            pen.line(
                [(x, 0.3), (x + 0.02, 0.4), (x, 0.5), (x + 0.02, 0.6), (x, hem - 0.08)],
                0.009,
                "dark",
            )
    _neck(pen, neck)
    _front(pen, front, hem)
    _pockets(pen, pockets, left, right, hem)
    if belt:
        pen.box(left - 0.01, 0.55, right + 0.01, 0.61, "deep")
        pen.box(0.46, 0.545, 0.54, 0.615, "brass")
        pen.box(0.475, 0.56, 0.525, 0.6, "deep")
    if stitch:
        for x in (0.4, 0.6):
            pen.line([(x, 0.24), (x, hem - 0.02)], 0.009, "tan")
        pen.line([(left, hem - 0.05), (right, hem - 0.05)], 0.009, "tan")
    if mark:
        _print(pen)


def _pockets(pen: Pen, pockets: str, left: float, right: float, hem: float) -> None:
    if pockets == "chest":
        pen.box(0.56, 0.34, 0.66, 0.44, "dark", r=0.01)
    elif pockets == "low":
        for x in (left + 0.03, right - 0.15):
            pen.box(x, hem - 0.24, x + 0.12, hem - 0.1, "dark", r=0.015)
    elif pockets == "two":
        for x in (0.33, 0.56):
            pen.box(x, 0.34, x + 0.11, 0.44, "dark", r=0.01)
            pen.disc(x + 0.055, 0.36, 0.01, "brass")
    elif pockets == "pouch":
        pen.poly("38 58, 62 58, 67 76, 33 76", "dark")


def _sleeves(pen: Pen, sleeve: float, *, cuffs: bool, puffs: bool) -> None:
    for side in (-1, 1):
        x0, x1 = 0.5 + side * 0.26, 0.5 + side * 0.21
        far = 0.5 + side * (0.27 + 0.13 * sleeve)
        low = 0.25 + 0.52 * sleeve
        arm = [(x1, 0.18), (x0, 0.2), (far, low), (far - side * 0.13, low + 0.04), (x1, 0.42)]
        pen.poly(arm, "main" if not puffs else "dark")
        if cuffs:
            pen.line([(far, low), (far - side * 0.13, low + 0.04)], 0.05, "dark")
        else:
            pen.line([(x1, 0.24), (x1, 0.4)], 0.008, "deep")


def _neck(pen: Pen, neck: str) -> None:
    if neck in {"crew", "knit"}:
        pen.oval(0.5, 0.155, 0.1, 0.05, "deep")
        pen.arc(0.5, 0.155, 0.1, 0.055, (0.0, 0.5), 0.022, "dark")
    elif neck == "collar":
        pen.oval(0.5, 0.15, 0.08, 0.04, "deep")
        pen.poly("39 12, 50 20, 43 27, 35 17", "light")
        pen.poly("61 12, 50 20, 57 27, 65 17", "light")
    elif neck == "lapel":
        pen.poly("42 14, 58 14, 50 50", "paper")
        pen.poly("41 13, 50 52, 34 34, 39 28, 34 24", "dark")
        pen.poly("59 13, 50 52, 66 34, 61 28, 66 24", "dark")
    elif neck == "hood":
        pen.blob("33 20, 36 5, 50 0, 64 5, 67 20, 50 26", "dark")
        pen.oval(0.5, 0.13, 0.1, 0.09, "deep")
        pen.line("46 22, 45 36", 0.014, "paper")
        pen.line("54 22, 55 36", 0.014, "paper")
    elif neck == "stand":
        pen.box(0.38, 0.08, 0.62, 0.18, "dark", r=0.03)


def _front(pen: Pen, front: str, hem: float) -> None:
    if front == "buttons":
        pen.line([(0.5, 0.22), (0.5, hem)], 0.012, "dark")
        for i in range(5):
            pen.disc(0.5, 0.27 + i * (hem - 0.3) / 5, 0.014, "second_light")
    elif front == "placket":
        pen.box(0.475, 0.2, 0.525, 0.38, "dark")
        for y in (0.25, 0.31):
            pen.disc(0.5, y, 0.012, "paper")
    elif front == "zip":
        pen.line([(0.5, 0.17), (0.5, hem)], 0.024, "deep")
        pen.line([(0.5, 0.18), (0.5, hem)], 0.008, "steel")
    elif front == "double":
        pen.line([(0.44, 0.46), (0.44, hem)], 0.01, "deep")
        for y in (0.42, 0.5, 0.68):
            pen.disc(0.43, y, 0.016, "deep")
            pen.disc(0.57, y, 0.016, "deep")


def _print(pen: Pen) -> None:
    kind = pen.rng.randrange(5)
    if kind == 0:
        pen.disc(0.5, 0.43, 0.09, "second")
    elif kind == 1:
        pen.box(0.3, 0.4, 0.7, 0.5, "second")
    elif kind == 2:
        for i in range(4):
            pen.box(0.3, 0.32 + i * 0.12, 0.7, 0.37 + i * 0.12, "second")
    elif kind == 3:
        pen.poly("50 34, 59 50, 41 50", "second")


def pants(
    pen: Pen,
    *,
    length: float = 1.0,
    width: float = 0.0,
    waist: str = "belt",
    pockets: str = "",
    cuffs: bool = False,
    bib: bool = False,
) -> None:
    """Draw trousers: length 1 to the ankle, leg width, waistband, pockets, cuffs, bib."""
    up = 0.3 if bib else 0.08
    low = up + (0.9 - up) * pen.near(length, 0.03)
    gap = 0.06 + 0.06 * length
    left, right = 0.27 - width, 0.73 + width
    hips = [
        (0.31, up),
        (0.69, up),
        (right, low),
        (0.5 + gap * 0.6 - width * 0.5, low),
        (0.5, up + 0.27),
    ]
    pen.poly([*hips, (0.5 - gap * 0.6 + width * 0.5, low), (left, low)], "main")
    pen.line([(0.5, up + 0.05), (0.5, up + 0.27)], 0.012, "deep")
    if bib:
        pen.poly("36 10, 64 10, 67 34, 33 34", "main")
        pen.box(0.42, 0.16, 0.58, 0.27, "dark")
        pen.line("38 14, 40 0", 0.04, "dark")
        pen.line("62 14, 60 0", 0.04, "dark")
        for x in (0.38, 0.62):
            pen.disc(x, 0.13, 0.02, "brass")
    if waist == "belt":
        pen.box(0.3, up - 0.01, 0.7, up + 0.05, "dark")
        pen.disc(0.5, up + 0.02, 0.015, "brass")
        pen.line([(0.34, up + 0.13), (0.42, up + 0.05)], 0.01, "tan")
        pen.line([(0.66, up + 0.13), (0.58, up + 0.05)], 0.01, "tan")
    elif waist == "cord":
        pen.box(0.3, up - 0.01, 0.7, up + 0.06, "dark", r=0.02)
        pen.line([(0.48, up + 0.03), (0.45, up + 0.18)], 0.014, "paper")
        pen.line([(0.52, up + 0.03), (0.55, up + 0.18)], 0.014, "paper")
    elif waist == "wide":
        pen.box(0.3, up - 0.03, 0.7, up + 0.1, "light", r=0.02)
    if pockets == "patch":
        pen.line([(left + 0.06, low - 0.06), (left + 0.12, up + 0.1)], 0.008, "tan")
        pen.line([(right - 0.06, low - 0.06), (right - 0.12, up + 0.1)], 0.008, "tan")
        pen.box(left + 0.07, 0.5, left + 0.15, 0.62, "light")
    if cuffs:
        pen.box(left - 0.01, low - 0.05, 0.47, low + 0.01, "dark", r=0.02)
        pen.box(0.53, low - 0.05, right + 0.01, low + 0.01, "dark", r=0.02)


def dress(
    pen: Pen,
    *,
    length: float = 0.9,
    flare: float = 0.15,
    straps: str = "thin",
    dots: bool = False,
    veil: bool = False,
) -> None:
    """Draw a dress: hem at `length`, skirt flare, straps or none, dots, a bridal hem."""
    low, flare = pen.near(length, 0.02), pen.near(flare, 0.02)
    if straps == "thin":
        pen.line("39 20, 42 3", 0.016, "main")
        pen.line("61 20, 58 3", 0.016, "main")
    bodice = [(0.36, 0.18), (0.44, 0.15), (0.5, 0.2), (0.56, 0.15), (0.64, 0.18), (0.61, 0.42)]
    pen.poly([*bodice, (0.39, 0.42)], "main")
    skirt = [(0.39, 0.4), (0.61, 0.4), (0.66 + flare, low), (0.5, low + 0.03), (0.34 - flare, low)]
    pen.poly(skirt, "main")
    for x in (0.44, 0.56):
        pen.line([(x, 0.46), (0.5 + (x - 0.5) * (1 + flare * 10), low)], 0.012, "dark")
    if dots:
        for i in range(9):
            pen.disc(
                0.42 + i % 3 * 0.08,
                0.3 + i // 3 * (low - 0.4) / 2.4 + i % 2 * 0.04,
                0.02,
                "second_light",
            )
    if veil:
        pen.line([(0.34 - flare, low), (0.5, low + 0.03), (0.66 + flare, low)], 0.05, "pale")
        for i in range(5):
            pen.disc(0.42 + i * 0.04, 0.41, 0.014, "silver")


def skirt(pen: Pen) -> None:
    """Draw a short skirt with a waistband."""
    low = 0.25 + pen.near(0.42, 0.04)
    left, right = 0.26, 0.74
    pen.poly([(0.34, 0.22), (0.66, 0.22), (right, low), (0.5, low + 0.03), (left, low)], "main")
    for i in (2, 5):
        share = i / 7
        pen.line([(0.34 + 0.32 * share, 0.27), (left + (right - left) * share, low)], 0.014, "dark")
    pen.box(0.335, 0.18, 0.665, 0.26, "dark", r=0.01)


def brief(pen: Pen) -> None:
    """Draw underpants with a waistband."""
    low = 0.78
    pen.poly(
        [(0.2, 0.28), (0.8, 0.28), (0.86, low), (0.58, low), (0.5, 0.62), (0.42, low), (0.14, low)],
        "main",
    )
    pen.box(0.19, 0.24, 0.81, 0.34, "second", r=0.01)
    pen.curve("44 34, 42 50, 50 62", 0.014, "deep")
    pen.curve("56 34, 58 50, 50 62", 0.014, "deep")


def bra(pen: Pen) -> None:
    """Draw a bra."""
    pen.line("24 45, 30 8", 0.024, "dark")
    pen.line("76 45, 70 8", 0.024, "dark")
    pen.line("6 60, 94 60", 0.07, "dark")
    pen.blob("12 50, 24 38, 48 55, 46 70, 26 74", "main")
    pen.blob("88 50, 76 38, 52 55, 54 70, 74 74", "main")


def bodysuit(pen: Pen) -> None:
    """Draw a baby's bodysuit: short sleeves and snaps below."""
    for side in (-1, 1):
        x = 0.5 + side * 0.2
        pen.poly(
            [(x, 0.16), (x + side * 0.2, 0.34), (x + side * 0.1, 0.43), (x - side * 0.02, 0.36)],
            "main",
        )
    pen.blob("30 14, 50 22, 70 14, 70 40, 74 66, 58 84, 42 84, 26 66, 30 40", "main")
    pen.arc(0.5, 0.13, 0.13, 0.09, (0.0, 0.5), 0.025, "second")
    for x in (0.44, 0.5, 0.56):
        pen.disc(x, 0.82, 0.014, "steel")
    _print(pen)
