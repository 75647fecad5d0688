"""Small pictures and titles of some items, for pages that open from disk.

Read out of the catalog, wherever that is; what cannot be read has a reason. Cost: a read and a
decode for each item, on two threads.

n items.
"""

import base64
import io
import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.item_contents import map_ahead
from pipeline.items import PictureFile, RawItem, check_unchanged, read_places
from pipeline.pictures import PictureError, decode
from pipeline.progress import Progress
from schemas.errors import PipelineError
from schemas.plan import ItemsSource

logger = logging.getLogger(__name__)

_NUM_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """What a person needs to know an item."""

    title: str
    """Empty without one."""
    picture: bytes
    """An encoded file; empty without one."""
    problem: str
    """Why there is no picture."""


def read_thumbnails(
    source: ItemsSource,
    items: pa.Table,
    *,
    pixels: int,
    picture_format: str,
    quality: int,
    what: str,
) -> list[Thumbnail]:
    """Return thumbnails of items, in order.

    Args:
        source: the planned catalog.
        items: n of them, in the schema ITEMS, in any order.
        pixels: longer side.
        picture_format: as Pillow calls it.
        quality: of the format, 0 to 100.
        what: is shown as progress.
    """

    def small(raw: RawItem | str) -> Thumbnail:
        return _thumbnail(raw, pixels, picture_format, quality)

    file, row = (items[name].to_numpy() for name in ("source_file", "source_row"))
    order = np.lexsort((row, file))
    found: list[Thumbnail] = []
    with Progress(what, len(items)) as progress, ThreadPoolExecutor(_NUM_THREADS) as pool:
        for each in map_ahead(pool, small, _raw_items(source, file[order], row[order])):
            found.append(each)
            progress.update(1)
    place = np.argsort(order)
    return [found[i] for i in place]


def data_url(picture: bytes, picture_format: str) -> str:
    """Return a picture as a URL that holds it; empty without one."""
    if not picture:
        return ""
    text = base64.b64encode(picture).decode()
    return f"data:image/{picture_format.lower()};base64,{text}"


def _raw_items(source: ItemsSource, files: np.ndarray, rows: np.ndarray) -> Iterator[RawItem | str]:
    """Yield items out of the catalog, file by file; where one cannot be read, why it cannot."""
    borders = np.flatnonzero(np.diff(files, prepend=-1)).tolist()
    for start, stop in itertools.pairwise([*borders, len(files)]):
        yield from _of_one_file(source, files[start:stop], rows[start:stop])


def _of_one_file(
    source: ItemsSource, files: np.ndarray, rows: np.ndarray
) -> Iterator[RawItem | str]:
    """Yield items of one file; after the first that cannot be read, the reason."""
    num_read = 0
    reason = "not in the catalog any more"
    try:
        check_unchanged(source, files[:1].tolist())
        for raw in read_places(source, files, rows):
            yield raw
            num_read += 1
    except PipelineError as error:
        reason = f"{error.what}: {Path(error.where).name}"
    except OSError as error:
        reason = error.strerror or str(error)
    except IndexError:  # of a plan that names no file
        reason = "not in a catalog"
    if num_read < len(rows):
        logger.warning("%d items are shown without pictures: %s", len(rows) - num_read, reason)
    for _ in range(len(rows) - num_read):
        yield reason


def _thumbnail(raw: RawItem | str, pixels: int, picture_format: str, quality: int) -> Thumbnail:
    if isinstance(raw, str):
        return Thumbnail(title="", picture=b"", problem=raw)
    title, buffer = raw.title or "", io.BytesIO()
    if raw.image is None:
        return Thumbnail(title=title, picture=b"", problem=raw.image_error or "no picture")
    try:
        data = raw.image.read() if isinstance(raw.image, PictureFile) else raw.image
        picture = decode(data, least_pixels=pixels)
    except PictureError as error:
        return Thumbnail(title=title, picture=b"", problem=str(error))
    except OSError as error:  # whose text names the path on this machine
        return Thumbnail(title=title, picture=b"", problem=error.strerror or "cannot be read")
    picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    picture.save(buffer, picture_format, quality=quality)
    return Thumbnail(title=title, picture=buffer.getvalue(), problem="")
