"""Tell of every shard whether it is done, missing or broken, and why.

`shard_state` reads commits and sizes only (184 small files at 12M items); with `checksums` it
reads every byte.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.layout import (
    FOOTER_BYTES,
    MODALITIES,
    chunk_num_bytes,
    chunk_path,
    chunk_range,
    commit_path,
    crc32c,
    rows_path,
)
from schemas.commit import ShardCommit, read_commit
from schemas.errors import PipelineError
from schemas.plan import Plan


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """One shard as found on disk."""

    shard: int
    """Position in the plan."""
    state: str
    """`done`, `missing` or `broken`."""
    reason: str = ""
    """Why it is broken."""
    commit: ShardCommit | None = None
    """What it says of itself, where it is done."""


def shard_state(workspace: Path, plan: Plan, shard: int, *, checksums: bool = False) -> ShardState:
    """Say whether a shard is done.

    Args:
        workspace: folder with the plan and the cache.
        plan: the workspace's plan.
        shard: position in the plan.
        checksums: read every file and compare it with the commit, not only its size.
    Raises: ShardError if the plan has no such shard.
    """
    plan.shard_range(shard)
    path = commit_path(workspace, shard)
    if not path.is_file():
        return ShardState(shard=shard, state="missing")
    try:
        commit = read_commit(
            ShardCommit, path.read_text(), where=str(path), fix=f"embed --shard {shard}"
        )
    except (PipelineError, UnicodeDecodeError) as error:
        return _broken(shard, f"commit cannot be read: {str(error).splitlines()[0]}")
    reason = _disagreement(workspace, plan, shard, commit) or (
        _bad_checksum(workspace, plan, commit) if checksums else ""
    )
    if reason:
        return _broken(shard, reason)
    return ShardState(shard=shard, state="done", commit=commit)


def _broken(shard: int, reason: str) -> ShardState:
    return ShardState(shard=shard, state="broken", reason=reason)


def _disagreement(workspace: Path, plan: Plan, shard: int, commit: ShardCommit) -> str:
    """Return how the commit differs from the plan or the files' sizes, or nothing."""
    chunks = chunk_range(plan, shard)
    expected = {
        "shard": (commit.shard, shard),
        "spec_id": (commit.spec_id, plan.spec_id),
        "items_sha256": (commit.items_sha256, plan.shards[shard]),
        "range": ((commit.start, commit.stop), plan.shard_range(shard)),
        "chunk_bytes": (commit.chunk_bytes, chunk_num_bytes(plan)),
        "image chunks": (len(commit.image_crc32c), len(chunks)),
        "title chunks": (len(commit.title_crc32c), len(chunks)),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            return f"{name} is {found}, plan says {wanted}"
    for name in MODALITIES:
        for chunk in chunks:
            path = chunk_path(workspace, name, chunk)
            size = path.stat().st_size if path.is_file() else -1
            if size != commit.chunk_bytes:
                what = "is missing" if size < 0 else f"has {size} bytes"
                return f"{name} chunk {chunk} {what}, commit says {commit.chunk_bytes} bytes"
    if not rows_path(workspace, shard).is_file():
        return "rows table is missing"
    return ""


def _bad_checksum(workspace: Path, plan: Plan, commit: ShardCommit) -> str:
    """Return which file does not match its checksum in the commit, or nothing."""
    for name, sums in (("image", commit.image_crc32c), ("title", commit.title_crc32c)):
        for chunk, checksum in zip(chunk_range(plan, commit.shard), sums, strict=True):
            data = np.fromfile(chunk_path(workspace, name, chunk), np.uint8)
            footer = int.from_bytes(data[-FOOTER_BYTES:].tobytes(), "little")
            if footer != checksum or crc32c(data[:-FOOTER_BYTES]) != checksum:
                return f"{name} chunk {chunk} does not match its crc32c in the commit"
    rows = rows_path(workspace, commit.shard).read_bytes()
    if hashlib.sha256(rows).hexdigest() != commit.rows_sha256:
        return "rows table does not match its sha256 in the commit"
    return ""
