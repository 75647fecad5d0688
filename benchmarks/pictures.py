"""Make a catalog of photo-like pictures and shop-like titles, for benchmarks of embedding.

Writes items.csv, labels.csv and files/NNNNNN.jpg with files/NNNNNN.txt, the layout that
clip-retrieval reads; the same arguments give the same bytes. A picture is a soft backdrop with a
lit, textured thing on it, as JPEG of quality 90: about 0.2 bytes a pixel, as shop photos have
(noise has 1, flat drawings 0.03), since reading and decoding time follow the bytes.
Cost: about 25 ms for 1000 x 1000 pixels, one core.
"""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

LABELS = (
    ("L0", "Mugs", "Home > Kitchen > Mugs"),
    ("L1", "Pans", "Home > Kitchen > Pans"),
    ("L2", "Lamps", "Home > Living Room > Lamps"),
    ("L3", "Cushions", "Home > Living Room > Cushions"),
    ("L4", "Boots", "Fashion > Shoes > Boots"),
    ("L5", "Sneakers", "Fashion > Shoes > Sneakers"),
    ("L6", "Jackets", "Fashion > Clothing > Jackets"),
    ("L7", "Headphones", "Electronics > Audio > Headphones"),
    ("L8", "Speakers", "Electronics > Audio > Speakers"),
    ("L9", "Backpacks", "Travel > Backpacks"),
)
JPEG_QUALITY = 90
SMALLEST_SIDE_SHARE = 0.8
MIN_WORDS, MAX_WORDS = 6, 20
_NUM_TEXTURES = 6
_WEAKER = [round(128 + (value - 128) / 3) for value in range(256)]
_BRANDS = (
    *("Amberline", "Calloway", "Chefline", "Everthread", "Hearthside", "Kestrel", "Lindqvist"),
    *("Marchetti", "Nordhaus", "Oakwell", "Sonora", "Stridewell", "Trekker", "Voltix"),
)
_WORDS = (
    *("adjustable", "aluminum", "anti-slip", "bamboo", "black", "breathable", "brushed steel"),
    *("canvas", "ceramic", "classic", "compact", "cotton", "deluxe", "dishwasher safe", "durable"),
    *("everyday", "extra large", "foldable", "for men", "for women", "gift box", "handmade"),
    *("heavy duty", "indoor and outdoor", "ivory", "leather", "lightweight", "machine washable"),
    *("matte", "midnight blue", "non-toxic", "olive green", "padded", "premium", "quick dry"),
    *("rechargeable", "recycled", "red", "set of 2", "set of 4", "size 10", "slim fit", "soft"),
    *("travel", "unisex", "USB-C", "vintage", "water resistant", "wireless", "with lid", "12 oz"),
    *("15 inch", "1.5 liter", "2-year warranty", "40 mm", "wool blend", "XL"),
)


def make_catalog(
    folder: Path, *, num_items: int, size: int, repeats: float, seed: int = 0
) -> tuple[Path, Path, Path]:
    """Write a made-up catalog with a stated share of repeated pictures and titles.

    Args:
        folder: where to write; made if absent.
        num_items: N, at least 1, at most 1,000,000.
        size: the longer side of each picture in pixels; the other is 0.8 to 1 times that.
        repeats: share of items whose picture is byte for byte that of another item, and,
            drawn independently, of those whose title is; in [0, 1).
        seed: of all that is drawn at random.
    Returns: the paths of items.csv, of labels.csv and of the folder of pictures and titles.
    """
    rng = np.random.default_rng(seed)
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    picture_of, num_pictures = _originals(num_items, repeats, rng)
    title_of, num_titles = _originals(num_items, repeats, rng)
    label_of = rng.integers(len(LABELS), size=num_titles)  # the title names it
    titles = _titles(label_of, rng)

    strong = _textures(size, rng)
    weak = [texture.point(_WEAKER * 3) for texture in strong]  # the backdrop is out of focus
    items_of: list[list[int]] = [[] for _ in range(num_pictures)]
    for item, picture in enumerate(picture_of):
        items_of[picture].append(item)
    for items in items_of:
        encoded = _picture(size, strong, weak, rng)
        for item in items:
            (files / f"{item:06d}.jpg").write_bytes(encoded)
    for item, title in enumerate(title_of):
        (files / f"{item:06d}.txt").write_text(titles[title], encoding="utf-8")

    rows = [
        (f"item-{item:06d}", titles[title], LABELS[label_of[title]][0], f"files/{item:06d}.jpg")
        for item, title in enumerate(title_of)
    ]
    items_csv, labels_csv = folder / "items.csv", folder / "labels.csv"
    _write_csv(items_csv, ("item_id", "title", "label_id", "image_path"), rows)
    _write_csv(labels_csv, ("label_id", "name", "path"), LABELS)
    return items_csv, labels_csv, files


