"""The forms of requests and answers, as /openapi.json describes them."""

from typing import Any

from pydantic import BaseModel

from schemas.serve import MAX_ITEMS


class Label(BaseModel):
    """A shelf."""

    label_id: str
    name: str
    path: str | None


class RankedLabel(Label):
    """A shelf that an item may belong on."""

    probability: float


class NeighborLabel(Label):
    """A shelf near another one."""

    similarity: float | None
    """Cosine of the label embeddings; null where nobody knows."""


class ItemAnswer(BaseModel):
    """What the runs say of one item."""

    label_id: str | None
    """Of the accepted answer; null if there is none, as are the three that follow."""
    name: str | None
    path: str | None
    probability: float | None
    abstains: bool
    """Whether the best answer is below the threshold."""
    error: str | None
    """What is missing, such as `image: truncated`."""
    top: list[RankedLabel]
    """Best first; empty if there was nothing to predict from."""


class Answers(BaseModel):
    """What POST /v1/predict answers."""

    runs: list[str]
    decision: str
    threshold: float | None
    """Least probability of an accepted answer; null takes every one."""
    items: list[ItemAnswer]
    """In the order of the request."""


class Labels(BaseModel):
    """A page of labels."""

    num_labels: int
    """Of all pages."""
    offset: int
    labels: list[Label]


class Neighbors(Label):
    """A label with its neighbors."""

    neighbors: list[NeighborLabel]
    """Nearest first."""


class Error(BaseModel):
    """Why a request is refused."""

    what: str
    fix: str


class ErrorAnswer(BaseModel):
    """What every refused request is answered with."""

    error: Error


_TITLE = {"type": "string", "description": "Title."}
_ITEM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {
        "image": {
            "type": ["string", "null"],
            "contentEncoding": "base64",
            "description": "A JPEG, PNG, WebP, GIF, BMP or TIFF file as base64.",
        },
        "title": {"type": ["string", "null"], "description": "Title."},
    },
}
_ITEMS: dict[str, Any] = {
    "type": "object",
    "required": ["items"],
    "additionalProperties": False,
    "properties": {
        "items": {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": _ITEM}
    },
}
PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "A JPEG, PNG, WebP, GIF, BMP or TIFF file.",
                        },
                        "title": _TITLE,
                    },
                }
            },
            "application/json": {"schema": {"anyOf": [_ITEMS, _ITEM]}},
        },
    }
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for some statuses of refused requests."""
    return {status: {"model": ErrorAnswer} for status in statuses}
