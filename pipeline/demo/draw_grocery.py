"""Food, paper goods, first aid and pet supplies.

Every recipe takes a pen and a leaf's parameters and draws inside the unit square.
"""

from pipeline.demo.draw import Pen


def chocolate(pen: Pen) -> None:
    """Draw a chocolate bar half out of its wrapper."""
    pen.box(0.26, 0.04, 0.74, 0.56, "walnut", r=0.01)
    for i in range(6):
        x, y = 0.28 + (i % 3) * 0.15, 0.08 + (i // 3) * 0.19
        pen.box(x, y, x + 0.135, y + 0.17, "brown", r=0.01)
    pen.poly("22 46, 36 42, 50 47, 64 42, 78 46, 78 96, 22 96", "main")
    pen.box(0.28, 0.6, 0.72, 0.8, "second")


def bone(pen: Pen) -> None:
    """Draw a chew bone."""
    pen.line("24 50, 76 50", 0.16, "main")
    for x, y in ((0.18, 0.4), (0.18, 0.6), (0.82, 0.4), (0.82, 0.6)):
        pen.disc(x, y, 0.12, "main")
    pen.line("28 46, 72 46", 0.03, "light")


def cage(pen: Pen) -> None:
    """Draw a fish tank."""
    pen.box(0.06, 0.2, 0.94, 0.86, "glass")
    pen.box(0.08, 0.3, 0.92, 0.84, "water")
    pen.box(0.08, 0.74, 0.92, 0.84, "tan")
    for x in (0.2, 0.28, 0.8):
        pen.curve([(x, 0.76), (x + 0.04, 0.62), (x - 0.02, 0.46)], 0.03, "leaf")
    pen.oval(0.54, 0.5, 0.1, 0.06, "main")
    pen.poly("63 50, 73 43, 73 57", "main")
    pen.disc(0.48, 0.49, 0.014, "ink")
    pen.box(0.04, 0.12, 0.96, 0.22, "ink", r=0.01)


def cat_tree(pen: Pen) -> None:
    """Draw a cat tree with posts and platforms."""
    for x, y in ((0.3, 0.5), (0.68, 0.2)):
        pen.box(x - 0.05, y, x + 0.05, 0.92, "tan")
        for i in range(int((0.9 - y) / 0.07)):
            pen.line(
                [(x - 0.05, y + 0.04 + i * 0.07), (x + 0.05, y + 0.02 + i * 0.07)], 0.01, "brown"
            )
    pen.box(0.1, 0.42, 0.52, 0.52, "main", r=0.03)
    pen.box(0.46, 0.12, 0.92, 0.22, "main", r=0.03)
    pen.box(0.5, 0.56, 0.88, 0.82, "main", r=0.03)
    pen.disc(0.68, 0.7, 0.09, "ink")
    pen.box(0.06, 0.88, 0.94, 0.95, "dark", r=0.02)
    pen.line("20 52, 20 66", 0.01, "ink")
    pen.disc(0.2, 0.69, 0.045, "second")


def pet_bed(pen: Pen) -> None:
    """Draw a round pet bed."""
    pen.oval(0.5, 0.6, 0.46, 0.26, "dark")
    pen.oval(0.5, 0.54, 0.46, 0.27, "main")
    pen.oval(0.5, 0.54, 0.31, 0.16, "deep")
    pen.oval(0.5, 0.57, 0.29, 0.13, "second_light")


def fruit(pen: Pen, *, kind: str = "apple") -> None:
    """Draw fruit in a net of three: apples, or bananas."""
    if kind == "banana":
        for i in range(3):
            s = i * 0.08
            pen.blob(
                [
                    (0.2 + s, 0.1),
                    (0.28 + s, 0.1),
                    (0.36 + s, 0.46),
                    (0.7 + s * 0.6, 0.74 - s),
                    (0.86, 0.72 - s),
                    (0.66 + s * 0.4, 0.9 - s),
                    (0.28 + s, 0.7),
                ],
                "yellow" if i != 1 else "gold",
            )
        return
    for x, y in ((0.3, 0.62), (0.7, 0.62), (0.5, 0.4)):
        pen.blob(
            [
                (x, y - 0.16),
                (x + 0.16, y - 0.2),
                (x + 0.22, y),
                (x + 0.1, y + 0.23),
                (x, y + 0.2),
                (x - 0.1, y + 0.23),
                (x - 0.22, y),
                (x - 0.16, y - 0.2),
            ],
            "main",
        )
        pen.line([(x, y - 0.14), (x + 0.03, y - 0.27)], 0.025, "brown")
        pen.oval(x + 0.09, y - 0.24, 0.07, 0.03, "leaf")
