"""Office supplies.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Fill, Pen


def pencil(pen: Pen, *, kind: str = "pencil") -> None:
    """Draw a pencil, or a ballpoint pen."""
    pen.box(0.44, 0.2, 0.56, 0.9, "main", r=0.01)
    if kind == "pencil":
        pen.poly("44 20, 56 20, 50 4", "beige")
        pen.poly("48.5 8, 51.5 8, 50 3", "ink")
        pen.box(0.44, 0.86, 0.56, 0.91, "steel")
        pen.box(0.44, 0.9, 0.56, 0.97, "pink", r=0.02)
        pen.line("48 22, 48 86", 0.012, "dark")
    elif kind == "pen":
        pen.poly("44 20, 56 20, 51 4, 49 4", "steel")
        pen.box(0.54, 0.62, 0.58, 0.92, "steel")
        pen.box(0.47, 0.9, 0.53, 0.97, "steel_dark")
        pen.box(0.44, 0.24, 0.56, 0.38, "rubber")
    else:
        pen.poly("45 20, 55 20, 52 6, 48 6", "dark")
        pen.box(0.44, 0.26, 0.56, 0.3, "ink")
        pen.box(0.44, 0.82, 0.56, 0.86, "ink")


def notebook(pen: Pen, *, kind: str = "spiral") -> None:
    """Draw paper: a spiral notebook, sticky notes, or a book."""
    if kind == "sticky":
        for i, tone in enumerate(("second", "light", "main")):
            pen.box(0.14 + i * 0.04, 0.2 - i * 0.03, 0.8 + i * 0.04, 0.86 - i * 0.03, tone)
        pen.poly("74 80, 88 80, 88 66", "pale")
        return
    pen.box(0.2, 0.08, 0.84, 0.94, "deep", r=0.02)
    pen.box(0.18, 0.06, 0.8, 0.92, "main", r=0.03)
    if kind == "spiral":
        for i in range(11):
            pen.ring(0.19, 0.12 + i * 0.073, 0.045, 0.022, 0.014, "steel_dark")
        pen.box(0.34, 0.22, 0.7, 0.36, "paper")
    else:
        pen.box(0.18, 0.06, 0.25, 0.92, "dark", r=0.02)
        pen.line("36 24, 72 24", 0.05, "gold")
        pen.disc(0.54, 0.56, 0.13, "second")


def stapler(pen: Pen) -> None:
    """Draw a stapler."""
    pen.box(0.06, 0.7, 0.94, 0.78, "dark", r=0.03)
    pen.blob("6 70, 8 54, 30 46, 88 30, 96 36, 90 46, 30 66", "main")
    pen.line("28 65, 90 48", 0.03, "steel")


def calculator(pen: Pen) -> None:
    """Draw a calculator."""
    pen.box(0.2, 0.05, 0.8, 0.95, "main", r=0.05)
    pen.box(0.27, 0.12, 0.73, 0.28, "glass")
    pen.line("54 20, 70 20", 0.04, "ink")
    for i in range(16):
        x, y = 0.27 + (i % 4) * 0.12, 0.36 + (i // 4) * 0.14
        tone: Fill = "orange" if i % 4 == 3 else "pale"
        pen.box(x, y, x + 0.095, y + 0.1, tone, r=0.015)


def globe(pen: Pen) -> None:
    """Draw a desk globe."""
    pen.box(0.32, 0.88, 0.68, 0.94, "wood_dark", r=0.02)
    pen.line("50 78, 50 90", 0.04, "brass")
    pen.arc(0.5, 0.44, 0.39, 0.39, (0.85, 1.4), 0.03, "brass")
    pen.disc(0.5, 0.44, 0.33, "main")
    pen.blob("30 24, 46 22, 48 38, 40 56, 32 40", "leaf")
    pen.blob("58 40, 72 34, 78 48, 64 66, 56 52", "leaf")
