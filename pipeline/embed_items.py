"""Items through decoder and encoder on their way to a network: nothing is written.

What comes out is what the cache would hold: float16, NaN where there is no embedding. Cost: a
forward pass of each tower per item; memory for a few batches, whatever the catalog's size.

B batch, D embedding width, H, W height and width in pixels.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Float32

from cache.layout import ITEM_DTYPE
from pipeline.decode_pool import TASK_PICTURES, Decoded, DecodePool
from pipeline.embed_shard import EncoderLike
from pipeline.item_contents import NUM_READERS, ReadItem, map_ahead, read_item
from pipeline.items import RawItem

NamedItem = tuple[str | None, RawItem]
"""An item and its id."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedItems:
    """A batch of items, embedded."""

    item_ids: list[str | None]
    image_emb: Float16[np.ndarray, "B D"]
    title_emb: Float16[np.ndarray, "B D"]
    image_ok: Bool[np.ndarray, " B"]
    title_ok: Bool[np.ndarray, " B"]
    errors: list[str | None]
    """Why an embedding is missing, such as `image: no such file; title: null`."""


@dataclass(kw_only=True)
class _Batch:
    """Items under way."""

    item_ids: list[str | None] = field(default_factory=list)
    items: list[ReadItem] = field(default_factory=list)


class _Task(NamedTuple):
    """Pictures of a batch on their way through the decoder."""

    batch: _Batch
    places: list[int]
    is_last: bool


def embed_items(
    items: Iterable[NamedItem],
    encoder: EncoderLike,
    pool: DecodePool,
    *,
    batch_size: int = 256,
) -> Iterator[EmbeddedItems]:
    """Embed items, in order; one that is bad never stops a batch.

    Args:
        items: read some ahead.
        encoder: whose embeddings.
        pool: decodes their pictures.
        batch_size: B; the last batch may have fewer.
    """
    with ThreadPoolExecutor(NUM_READERS) as readers:
        decoded = pool.decode(_tasks(items, readers, batch_size))
        images: list[np.ndarray] = []
        places: list[int] = []
        problems: dict[int, str] = {}
        for outcome in decoded:
            task = outcome.tag
            _take(outcome, images, places, problems)
            if task.is_last:
                yield _embedded(task.batch, encoder, images, places, problems, batch_size)
                images, places, problems = [], [], {}


def _take(
    outcome: Decoded[_Task],
    images: list[np.ndarray],
    places: list[int],
    problems: dict[int, str],
) -> None:
    """Note a task's pictures, or what is wrong with them."""
    for place, pixels, error in zip(
        outcome.tag.places, outcome.pixels, outcome.errors, strict=True
    ):
        if error is None:
            images.append(pixels.copy())  # valid until the next outcome only
            places.append(place)
        else:
            problems[place] = error


def _tasks(
    items: Iterable[NamedItem], readers: ThreadPoolExecutor, batch_size: int
) -> Iterator[tuple[_Task, list[bytes]]]:
    """Read items and cut them into batches, the pictures of a batch into tasks."""

    def read(named: NamedItem) -> tuple[str | None, ReadItem]:
        return named[0], read_item(named[1])

    batch = _Batch()
    pictures: list[bytes] = []
    places: list[int] = []
    for item_id, item in map_ahead(readers, read, items):
        if len(batch.items) == batch_size:
            yield _Task(batch, places, is_last=True), pictures
            batch, pictures, places = _Batch(), [], []
        if len(pictures) == TASK_PICTURES:
            yield _Task(batch, places, is_last=False), pictures
            pictures, places = [], []
        if item.image is not None:
            pictures.append(item.image)
            places.append(len(batch.items))
        batch.item_ids.append(item_id)
        batch.items.append(item)
    if batch.items:
        yield _Task(batch, places, is_last=True), pictures


def _embedded(
    batch: _Batch,
    encoder: EncoderLike,
    images: list[np.ndarray],
    places: list[int],
    problems: dict[int, str],
    batch_size: int,
) -> EmbeddedItems:
    """Run both towers over a batch."""
    num_items, width = len(batch.items), encoder.spec.embed_dim
    found = list(encoder.encode_images([np.stack(images)])) if images else []
    image_emb = _rows(num_items, width, places, found[0] if found else None)
    titled = [place for place, item in enumerate(batch.items) if item.title is not None]
    titles = [item.title for item in batch.items if item.title is not None]
    title_emb = _rows(num_items, width, titled, encoder.encode_texts(titles, batch_size))
    image_ok, title_ok = (np.isfinite(each).all(axis=1) for each in (image_emb, title_emb))
    no_embedding = "the encoder gave no finite embedding"
    errors = []
    for place, item in enumerate(batch.items):
        reasons = {
            "image": item.image_error or problems.get(place, no_embedding),
            "title": item.title_error or no_embedding,
        }
        is_ok = {"image": image_ok[place], "title": title_ok[place]}
        shown = [f"{name}: {reason}" for name, reason in reasons.items() if not is_ok[name]]
        errors.append("; ".join(shown) or None)
    return EmbeddedItems(
        item_ids=batch.item_ids,
        image_emb=image_emb,
        title_emb=title_emb,
        image_ok=image_ok,
        title_ok=title_ok,
        errors=errors,
    )


def _rows(
    num_items: int, width: int, places: list[int], embeddings: Float32[np.ndarray, "n D"] | None
) -> Float16[np.ndarray, "B D"]:
    """Put embeddings into their rows; NaN where there is none."""
    matrix = np.full((num_items, width), np.nan, ITEM_DTYPE)
    if embeddings is not None:
        matrix[places] = embeddings
    return matrix
