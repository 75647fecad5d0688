"""Load and hash items as they come out of a catalog, in threads, some ahead of their use."""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pipeline.items import PictureFile, RawItem

NUM_READERS = 16  # threads that read and hash: they wait for files, not for the processor
_ITEMS_AHEAD = 128
_TOGETHER = 8  # to hand over single ones takes longer than to read them

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, kw_only=True)
class ReadItem:
    """An item as read, hashed and not decoded."""

    title: str | None
    image: bytes | None
    image_error: str | None
    title_error: str | None
    image_sha256: str | None
    title_sha256: str | None


def read_item(raw: RawItem) -> ReadItem:
    """Load and hash one item; a picture that cannot be read becomes its error."""
    data, image_error = None, raw.image_error
    if raw.image is not None:
        try:
            data = raw.image.read() if isinstance(raw.image, PictureFile) else raw.image
        except FileNotFoundError:
            image_error = "no such file"
        except OSError as error:
            image_error = f"cannot be read: {error.strerror or error}"
    return ReadItem(
        title=raw.title,
        image=data,
        image_error=image_error,
        title_error=raw.title_error,
        image_sha256=hashlib.sha256(data).hexdigest() if data is not None else None,
        title_sha256=hashlib.sha256(raw.title.encode()).hexdigest()
        if raw.title is not None
        else None,
    )


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], values: Iterable[In]
) -> Iterator[Out]:
    """Map in threads, in order, some values ahead of their use."""

    def each(group: list[In]) -> list[Out]:
        return [function(value) for value in group]

    futures: deque[Future[list[Out]]] = deque()
    waiting = iter(values)
    while group := list(itertools.islice(waiting, _TOGETHER)):
        futures.append(pool.submit(each, group))
        if len(futures) > _ITEMS_AHEAD // _TOGETHER:
            yield from futures.popleft().result()
    while futures:
        yield from futures.popleft().result()
