"""The demo shop's shelves: about 250 leaf categories, how each is drawn, named and counted.

Takes nothing; gives `Leaf`, `shelf` for the shelf tables to build their leaves, and `class_counts`.
Writes nothing.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Recipe = Callable[..., None]

HUES: Mapping[str, tuple[str, ...]] = {
    "any": (
        *("black", "white", "gray", "navy", "blue", "sky", "teal", "green", "olive"),
        *("yellow", "orange", "red", "burgundy", "pink", "purple", "brown", "tan", "beige"),
    ),
    "leather": ("black", "brown", "tan", "burgundy", "walnut"),
    "shoe": ("black", "white", "gray", "brown", "tan", "navy", "red", "pink", "beige"),
    "wood": ("oak", "walnut", "tan", "beige", "black", "white", "gray"),
    "metal": ("silver", "gray", "black", "gold", "copper"),
    "steel": ("silver", "gray", "black"),
    "gold": ("gold", "copper", "brown"),
    "tech": ("black", "white", "gray", "silver", "navy", "red"),
    "denim": ("navy", "blue", "sky", "black", "gray"),
    "bright": ("red", "blue", "green", "yellow", "orange", "pink", "purple", "teal", "lime"),
    "linen": ("white", "beige", "gray", "navy", "sky", "teal", "pink", "olive", "burgundy"),
    "stone": ("white", "gray", "red", "blue", "teal", "green", "pink", "purple"),
    "drink": ("burgundy", "gold", "pink", "orange", "red", "yellow"),
    "fur": ("brown", "tan", "beige", "gray", "white", "pink"),
    "white": ("white", "beige", "silver"),
    "orange": ("orange", "brown"),
    "lime": ("lime", "yellow"),
    "yellow": ("yellow", "gold"),
    "red": ("red", "burgundy", "orange"),
    "green": ("green", "olive", "teal"),
    "black": ("black", "gray", "navy"),
    "bone": ("beige", "white", "tan"),
}


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One category at the end of a path: what it is called and how it is drawn."""

    name: str
    """the label's name, unique"""
    path: tuple[str, ...]
    """departments down to the name, which comes last"""
    group_words: tuple[str, ...]
    """words shops use for the whole group, so for siblings too"""
    synonyms: tuple[str, ...]
    """other names for this leaf; some fit a sibling as well"""
    recipe: Recipe
    """draws it: recipe(pen, **params)"""
    params: Mapping[str, object] = field(default_factory=dict)
    """the leaf's shape parameters"""
    hues: tuple[str, ...] = HUES["any"]
    """names of the colors it is sold in"""

    @property
    def department(self) -> str:
        """The first level of the path."""
        return self.path[0]


def leaf(
    name: str, synonyms: str, recipe: Recipe, *, hues: str = "", **params: object
) -> tuple[str, str, Recipe, str, dict[str, object]]:
    """Note one row of a shelf table; `shelf` completes it."""
    return name, synonyms, recipe, hues, params


def shelf(
    path: str,
    words: str,
    hues: str,
    *rows: tuple[str, str, Recipe, str, dict[str, object]],
) -> tuple[Leaf, ...]:
    """Make the leaves below one path; `words` and `synonyms` are separated by bars."""
    return tuple(
        Leaf(
            name=name,
            path=(*path.split(" > "), name),
            group_words=tuple(words.split("|")),
            synonyms=tuple(synonyms.split("|")),
            recipe=recipe,
            params=params,
            hues=HUES[own or hues],
        )
        for name, synonyms, recipe, own, params in rows
    )


def class_counts(num_items: int, num_classes: int) -> list[int]:
    """Share items among classes with a long tail: count ~ 1 / (rank + 6), at least 1 each.

    The popularity order is fixed, unrelated to the order of the table. At 20,000 items and 250
    classes the largest class has several hundred items and the smallest about 20.
    """
    order = list(range(num_classes))
    random.Random("popularity").shuffle(order)
    weights = [1.0 / (rank + 6) ** 0.9 for rank in range(num_classes)]
    scale = (num_items - num_classes) / sum(weights)
    counts = [1 + int(weight * scale) for weight in weights]
    for rank in range(num_items - sum(counts)):
        counts[rank % num_classes] += 1
    by_class = [0] * num_classes
    for rank, label in enumerate(order):
        by_class[label] = counts[rank]
    return by_class
