"""Shards one after another with one encoder and one pool of decoders; what is done is skipped."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable

import pyarrow as pa

from cache.layout import rows_name
from cache.reader import PLAN, read_plan
from cache.storage import Storage
from cache.verify import ShardState, is_imported, shard_state
from pipeline.decode_pool import DecodePool
from pipeline.embed_labels import embed_labels, labels_problem
from pipeline.embed_shard import (
    RETIRED,
    Report,
    ShardEncoder,
    embed_shard,
    ignore,
    live_files,
    shard_items,
)
from pipeline.items import CatalogWatch
from pipeline.logs import event
from schemas.commit import ShardCommit
from schemas.errors import (
    CacheBrokenError,
    CacheIncompleteError,
    PlanMismatchError,
    TooManyBadRowsError,
)
from schemas.plan import Plan

logger = logging.getLogger(__name__)

_MOST_WAITS = 60  # seconds


class ShardEmbedder:
    """Embeds what is not done, with one encoder and one pool of decoders; a context manager.

    Done is a shard whose every checksum is right and that has no more bad rows than allowed: a
    shard that had more is tried again, because the cause may be mended.
    """

    def __init__(
        self,
        workspace: Storage,
        plan: Plan,
        get_encoder: Callable[[], ShardEncoder],
        *,
        batch_size: int = 256,
        num_workers: int = 2,
        max_bad: float = 0.05,
        redo: bool = False,
        checksums: bool = True,
        report: Report = ignore,
    ) -> None:
        """Load nothing yet.

        Args:
            workspace: where the plan is.
            plan: the workspace's plan.
            get_encoder: loads the planned encoder; called once, and only if there is work.
            batch_size: B.
            num_workers: processes that decode pictures; 0 decodes in this one.
            max_bad: share of a shard's rows that may lack an embedding.
            redo: embed the shards again although they are done.
            checksums: read a shard that says it is done, and compare its checksums.
            report: as in `embed_shard`.
        """
        self._workspace, self._plan, self._get_encoder = workspace, plan, get_encoder
        self._batch_size, self._num_workers = batch_size, num_workers
        self._max_bad, self._redo, self._checksums = max_bad, redo, checksums
        self._report = report
        self._watch = CatalogWatch(plan.items)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "ShardEmbedder":
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the decoders."""
        self._stack.close()

    @functools.cached_property
    def encoder(self) -> ShardEncoder:
        """The planned encoder."""
        self._workspace.check_writable()  # before anything slow
        return self._get_encoder()

    @functools.cached_property
    def _pool(self) -> DecodePool:
        spec = self._plan.encoder
        return self._stack.enter_context(
            DecodePool(
                spec.preprocess,
                is_scaled=spec.decode == "scaled",
                num_workers=self._num_workers,
                jpegs=self.encoder.jpegs,
            )
        )

    def embed_labels(self) -> None:
        """Embed the labels if they are not."""
        problem = labels_problem(self._workspace, self._plan)
        if not problem:
            logger.info("labels are done already", extra=event("labels_done"))
            return
        logger.info("%s: making them", problem)
        embed_labels(self._workspace, self._plan, self.encoder, self._batch_size)

    def embed(self, shard: int) -> ShardCommit:
        """Embed a shard if it is not done; return its commit.

        Raises: SourceChangedError, TooManyBadRowsError, LeaseError, ShardError, SpecMismatchError,
            PlanMismatchError, WorkspaceError.
        """
        workspace, plan = self._workspace, _as_it_is_now(self._workspace, self._plan, shard)
        self._watch.source = plan.items
        state = shard_state(workspace, plan, shard, checksums=self._checksums)
        again = _again(state, self._max_bad, redo=self._redo)
        commit = state.commit
        if commit is None or again is not None:
            self._watch.check(live_files(*shard_items(workspace, plan, shard)))
            commit = embed_shard(
                workspace,
                plan,
                shard,
                self.encoder,
                self._pool,
                self._watch,
                batch_size=self._batch_size,
                redo=again,
                report=self._report,
            )
        if not is_imported(commit):  # which may lack a modality on purpose
            _check_bad(workspace, commit, self._max_bad)
        return commit


def _as_it_is_now(workspace: Storage, plan: Plan, shard: int) -> Plan:
    """Return the plan, which may be changed while shards are embedded; what is embedded stays.

    Raises: PlanMismatchError if the shard is another one now.
    """
    for _ in range(_MOST_WAITS):
        try:
            found = read_plan(workspace)
            break
        except CacheIncompleteError:  # for the moment that a change takes
            time.sleep(1.0)
    else:
        found = read_plan(workspace)
    if found.spec_id != plan.spec_id or found.shards[shard : shard + 1] != (plan.shards[shard],):
        raise PlanMismatchError(
            f"shard {shard} was planned anew while others were embedded",
            where=workspace.where(PLAN),
            fix="run the same command again",
            can_retry=True,
        )
    return found


def _again(state: ShardState, max_bad: float, *, redo: bool) -> Callable[[pa.Table], bool] | None:
    """Say which finished chunks of a shard are to be made again; None for none of them."""
    if redo:
        return lambda rows: True
    if state.is_imported:
        if state.commit is None:
            raise CacheBrokenError(
                f"shard {state.shard} was imported and is broken: {state.reason}",
                where=f"shard {state.shard}",
                fix="run the same `python cli.py import ...` again: it mends just that; "
                "or embed the shard with --redo",
            )
        logger.info(
            "shard %05d was imported already",
            state.shard,
            extra=event("shard_skipped", shard=state.shard),
        )
        return None
    if state.commit is None:
        if state.reasons:
            logger.warning(
                "shard %05d is mended: %s",
                state.shard,
                state.reason,
                extra=event("shard_mended", shard=state.shard, reason=state.reason),
            )
        return None
    if _is_too_bad(state.commit, max_bad):
        num_bad = _num_bad(state.commit)
        logger.info(
            "shard %05d has %d bad rows: trying again",
            state.shard,
            num_bad,
            extra=event("shard_again", shard=state.shard, num_bad=num_bad),
        )
        return lambda rows: rows["error"].null_count < len(rows)
    logger.info(
        "shard %05d is done already", state.shard, extra=event("shard_skipped", shard=state.shard)
    )
    return None


def is_open(state: ShardState, max_bad: float) -> bool:
    """Say whether there is work on a shard: it is not committed, or has too many bad rows."""
    if state.commit is None:
        return True
    return not state.is_imported and _is_too_bad(state.commit, max_bad)


def _is_too_bad(commit: ShardCommit, max_bad: float) -> bool:
    return _num_bad(commit) > max_bad * (commit.stop - commit.start)


def _num_bad(commit: ShardCommit) -> int:
    """Count the rows that lack an embedding and should not."""
    return commit.num_bad - commit.reasons.get(f"image: {RETIRED}", 0)


def _check_bad(workspace: Storage, commit: ShardCommit, max_bad: float) -> None:
    num_rows, num_bad = commit.stop - commit.start, _num_bad(commit)
    if _is_too_bad(commit, max_bad):
        reasons = sorted(commit.reasons.items(), key=lambda each: -each[1])
        shown = ", ".join(f"{num} {reason!r}" for reason, num in reasons[:3])
        raise TooManyBadRowsError(
            f"{num_bad} of {num_rows} rows lack an image or title "
            f"({num_bad / num_rows:.1%}, allowed are {max_bad:.1%}): {shown}",
            where=f"{workspace.where(rows_name(commit.shard))}, column error",
            fix="mend the files and run the same command again, or raise --max-bad",
        )
