"""Write product titles as shops do: brand, size, color, material, and often no category word.

Takes a leaf, a generator, the drawn color and the other leaves; gives one line of text. How often
the category is named, and how, is stated in `NAMING_SHARES`; `MISLEADING_SHARE` is the share of
titles that name another category ("case for sofas", "goes with jeans").
Cost: about 20 microseconds a title.
"""

import random
from collections.abc import Mapping, Sequence

from pipeline.demo.taxonomy import Leaf

NAMING_SHARES: Mapping[str, float] = {
    "name": 0.22,
    "synonym": 0.2,
    "group": 0.24,
    "department": 0.1,
    "none": 0.24,
}
MISLEADING_SHARE = 0.12
WRONG_COLOR_SHARE = 0.04

_HOUSE_BRANDS = (
    *(
        "Amberline",
        "Basics&Co",
        "Homely",
        "Kestrel",
        "Northfield",
        "Oakwell",
        "Plainly",
        "Tidewater",
    ),
    *("Valora", "Zenko"),
)
_BRANDS: Mapping[str, tuple[str, ...]] = {
    "Shoes": ("Stridewell", "Calloway", "Footnote", "Marchetti", "Trekker"),
    "Clothing": ("Lindqvist", "Everthread", "Maple Row", "Sorrento", "Coastal"),
    "Accessories": ("Auriel", "Maple Row", "Lumen & Co", "Sorrento", "Trove"),
    "Bags": ("Calloway", "Nomadic", "Trekker", "Satchel & Son", "Marchetti"),
    "Kitchen": ("Chefline", "Copperhill", "Simmer", "Nordhaus", "Pantryman"),
    "Furniture": ("Nordhaus", "Woodbine", "Restwell", "Casa Moda", "Hearthside"),
    "Home": ("Hearthside", "Casa Moda", "Lumen & Co", "Softly", "Woodbine"),
    "Tools": ("Ironclad", "ProGrip", "Fixwell", "Torquemaster", "Hardy"),
    "Garden": ("Greenacre", "Hardy", "Fixwell", "Thistle", "ProGrip"),
    "Outdoors": ("Trekker", "Summit Ridge", "Wildbrook", "Nomadic", "Hardy"),
    "Electronics": ("Voltix", "Novatek", "Sonora", "Pixelon", "Quanta"),
    "Toys": ("Jolly Fox", "Tumble", "Brightbox", "Little Acorn", "Playmore"),
    "Sports": ("Summit Ridge", "Fastbreak", "Apex", "Stridewell", "Velo"),
    "Music": ("Sonora", "Cadenza", "Melodia", "Harper", "Brightbox"),
    "Beauty": ("Belle Rive", "Purely", "Auriel", "Softly", "Glowhaus"),
    "Health": ("Purely", "CareWell", "Vitalis", "Medico", "Softly"),
    "Grocery": ("Pantryman", "Sunny Acre", "Old Mill", "Purely", "Bellini"),
    "Pets": ("Pawsome", "Fetch", "Whisker", "Little Acorn", "Sunny Acre"),
    "Office": ("Inkwell", "Deskmate", "Papertree", "Brightbox", "Scholar"),
}
_MATERIALS: Mapping[str, tuple[str, ...]] = {
    "Shoes": ("leather", "suede", "canvas", "rubber sole", "mesh"),
    "Clothing": ("cotton", "fleece", "denim", "wool blend", "polyester", "linen"),
    "Accessories": ("leather", "stainless steel", "silk", "gold plated", "acrylic"),
    "Bags": ("leather", "canvas", "nylon", "vegan leather", "polyester"),
    "Kitchen": ("stainless steel", "silicone", "glass", "ceramic", "nonstick", "bamboo"),
    "Furniture": ("solid wood", "metal", "velvet", "bamboo", "faux leather"),
    "Home": ("ceramic", "glass", "cotton", "metal", "linen", "bamboo"),
    "Tools": ("steel", "forged steel", "fiberglass handle", "rubber grip", "carbon steel"),
    "Garden": ("steel", "fiberglass handle", "plastic", "rubber grip", "galvanized"),
    "Outdoors": ("nylon", "waterproof", "aluminum", "polyester", "plastic"),
    "Electronics": ("wireless", "USB-C", "aluminum", "rechargeable", "plastic"),
    "Toys": ("wood", "plastic", "BPA free", "soft", "foam"),
    "Sports": ("rubber", "carbon fiber", "synthetic leather", "foam", "steel"),
    "Music": ("solid wood", "maple", "brass", "student grade", "mahogany"),
    "Beauty": ("vegan", "organic", "fragrance free", "moisturizing", "travel size"),
    "Health": ("sterile", "organic", "fragrance free", "fast acting", "travel size"),
    "Grocery": ("organic", "gluten free", "family size", "low sugar", "non-GMO"),
    "Pets": ("nylon", "plush", "grain free", "washable", "stainless steel"),
    "Office": ("recycled", "plastic", "metal", "refillable", "non-toxic"),
}
_SIZES: Mapping[str, tuple[str, ...]] = {
    "Shoes": ("size 7", "size 8.5", "size 10", "sz 9", "EU 42", "wide width"),
    "Clothing": ("size M", "size L", "XL", "small", "2XL", "tall fit", "slim fit"),
    "Accessories": ("one size", "adjustable", "18 inch", "small", "gift box"),
    "Bags": ("20L", "large", "15 inch", "small", "one size", "35L"),
    "Kitchen": ("12 oz", "10 inch", "2 qt", "set of 4", "1.5L", "8 inch", "6 pc"),
    "Furniture": ("30 inch", "queen", "48 in", "set of 2", "twin", "easy assembly"),
    "Home": ("24x36", "18x18", "large", "set of 2", "12 inch", "60W"),
    "Tools": ("16 oz", "10 inch", "20V", "12 in", "5 pc", "heavy duty"),
    "Garden": ("50 ft", "12 inch", "48 in", "2 gal", "heavy duty"),
    "Outdoors": ("2 person", "4 person", "6 ft", "45 qt", "lightweight"),
    "Electronics": ("128GB", "10 inch", "1080p", "6 ft", "5000mAh", "2 pack", "v5.0"),
    "Toys": ("ages 3+", "12 inch", "24 pc", "ages 6-12", "large", "2 pk"),
    "Sports": ("size 5", "official size", "20 lb", "30 inch", "adult", "youth"),
    "Music": ("full size", "4/4", "beginner", "38 inch", "w/ case"),
    "Beauty": ("8 oz", "250ml", "30ml", "2 pack", "3 pc", "travel"),
    "Health": ("100 ct", "60 count", "8 oz", "2 pack", "family pack"),
    "Grocery": ("12 oz", "6 pk", "32 oz", "500g", "1L", "case of 12"),
    "Pets": ("small", "medium", "large", "12 oz", "20 lb", "XL"),
    "Office": ("12 ct", "letter size", "3 pack", "8.5x11", "24 pk", "6 inch"),
}
_AUDIENCES: Mapping[str, tuple[str, ...]] = {
    "Shoes": ("women's", "men's", "kids", "girls", "boys", "unisex"),
    "Clothing": ("women's", "men's", "kids", "girls", "boys", "toddler", "plus size"),
    "Accessories": ("women's", "men's", "unisex", "girls"),
    "Bags": ("women's", "men's", "unisex", "kids"),
    "Toys": ("kids", "toddler", "boys & girls", "baby"),
    "Sports": ("men's", "women's", "youth", "adult"),
    "Beauty": ("women's", "men's", "for her", "sensitive skin"),
}
_ADJECTIVES = (
    *(
        "premium",
        "classic",
        "new",
        "lightweight",
        "durable",
        "modern",
        "vintage",
        "deluxe",
        "comfy",
    ),
    *("best", "portable", "professional", "heavy duty", "stylish", "everyday", "original", "soft"),
    *("waterproof", "adjustable", "multi-purpose", "essential", "upgraded", "mini", "extra large"),
)
_VAGUE = (
    *("set", "gift", "2 pack", "collection", "bundle", "item", "kit", "best seller", "new arrival"),
    *("replacement", "accessory", "must have", "holiday gift", "clearance", "value pack"),
)
_MISLEADING = (
    "goes with {other}",
    "compatible with {other}",
    "looks like {other}",
    "not {other}",
    "for {other} lovers",
    "case for {other}",
    "stores next to {other}",
    "free {other} with order",
    "pairs well w/ {other}",
    "customers also bought {other}",
)
_SHORT = {
    "black": "blk",
    "white": "wht",
    "women's": "wmns",
    "men's": "mens",
    "stainless steel": "ss",
    "pack": "pk",
    "large": "lg",
    "medium": "med",
    "with": "w/",
    "leather": "lthr",
    "premium": "prem",
}
_COLOR_WORDS: Mapping[str, tuple[str, ...]] = {
    "gray": ("gray", "grey", "charcoal"),
    "white": ("white", "ivory", "snow"),
    "beige": ("beige", "cream", "sand"),
    "navy": ("navy", "dark blue"),
    "sky": ("light blue", "sky blue"),
    "burgundy": ("burgundy", "wine red", "maroon"),
    "oak": ("natural", "oak", "light wood"),
    "walnut": ("walnut", "dark brown", "espresso"),
    "tan": ("tan", "camel", "khaki"),
    "lime": ("lime", "neon green"),
}
_ALL_COLORS = (
    "black",
    "white",
    "gray",
    "navy",
    "blue",
    "green",
    "red",
    "pink",
    "brown",
    "multicolor",
)


