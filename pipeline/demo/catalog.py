"""Generate the demo catalog: drawn product pictures, shop titles and a label tree.

Takes a number of items and a seed; writes images/<bucket>/<item_id>.jpg, items.parquet, labels.csv
and, last and atomically, catalog.json, which makes a second call return at once. An item depends on
the seed and its index alone, so the bytes are the same for any number of worker processes.
Cost: about 2.5 ms an item on one core, so about 8 core hours at 12M items.
"""

import csv
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.demo import (
    shelves_clothing,
    shelves_goods,
    shelves_home,
    shelves_kitchen,
    shelves_play,
    shelves_tech,
    shelves_wear,
)
from pipeline.demo.draw_scene import draw_picture, encode_jpeg
from pipeline.demo.taxonomy import Leaf, class_counts
from pipeline.demo.titles import make_title
from schemas.errors import PipelineError

GENERATOR_VERSION = 1
_CHUNK_ITEMS = 250
_BUCKET_ITEMS = 1000

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
    ]
)


_LEAVES: tuple[Leaf, ...] = (
    *shelves_wear.LEAVES,
    *shelves_clothing.LEAVES,
    *shelves_kitchen.LEAVES,
    *shelves_home.LEAVES,
    *shelves_tech.LEAVES,
    *shelves_play.LEAVES,
    *shelves_goods.LEAVES,
)


def leaves() -> tuple[Leaf, ...]:
    """Give the demo's categories; a label is a position in this tuple."""
    return _LEAVES


def label_id(label: int) -> str:
    """Give the id a catalog uses for a label."""
    return f"L{label:04d}"


def make_item(label: int, rng: random.Random) -> tuple[Image.Image, str]:
    """Make one item of a category: its picture and its title.

    Args:
        label: position in `leaves()`.
        rng: the item's generator; the only source of randomness.
    Returns: an RGB picture, shorter side at least 128 px, and a title.
    """
    everything = leaves()
    leaf = everything[label]
    image, color = draw_picture(leaf, rng, everything)
    return image, make_title(leaf, rng, color=color, others=everything)


def item_rng(seed: int, index: int) -> random.Random:
    """Give item `index` its own generator, the same in every process."""
    return random.Random(f"shelfwise demo {GENERATOR_VERSION} {seed} {index}")


def draw_labels(num_items: int, seed: int) -> list[int]:
    """Give every item its label: long-tailed counts in random order."""
    counts = class_counts(num_items, len(leaves()))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    random.Random(f"shelfwise demo order {seed}").shuffle(labels)
    return labels


def write_catalog(
    folder: Path,
    *,
    num_items: int = 20_000,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the catalog into `folder`, or return at once if that very catalog is there.

    Args:
        folder: created if missing.
        num_items: at least one per category.
        seed: same seed, same bytes.
        workers: processes; 1 works in this process.
        progress: called with the number of items done since its last call.
    Raises: PipelineError if `num_items` is smaller than the number of categories.
    """
    wanted = {"generator_version": GENERATOR_VERSION, "seed": seed, "num_items": num_items}
    stamp = folder / "catalog.json"
    if _read_stamp(stamp) == wanted:
        return
    if num_items < len(leaves()):
        raise PipelineError(
            f"{num_items} items asked for, the demo has {len(leaves())} categories to fill",
            where="write_catalog(num_items=...)",
            fix=f"ask for {len(leaves())} items or more",
        )
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    labels = draw_labels(num_items, seed)
    titles: list[str] = []
    for chunk in _run_chunks(folder, labels, seed=seed, workers=workers):
        titles.extend(chunk)
        if progress is not None:
            progress(len(chunk))
    _write_items(folder / "items.parquet", labels, titles)
    _write_labels(folder / "labels.csv")
    part = folder / "catalog.json.part"
    part.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    os.replace(part, stamp)


def _read_stamp(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _run_chunks(
    folder: Path, labels: Sequence[int], *, seed: int, workers: int
) -> Iterator[list[str]]:
    for bucket in range(0, (len(labels) - 1) // _BUCKET_ITEMS + 1):
        (folder / "images" / f"{bucket:03d}").mkdir(parents=True, exist_ok=True)
    jobs = [
        (start, list(labels[start : start + _CHUNK_ITEMS]))
        for start in range(0, len(labels), _CHUNK_ITEMS)
    ]
    work = partial(_write_chunk, folder, seed)
    if workers <= 1:
        yield from map(work, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(work, jobs)


def _write_chunk(folder: Path, seed: int, job: tuple[int, list[int]]) -> list[str]:
    start, labels = job
    titles = []
    for index, label in enumerate(labels, start):
        rng = item_rng(seed, index)
        image, title = make_item(label, rng)
        (folder / image_path(index)).write_bytes(encode_jpeg(image, rng))
        titles.append(title)
    return titles


def item_id(index: int) -> str:
    """Give the id of the item at a position in the catalog."""
    return f"item-{index:07d}"


def image_path(index: int) -> str:
    """Give the picture's path relative to the catalog's folder."""
    return f"images/{index // _BUCKET_ITEMS:03d}/{item_id(index)}.jpg"


def _write_items(path: Path, labels: Sequence[int], titles: Sequence[str]) -> None:
    table = pa.table(
        {
            "item_id": [item_id(i) for i in range(len(labels))],
            "title": list(titles),
            "image_path": [image_path(i) for i in range(len(labels))],
            "label_id": [label_id(label) for label in labels],
        },
        schema=ITEMS_SCHEMA,
    )
    pq.write_table(table, path)


def _write_labels(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("label_id", "name", "path"))
        for label, leaf in enumerate(leaves()):
            writer.writerow((label_id(label), leaf.name, " > ".join(leaf.path)))
