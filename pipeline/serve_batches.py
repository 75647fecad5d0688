"""Items of many requests in batches: a bounded queue, and lanes that take what waits.

A lane is a thread that decodes and embeds one batch at a time; with two of them one batch is
decoded while another is embedded. Under load a batch is what came while the last one was under
way, and nothing waits for the clock; an idle service waits some milliseconds for company.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

_MAX_PAUSES = 5

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class QueueFullError(Exception):
    """More items wait than may."""


@dataclass(frozen=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    future: asyncio.Future[Answer]


class Batches(Generic[Item, Answer]):
    """A queue and its lanes. All but the lanes is called in the event loop's thread."""

    def __init__(
        self,
        lanes: Sequence[Callable[[list[Item]], Sequence[Answer]]],
        *,
        batch_size: int,
        wait_seconds: float,
        max_waiting: int,
        report: Callable[[int], None],
    ) -> None:
        """Start the lanes; call in a running event loop.

        Args:
            lanes: each answers a batch, in order, in a thread of its own.
            batch_size: most items of a batch.
            wait_seconds: how long a batch waits for one more item where nothing is under way; five
                times that at most.
            max_waiting: most items in the queue.
            report: told each batch's size, by its lane.
        """
        self._loop = asyncio.get_running_loop()
        self._batch_size, self._wait_seconds = batch_size, wait_seconds
        self._max_waiting, self._report = max_waiting, report
        self._queue: deque[_Waiting[Item, Answer]] = deque()
        self._changed = threading.Condition()
        self._taking = threading.Lock()  # one lane fills its batch; two would share what comes
        self._num_busy = 0
        self._is_closed = False
        # Daemons: a batch that hangs in a library must not keep the process alive.
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), daemon=True, name=f"lane-{number}")
            for number, lane in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """How many items are in the queue."""
        return len(self._queue)

    def check_room(self, num_items: int = 1) -> None:
        """Look whether so many items would be taken. Raises: QueueFullError."""
        if len(self._queue) + num_items > self._max_waiting:
            raise QueueFullError

    async def answer(self, items: Sequence[Item]) -> list[Answer]:
        """Queue items and wait for their answers; those of a caller that is canceled are dropped.

        Raises: QueueFullError if not all of them fit; what a lane raised.
        """
        self.check_room(len(items))
        waiting = [_Waiting(item, self._loop.create_future()) for item in items]
        with self._changed:
            self._queue.extend(waiting)
            self._changed.notify_all()
        return list(await asyncio.gather(*(each.future for each in waiting)))

    def close(self, timeout_seconds: float) -> bool:
        """Answer what waits, and end the lanes; say whether they did end in time."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        end = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, lane: Callable[[list[Item]], Sequence[Answer]]) -> None:
        while batch := self._take():
            try:
                self._report(len(batch))
                answers = lane([each.item for each in batch])
                assert len(answers) == len(batch)
            except Exception as error:  # its requests fail, the service goes on
                logger.exception("a batch of %d items failed", len(batch))
                self._tell(_fail, batch, error)
            else:
                self._tell(_deliver, batch, answers)
            finally:
                with self._changed:
                    self._num_busy -= 1

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _take(self) -> list[_Waiting[Item, Answer]]:
        """Wait for a batch; an empty one says that no more will come."""
        with self._taking, self._changed:
            while True:
                while not self._queue and not self._is_closed:
                    self._changed.wait()
                if not self._num_busy:
                    self._wait_for_company()
                batch: list[_Waiting[Item, Answer]] = []
                while self._queue and len(batch) < self._batch_size:
                    each = self._queue.popleft()
                    if not each.future.cancelled():  # else nobody waits for it any more
                        batch.append(each)
                if batch or (self._is_closed and not self._queue):
                    self._num_busy += bool(batch)
                    return batch

    def _wait_for_company(self) -> None:
        """Wait while others keep coming, for a few times the longest pause between two of them."""
        end = time.monotonic() + _MAX_PAUSES * self._wait_seconds
        while len(self._queue) < self._batch_size and not self._is_closed:
            num_before = len(self._queue)
            pause = min(self._wait_seconds, end - time.monotonic())
            if pause <= 0:
                return
            self._changed.wait_for(lambda: self._is_closed, pause)
            if len(self._queue) == num_before:
                return


def _deliver(batch: Sequence[_Waiting[Item, Answer]], answers: Sequence[Answer]) -> None:
    for each, answer in zip(batch, answers, strict=True):
        if not each.future.done():
            each.future.set_result(answer)


def _fail(batch: Sequence[_Waiting[Item, Answer]], error: Exception) -> None:
    for each in batch:
        if not each.future.done():
            each.future.set_exception(error)