def make_title(leaf: Leaf, rng: random.Random, *, color: str, others: Sequence[Leaf]) -> str:
    """Write one title for an item of `leaf` drawn in `color`.

    Args:
        leaf: the item's category.
        rng: the item's generator.
        color: name of the drawn color; titles that name a color agree with it, bar
            `WRONG_COLOR_SHARE` of them.
        others: categories that misleading words are taken from.
    Returns: one line, 1 to about 20 words.
    """
    dept = leaf.department
    parts: list[str] = []
    if rng.random() < 0.62:
        parts.append(rng.choice(_HOUSE_BRANDS if rng.random() < 0.45 else _BRANDS[dept]))
    if dept in _AUDIENCES and rng.random() < 0.4:
        parts.append(rng.choice(_AUDIENCES[dept]))
    parts.extend(rng.choice(_ADJECTIVES) for _ in range(rng.choice((0, 0, 1, 1, 2))))
    if rng.random() < 0.32:
        parts.append(rng.choice(_MATERIALS[dept]))
    parts.extend(_category_words(leaf, rng))
    if rng.random() < 0.45:
        parts.append(_color_word(color, rng))
    if rng.random() < 0.42:
        parts.append(rng.choice(_SIZES[dept]))
    if rng.random() < 0.14:
        parts.append(f"{rng.choice('ABDFGKMRSTX')}{rng.choice('BCELPX')}-{rng.randint(10, 9999)}")
    if rng.random() < 0.16:
        rng.shuffle(parts)
    if rng.random() < MISLEADING_SHARE:
        parts.append(_misleading_words(leaf, rng, others))
    if not parts:
        parts = [rng.choice(_VAGUE)]
    return _as_typed(parts, rng)


