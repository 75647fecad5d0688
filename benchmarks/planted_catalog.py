"""Make a generated catalog in which it is known what is wrong.

Takes the demo's generator; adds copies of items (exact ones and four kinds of near ones) and swaps
pictures and labels between items of different labels. Every planted fault concerns items of its
own, so that one finding answers for one fault. Writes items.parquet (pictures in it), labels.csv
and truth.parquet (item_id, kind, other: the copied or swapped item). Same arguments, same bytes.
"""

import io
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.demo.catalog import write_catalog

COPIES = ("exact", "crop", "re-encode", "recolor", "title edit")
SWAPS = ("picture swap", "label swap")


def make_planted_catalog(
    folder: Path, *, num_items: int = 10_000, share: float = 0.02, seed: int = 0
) -> None:
    """Write the catalog, or return at once if it is there.

    Args:
        folder: where to.
        num_items: before copies are added.
        share: of the items that each kind of fault concerns.
        seed: of the generator and of what is planted where.
    """
    if (folder / "truth.parquet").exists():
        return
    write_catalog(folder / "plain", num_items=num_items, seed=seed)
    items = pq.read_table(folder / "plain/items.parquet").to_pylist()
    for item in items:
        item["image"] = (folder / "plain" / item.pop("image_path")).read_bytes()
    rng = random.Random(f"planted {seed}")
    rest = rng.sample(range(num_items), num_items)
    num_each = round(share * num_items)
    truth = []
    for kind in COPIES:
        for number in range(num_each):
            item = items[rest.pop()]
            copy = {**item, **_EDITS[kind](item, rng), "item_id": f"copy-{kind}-{number:05d}"}
            items.append(copy)
            truth.append({"item_id": copy["item_id"], "kind": kind, "other": item["item_id"]})
    for kind, column in zip(SWAPS, ("image", "label_id"), strict=True):
        for _ in range(num_each // 2):
            one = items[rest.pop()]
            place = next(i for i in reversed(rest) if items[i]["label_id"] != one["label_id"])
            rest.remove(place)
            other = items[place]
            one[column], other[column] = other[column], one[column]
            for item, partner in ((one, other), (other, one)):
                found = {"item_id": item["item_id"], "kind": kind, "other": partner["item_id"]}
                truth.append(found)
    rng.shuffle(items)
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    (folder / "labels.csv").write_bytes((folder / "plain/labels.csv").read_bytes())
    pq.write_table(pa.Table.from_pylist(truth), folder / "truth.parquet")


def _exact(item: dict[str, str], rng: random.Random) -> dict[str, object]:
    """The same bytes; the title as another feed would write it."""
    title = item["title"]
    return {"title": rng.choice([title, title.upper(), f"  {title.replace(' ', '  ')} "])}


def _crop(item: dict[str, bytes], rng: random.Random) -> dict[str, object]:
    """Up to 8% off each side."""
    image = _opened(item)
    width, height = image.size
    left, top, right, bottom = (rng.uniform(0.0, 0.08) for _ in range(4))
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return {"image": _encoded(image.crop(tuple(map(round, box))), 90)}


def _re_encode(item: dict[str, bytes], rng: random.Random) -> dict[str, object]:
    """Half to full size, JPEG quality 40 to 80."""
    image = _opened(item)
    scale = rng.uniform(0.5, 1.0)
    size = tuple(max(1, round(scale * side)) for side in image.size)
    return {"image": _encoded(image.resize(size), rng.randint(40, 80))}


def _recolor(item: dict[str, bytes], rng: random.Random) -> dict[str, object]:
    """Brightness, contrast and saturation changed by up to 15%."""
    image = _opened(item)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.85, 1.15))
    return {"image": _encoded(image, 90)}


def _title_edit(item: dict[str, str], rng: random.Random) -> dict[str, object]:
    """The same picture; a word added, dropped, or moved to the end."""
    words = item["title"].split()
    place = rng.randrange(max(1, len(words) - 1))
    edit = rng.choice(["add", "drop", "move"])
    if edit == "add" or len(words) < 3 or words[place] == words[-1]:
        words.insert(place, rng.choice(["new", "sale", "original", "free shipping"]))
    elif edit == "drop":
        del words[place]
    else:
        words.append(words.pop(place))
    return {"title": " ".join(words)}


_EDITS: dict[str, Callable[..., dict[str, object]]] = dict(
    zip(COPIES, (_exact, _crop, _re_encode, _recolor, _title_edit), strict=True)
)


def _opened(item: dict[str, bytes]) -> Image.Image:
    return Image.open(io.BytesIO(item["image"])).convert("RGB")


def _encoded(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
