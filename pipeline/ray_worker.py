"""What runs on the nodes of a Ray cluster: an encoder that takes shards."""

import contextlib
import logging
import logging.handlers
from collections import deque
from dataclasses import dataclass
from typing import Any

from cache.reader import read_plan
from cache.storage import open_storage
from pipeline.logs import LOGGERS
from pipeline.shard_embedder import ShardEmbedder

LABELS = -1
"""The task of embedding the labels; any other is the shard of that number."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How the workers embed."""

    num_workers: int | None
    """Decoding processes of a worker; None for as many as it has cores."""
    device: str
    compute_dtype: str
    embedder: dict[str, Any]
    """Further options of `ShardEmbedder`."""


class StopAskedError(Exception):
    """The run ends before its shards do."""


class Worker:
    """An actor: one encoder, which takes shards."""

    def __init__(self, location: str, node: str, options: WorkerOptions, num_cores: int) -> None:
        self._records: deque[logging.LogRecord] = deque(maxlen=10_000)
        self._task, self._num_items, self._is_stopped = LABELS, 0, False
        self._log(node)
        self._location, self._options, self._num_cores = location, options, num_cores

    def _log(self, node: str) -> None:
        """Keep what is logged, for the process that shows it."""
        keeper = _Keeper(self._records, node)
        for name in LOGGERS:
            log = logging.getLogger(name)
            log.handlers[:] = [keeper]
            log.setLevel(logging.INFO)
            log.propagate = False

    def load(self) -> None:
        """Load the encoder, so that a node that cannot is known before it takes a shard."""
        from pipeline.device import keep_freed_memory
        from pipeline.encoder import find_weights, load_encoder

        keep_freed_memory()
        options = self._options
        workspace = open_storage(self._location)
        plan = read_plan(workspace)
        spec = find_weights(plan.encoder)
        num_workers = options.num_workers
        if num_workers is None:
            num_workers = max(1, self._num_cores)
        self._embedder = ShardEmbedder(
            workspace,
            plan,
            lambda: load_encoder(spec, options.device, options.compute_dtype),
            num_workers=num_workers,
            checksums=False,
            report=self._report,
            **options.embedder,
        )
        _ = self._embedder.encoder

    def embed(self, task: int) -> int:
        """Embed a shard, or the labels; return how many items were."""
        self._task, self._num_items = task, 0
        if task == LABELS:
            self._embedder.embed_labels()
        else:
            self._embedder.embed(task)
        return self._num_items

    def look(self) -> tuple[int, int, list[logging.LogRecord]]:
        """Return the task, how many of its items are decoded, and what was logged meanwhile.

        Runs beside `embed`, in a thread of its own, as does `stop`.
        """
        records = []
        with contextlib.suppress(IndexError):
            while True:
                records.append(self._records.popleft())
        return self._task, self._num_items, records

    def stop(self) -> None:
        """Have `embed` end soon; finished chunks are kept, and the lease is freed."""
        self._is_stopped = True

    def _report(self, num_items: int) -> None:
        self._num_items += num_items
        if self._is_stopped:
            raise StopAskedError


class _Keeper(logging.handlers.QueueHandler):
    """Keeps records ready for sending; how far a shard is, `look` says."""

    def __init__(self, records: deque[logging.LogRecord], node: str) -> None:
        super().__init__(records)  # type: ignore[arg-type]  # only `enqueue` uses it
        self._node = node

    def enqueue(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) != "progress":
            record.host = self._node
            record.msg = record.message = f"{self._node}: {record.msg}"
            self.queue.append(record)  # type: ignore[attr-defined]
