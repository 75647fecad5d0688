"""Micro-batching: what waits goes together, in order, and the queue has an end."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline.serve_batches import Batches, QueueFullError


class Doubler:
    """A lane that doubles numbers when it may, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        assert self.may_go.wait(20)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


@contextlib.contextmanager
def batching(
    *lanes: Callable[[list[int]], list[int]], batch_size: int = 4, max_waiting: int = 100
) -> Iterator[Batches[int, int]]:
    found = Batches[int, int](
        lanes,
        batch_size=batch_size,
        wait_seconds=0.01,
        max_waiting=max_waiting,
        report=lambda _: None,
    )
    try:
        yield found
    finally:
        assert found.close(20)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_true():
            await asyncio.sleep(0.005)


def test_requests_that_wait_go_in_one_batch() -> None:
    """Up to the batch size, first come, first served."""

    async def run() -> None:
        lane = Doubler()
        with batching(lane) as batches:
            lane.may_go.clear()
            first = asyncio.create_task(batches.answer([1]))
            await until(lambda: bool(lane.batches))
            others = [asyncio.create_task(batches.answer([item])) for item in range(2, 9)]
            await until(lambda: batches.num_waiting == 7)
            lane.may_go.set()
            assert await first == [2]
            assert await asyncio.gather(*others) == [[2 * item] for item in range(2, 9)]
        assert lane.batches == [[1], [2, 3, 4, 5], [6, 7, 8]]

    asyncio.run(run())


def test_an_idle_service_waits_a_moment_for_company() -> None:
    """Eight clients that send within the moment are one batch, not one and seven."""

    async def run() -> None:
        lane = Doubler()
        with batching(lane, batch_size=8) as batches:
            await asyncio.gather(*(batches.answer([item]) for item in range(8)))
            started = time.monotonic()
            await batches.answer([9])
            assert time.monotonic() - started < 5
        assert lane.batches == [list(range(8)), [9]]

    asyncio.run(run())


def test_a_large_request_is_cut_and_put_together_again() -> None:
    """Batches are of a size; requests are of another."""

    async def run() -> None:
        lane = Doubler()
        with batching(lane, lane) as batches:
            assert await batches.answer(list(range(30, 43))) == [2 * i for i in range(30, 43)]
        assert max(map(len, lane.batches)) <= 4

    asyncio.run(run())


def test_a_full_queue_refuses_whole_requests() -> None:
    """Never a part of one: its answers would be of no use."""

    async def run() -> None:
        lane = Doubler()
        lane.may_go.clear()
        with batching(lane, max_waiting=3) as batches:
            first = asyncio.create_task(batches.answer([1]))
            await until(lambda: bool(lane.batches))
            second = asyncio.create_task(batches.answer([2, 3]))
            await until(lambda: batches.num_waiting == 2)
            with pytest.raises(QueueFullError):
                await batches.answer([4, 5])
            assert batches.num_waiting == 2
            lane.may_go.set()
            assert (await first, await second) == ([2], [4, 6])

    asyncio.run(run())


def test_items_that_nobody_waits_for_any_more_are_not_computed() -> None:
    """After a deadline the work would be in vain, when there is least time for it."""

    async def run() -> None:
        lane = Doubler()
        lane.may_go.clear()
        with batching(lane) as batches:
            first = asyncio.create_task(batches.answer([1]))
            await until(lambda: bool(lane.batches))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(batches.answer([2]), 0.05)
            last = asyncio.create_task(batches.answer([3]))
            await until(lambda: batches.num_waiting == 2)
            lane.may_go.set()
            assert (await first, await last) == ([2], [6])
        assert lane.batches == [[1], [3]]

    asyncio.run(run())


def test_a_batch_that_fails_takes_nothing_else_along() -> None:
    """Its requests hear of it, and the lane goes on."""

    async def run() -> None:
        lane = Doubler()
        with batching(lane) as batches:
            with pytest.raises(ValueError, match="13"):
                await batches.answer([13])
            assert await batches.answer([14]) == [28]

    asyncio.run(run())


def test_one_lane_decodes_while_another_embeds() -> None:
    """Two batches are under way at a time; a third waits."""

    async def run() -> None:
        one, other = Doubler(), Doubler()
        one.may_go.clear()
        other.may_go.clear()
        with batching(one, other, batch_size=1) as batches:
            asked = [asyncio.create_task(batches.answer([item])) for item in (1, 2, 3)]
            await until(lambda: bool(one.batches) and bool(other.batches))
            assert batches.num_waiting == 1
            one.may_go.set()
            other.may_go.set()
            assert await asyncio.gather(*asked) == [[2], [4], [6]]

    asyncio.run(run())


def test_a_lane_that_hangs_does_not_keep_the_service_from_ending() -> None:
    """It is said, and the process can end."""

    async def run() -> None:
        lane = Doubler()
        lane.may_go.clear()
        with batching(lane) as batches:
            asked = asyncio.create_task(batches.answer([1]))
            await until(lambda: bool(lane.batches))
            assert not batches.close(0.05)
            lane.may_go.set()
            assert await asked == [2]

    asyncio.run(run())