def naming_of(leaf: Leaf, title: str) -> str:
    """Say how a title names its category: "name", "synonym", "group" or "none"."""
    low = title.lower()
    for kind, words in (
        ("name", (leaf.name, _singular(leaf.name))),
        ("synonym", leaf.synonyms),
        ("group", leaf.group_words),
    ):
        if any(word.lower() in low for word in words):
            return kind
    return "none"


def _category_words(leaf: Leaf, rng: random.Random) -> list[str]:
    kind = rng.choices(tuple(NAMING_SHARES), tuple(NAMING_SHARES.values()))[0]
    if kind == "name":
        return [leaf.name if rng.random() < 0.5 else _singular(leaf.name)]
    if kind == "synonym":
        return [rng.choice(leaf.synonyms)]
    if kind == "group":
        return [rng.choice(leaf.group_words)]
    if kind == "department":
        return [rng.choice(_VAGUE) if rng.random() < 0.5 else leaf.department.lower()]
    return [rng.choice(_VAGUE)] if rng.random() < 0.3 else []


def _misleading_words(leaf: Leaf, rng: random.Random, others: Sequence[Leaf]) -> str:
    other = rng.choice(others)
    if other.name == leaf.name:
        return "as seen on TV"
    words = rng.choice((other.name.lower(), rng.choice(other.synonyms)))
    return rng.choice(_MISLEADING).format(other=words)


def _color_word(color: str, rng: random.Random) -> str:
    if rng.random() < WRONG_COLOR_SHARE:
        return rng.choice(_ALL_COLORS)
    return rng.choice(_COLOR_WORDS.get(color, (color,)))


def _singular(name: str) -> str:
    if name.endswith(("shes", "ches", "sses", "xes")):
        return name[:-2]
    if name.endswith("ves"):
        return name.removesuffix("ves") + ("fe" if name.endswith("nives") else "f")
    if name.endswith("s") and not name.endswith(("ss", "Pants", "Jeans", "Shorts")):
        return name[:-1]
    return name


def _as_typed(parts: list[str], rng: random.Random) -> str:
    if rng.random() < 0.15:
        parts = [_SHORT.get(part.lower(), part) for part in parts]
    joint = rng.choices((" ", ", ", " - ", " | "), (0.76, 0.12, 0.08, 0.04))[0]
    title = joint.join(parts)
    case = rng.choices(("title", "as is", "lower", "upper"), (0.5, 0.26, 0.16, 0.08))[0]
    if case == "title":
        title = " ".join(word[:1].upper() + word[1:] for word in title.split(" "))
    elif case == "lower":
        title = title.lower()
    elif case == "upper":
        title = title.upper()
    if rng.random() < 0.04 and len(title) > 8:
        cut = rng.randrange(1, len(title) - 1)
        title = title[:cut] + title[cut + 1 :]
    return title
