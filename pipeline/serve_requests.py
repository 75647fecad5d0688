"""What a request asks: a form with a picture and a title, or JSON with some of each.

Everything is parsed in memory. A title or picture that looks like a path or an address is text and
bytes like any other: nothing is opened.
"""

import base64
import binascii
import json
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pipeline.items import RawItem
from pipeline.serve_errors import RequestError
from schemas.serve import MAX_ITEMS

FORM, JSON = "multipart/form-data", "application/json"
_NOT_GIVEN = "not given"
_NAMES = ("image", "title")
# What begins a value: millions of tiny ones would cost gigabytes, and seconds of the interpreter's
# lock. Titles have some of these bytes too.
_STRUCTURE = (b"[", b"{", b",")
_MOST_STRUCTURE = 100_000
_FORM_FIX = "send a form with the file `image`, the text `title`, or both"
_JSON_FIX = 'send {"items": [{"image": "<base64>", "title": "..."}]}; one of both may be left out'


def check_type(content_type: str | None) -> str:
    """Return FORM or JSON. Raises: RequestError with 415."""
    kind, _ = parse_options_header(content_type)
    name = kind.decode("latin-1").lower()
    if name not in (FORM, JSON):
        raise RequestError(
            415,
            f"content type {(content_type or 'none')[:100]!r}",
            fix=f"send {FORM} for one item, or {JSON}",
        )
    return name


def parse(body: bytes, content_type: str) -> list[RawItem]:
    """Return the items of a request: one of a form, 1 to MAX_ITEMS of JSON.

    Args:
        body: of the request.
        content_type: the whole header; FORM or JSON.
    Raises: RequestError with 422.
    """
    if check_type(content_type) == FORM:
        return [_item(_form(body, content_type), place="", fix=_FORM_FIX)]
    if sum(map(body.count, _STRUCTURE)) > _MOST_STRUCTURE:
        raise RequestError(422, "far too many values for items", fix=_JSON_FIX)
    try:
        content = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise RequestError(422, f"not JSON: {reason[:200]}", fix=_JSON_FIX) from error
    items = content.get("items", [content]) if isinstance(content, dict) else None
    if not isinstance(items, list) or (len(content) > 1 and "items" in content):
        raise RequestError(422, "expected an object with `items`, a list", fix=_JSON_FIX)
    if not 1 <= len(items) <= MAX_ITEMS:
        raise RequestError(
            422, f"{len(items)} items", fix=f"send 1 to {MAX_ITEMS} items in a request"
        )
    places = [f"items[{number}]" if "items" in content else "" for number in range(len(items))]
    return [
        _item(_fields(each, place), place=place, fix=_JSON_FIX)
        for each, place in zip(items, places, strict=True)
    ]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def _item(given: dict[str, bytes | None], *, place: str, fix: str) -> RawItem:
    image, title = given.get("image"), given.get("title")
    if image is None and title is None:
        raise RequestError(422, f"{place or 'the item'} has neither image nor title", fix=fix)
    text = None
    if title is not None:
        try:
            text = title.decode()
        except UnicodeDecodeError as error:
            what = f"{_path(place, 'title')} is not UTF-8 at byte {error.start}"
            raise RequestError(422, what, fix="send the title as UTF-8") from error
    return RawItem(
        title=text,
        title_error=None if text is not None else _NOT_GIVEN,
        image=image,
        image_error=None if image is not None else _NOT_GIVEN,
    )


def _fields(item: Any, place: str) -> dict[str, bytes | None]:
    """Return the picture and the title's UTF-8 of one JSON object."""
    if not isinstance(item, dict):
        raise RequestError(422, f"{place or 'the item'} is no object", fix=_JSON_FIX)
    for name, value in item.items():
        if name not in _NAMES or not isinstance(value, str | None):
            problem = "is no text" if name in _NAMES else "is no field of an item"
            raise RequestError(422, f"{_path(place, str(name)[:100])} {problem}", fix=_JSON_FIX)
    found: dict[str, bytes | None] = {"image": None, "title": None}
    if (title := item.get("title")) is not None:
        # JSON may have half a surrogate pair, UTF-8 may not: `_item` finds it.
        found["title"] = title.encode("utf-8", "surrogatepass")
    if (image := item.get("image")) is not None:
        try:
            found["image"] = base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RequestError(
                422,
                f"{_path(place, 'image')} is not base64: {error}",
                fix="encode the file's bytes as base64, without line breaks or `data:`",
            ) from error
    return found


def _path(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _form(body: bytes, content_type: str) -> dict[str, bytes | None]:
    """Return the parts of a form by name."""
    _, options = parse_options_header(content_type)
    form = _Form()
    try:
        parser = MultipartParser(options.get(b"boundary", b""), form.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RequestError(422, f"not a form: {str(error)[:200]}", fix=_FORM_FIX) from error
    if not form.is_whole:
        raise RequestError(422, "not a form: it ends too early", fix=_FORM_FIX)
    return form.found


class _Form:
    """Collects what the parser finds. The library's own forms write large parts to disk."""

    def __init__(self) -> None:
        self.found: dict[str, bytes | None] = {}
        self.is_whole = False
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes] = []

    def callbacks(self) -> Any:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
            "on_end": self._whole,
        }

    def _begin(self) -> None:
        self._headers, self._data = {}, []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in _NAMES or name in self.found:
            problem = "comes twice" if name in self.found else "is no field of an item"
            raise RequestError(422, f"{name[:100]!r} {problem}", fix=_FORM_FIX)
        data = b"".join(self._data)
        is_unchosen = not data and options.get(b"filename") == b""  # a browser's empty file field
        self.found[name] = None if is_unchosen else data

    def _whole(self) -> None:
        self.is_whole = True
