"""The commits: the only files that mean "done". DESIGN.md section 3."""

import json
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from schemas.configs import digest, from_json, to_dict, to_json
from schemas.errors import CacheCorruptError


@dataclass(frozen=True, kw_only=True)
class ShardCommit:
    """What a finished shard consists of; written after everything it names."""

    version: int = 1
    """Of this format."""
    shard: int
    """Position in the plan."""
    start: int
    """First row."""
    stop: int
    """The row after the last."""
    spec_id: str
    """Of the encoder that made it."""
    items_sha256: str
    """Of the items it was made from, as in the plan."""
    image_ok: int
    """Rows with an image embedding."""
    title_ok: int
    """Rows with a title embedding."""
    num_bad: int
    """Rows that lack one of the two."""
    reasons: dict[str, int]
    """How often each kind of error occurs, such as `image: no such file`."""
    chunk_bytes: int
    """Size of every chunk file of this shard."""
    image_crc32c: tuple[int, ...]
    """Of each image chunk, in order."""
    title_crc32c: tuple[int, ...]
    """Of each title chunk, in order."""
    rows_sha256: str
    """Of the rows file."""
    compute_dtype: str
    """In which the encoder ran; `imported` where the embeddings were made elsewhere."""
    batch_size: int
    """At which the encoder ran; 0 where it did not."""
    decoder: str = "pillow"
    """What decoded the pictures: `pillow`, or `nvjpeg` where it took the plain JPEGs."""
    seconds: float
    """Wall time from the first read to the commit, of the run that wrote it."""
    host: str
    """Machine that made it."""
    body_sha256: str = ""
    """Of the rest of this commit in canonical form."""


@dataclass(frozen=True, kw_only=True)
class ChunkPart:
    """A finished chunk of a shard that is not committed yet; travels in its rows table."""

    chunk: int
    """Number of the chunk in the arrays."""
    spec_id: str
    """Of the encoder that made it."""
    items_sha256: str
    """Of the shard's items, as in the plan."""
    image_crc32c: int
    """Of the image chunk."""
    title_crc32c: int
    """Of the title chunk."""
    compute_dtype: str
    """As in the commit."""
    batch_size: int
    """As in the commit."""
    decoder: str = "pillow"
    """As in the commit."""


@dataclass(frozen=True, kw_only=True)
class LabelsCommit:
    """The label embeddings, finished."""

    version: int = 1
    """Of this format."""
    spec_id: str
    """Of the encoder that made them."""
    labels_sha256: str
    """Of the labels, as in the plan."""
    label_text: str
    """What was embedded, as in the plan."""
    num_labels: int
    """C."""
    crc32c: int
    """Of the one chunk."""
    texts_sha256: str = ""
    """Of the table of what was embedded for each label; empty if nobody says."""
    compute_dtype: str
    """In which the encoder ran."""
    seconds: float
    """Wall time."""
    host: str
    """Machine that made them."""
    body_sha256: str = ""
    """Of the rest of this commit in canonical form."""


IMPORTED = "imported"
"""Compute dtype of a shard whose embeddings were made elsewhere."""

Commit = TypeVar("Commit", ShardCommit, LabelsCommit)


def sealed_json(commit: ShardCommit | LabelsCommit) -> str:
    """Return the commit as JSON with the sha256 of its own body."""
    return to_json(replace(commit, body_sha256=_body_sha256(to_dict(commit))))


def read_commit(kind: type[Commit], text: str, *, where: str, fix: str) -> Commit:
    """Read a commit and check its seal.

    Raises: ConfigError if it does not parse; CacheCorruptError if its body was changed.
    """
    commit = from_json(kind, text, where=where, fix=fix)
    # Of what was written: fields that a later version added are not in it.
    if commit.body_sha256 != _body_sha256(json.loads(text)):
        raise CacheCorruptError("commit does not match its own sha256", where=where, fix=fix)
    return commit


def _body_sha256(commit: dict[str, Any]) -> str:
    return digest({name: value for name, value in commit.items() if name != "body_sha256"})