def _originals(num_items: int, repeats: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Give each item the number of its original; return that and the count of originals."""
    num_originals = max(1, num_items - round(repeats * num_items))
    copies = rng.integers(num_originals, size=num_items - num_originals)
    return rng.permutation(np.concatenate([np.arange(num_originals), copies])), num_originals


def _write_csv(path: Path, header: tuple[str, ...], rows: list | tuple) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _titles(label_of: np.ndarray, rng: np.random.Generator) -> list[str]:
    titles: dict[str, None] = {}  # keeps the order; two equal titles would be a repeat
    while len(titles) < len(label_of):
        name = LABELS[label_of[len(titles)]][1]
        num_words = int(rng.integers(MIN_WORDS, MAX_WORDS + 1))
        words = f"{rng.choice(_BRANDS)} {name}".split()
        for phrase in rng.permutation(_WORDS):
            if len(words) + len(phrase.split()) <= num_words:
                words += phrase.split()
        titles[" ".join(words)] = None
    return list(titles)


def _textures(size: int, rng: np.random.Generator) -> list[Image.Image]:
    """Make grain around gray 128: fine, like a sensor's, and coarser, like cloth and wood."""
    side = size + size // 4
    textures = []
    for _ in range(_NUM_TEXTURES):
        grain = rng.normal(0, 3.0, (side, side, 1)) + rng.normal(0, 0.8, (side, side, 3))
        for cell_pixels, strength in ((2, 8.0), (5, 8.0), (30, 6.0)):
            cells = max(2, side // cell_pixels)
            stretch = int(rng.integers(1, 4))
            noise = rng.normal(128, strength * 4, (cells, max(2, cells // stretch)))
            coarse = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            coarse = coarse.resize((side, side), Image.Resampling.BICUBIC)
            grain += (np.asarray(coarse, np.float32)[:, :, None] - 128) / 4
        textures.append(Image.fromarray((grain + 128).clip(0, 255).astype(np.uint8)))
    return textures


def _picture(
    size: int, strong: list[Image.Image], weak: list[Image.Image], rng: np.random.Generator
) -> bytes:
    shorter = round(size * rng.uniform(SMALLEST_SIDE_SHARE, 1.0))
    width, height = (size, shorter) if rng.random() < 0.5 else (shorter, size)
    backdrop = _gradient((width, height), rng.uniform(175, 245), 12, rng)
    backdrop = ImageChops.add(backdrop, _cut(weak, backdrop.size, rng), 1.0, -128)
    thing = _gradient((width, height), rng.uniform(60, 190), 55, rng)
    _details(thing, rng)
    thing = ImageChops.add(thing, _cut(strong, thing.size, rng), 1.0, -128)
    thing = Image.composite(thing, backdrop, _outline((width, height), rng))
    encoded = io.BytesIO()
    thing.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def _gradient(
    shape: tuple[int, int], level: float, spread: float, rng: np.random.Generator
) -> Image.Image:
    """Light that changes smoothly over the picture, in one hue."""
    hue = rng.normal(0, spread / 2, (1, 1, 3))
    light = level + hue + rng.normal(0, spread, (4, 4, 1)) + rng.normal(0, spread / 6, (4, 4, 3))
    small = Image.fromarray(light.clip(0, 255).astype(np.uint8))
    smooth = small.resize((64, 64), Image.Resampling.BICUBIC)
    return smooth.resize(shape, Image.Resampling.BILINEAR)  # twice as fast as bicubic all the way


def _cut(
    textures: list[Image.Image], shape: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    texture = textures[rng.integers(len(textures))]
    left = int(rng.integers(texture.width - shape[0] + 1))
    top = int(rng.integers(texture.height - shape[1] + 1))
    return texture.crop((left, top, left + shape[0], top + shape[1]))


def _outline(shape: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw the mask of a thing made of a few overlapping parts around the middle."""
    mask = Image.new("L", shape, 0)
    draw = ImageDraw.Draw(mask)
    for _ in range(int(rng.integers(2, 5))):
        half = np.array(shape) * rng.uniform(0.15, 0.36, 2)
        center = np.array(shape) * rng.uniform(0.4, 0.6, 2)
        box = [*(center - half).tolist(), *(center + half).tolist()]
        if rng.random() < 0.5:
            draw.ellipse(box, fill=255)
        else:
            draw.rounded_rectangle(box, radius=float(half.min() / 3), fill=255)
    return mask


def _details(image: Image.Image, rng: np.random.Generator) -> None:
    """Draw seams, buttons and bands in place."""
    draw = ImageDraw.Draw(image)
    side = max(image.size)
    for _ in range(int(rng.integers(12, 30))):
        color = tuple(int(value) for value in rng.integers(20, 240, 3))
        ends = (np.array(image.size) * rng.uniform(0.1, 0.9, (2, 2))).ravel().tolist()
        if rng.random() < 0.6:
            draw.line(ends, fill=color, width=int(rng.integers(1, 2 + side // 100)))
        else:
            radius = side * rng.uniform(0.005, 0.05)
            x, y = ends[:2]
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
