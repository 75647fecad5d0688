"""Decode pictures in worker processes, some tasks ahead of their use, in order.

Workers import Pillow and NumPy, never torch, and write pixels into memory that they share with the
main process. A worker that dies (a bug in a decoder, a machine out of memory) is replaced; the
picture that kills it twice gets a reason like any other bad one. Where a device decodes plain JPEGs
itself, workers get the rest.

B pictures of a task, H, W height and width in pixels.
"""

import contextlib
import logging
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import numpy as np
from jaxtyping import UInt8

from pipeline.pictures import PictureError, load
from schemas.plan import Preprocess

logger = logging.getLogger(__name__)

TASK_PICTURES = 16
_PICTURES_AHEAD = 512
_MAX_BYTES_AHEAD = 2**30  # of encoded pictures

Tag = TypeVar("Tag")
_Errors = tuple[list[str | None], float]


@dataclass(frozen=True)
class Decoded(Generic[Tag]):
    """A task's outcome."""

    tag: Tag
    """What came with the task."""
    pixels: UInt8[np.ndarray, "B H W 3"]
    """Valid until the next outcome is asked for; meaningless where there is an error."""
    errors: list[str | None]
    """Why a picture could not be decoded, None where it was."""


class JpegDecoder(Protocol):
    """What the pool needs of a device's decoder; `pipeline.device_jpeg.DeviceJpegs` in earnest."""

    def takes(self, picture: bytes) -> bool:
        """Say whether a picture is its to decode; decided by the picture alone."""

    def decode(self, pictures: list[bytes]) -> UInt8[np.ndarray, "B H W 3"]:
        """Decode pictures that it takes. Raises: RuntimeError if it cannot."""


@dataclass(frozen=True)
class _Job:
    """Pictures of a task that are decoded together."""

    places: Sequence[int]
    """Where they stand in the task."""
    future: Future[_Errors] | None
    """None: they are decoded when their turn comes, as there are no workers, or the pool broke."""
    is_on_device: bool = False


class DecodePool:
    """Worker processes; a context manager."""

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        is_scaled: bool,
        num_workers: int,
        jpegs: JpegDecoder | None = None,
    ) -> None:
        """Say how pictures are decoded.

        Args:
            preprocess: size and resize mode of the encoder's input.
            is_scaled: as in `pictures.load`.
            num_workers: processes; 0 decodes in this one.
            jpegs: decodes what it takes in place of the workers.
        """
        self.num_workers, self.jpegs = num_workers, jpegs
        self._worker_seconds = self._device_seconds = 0.0
        self._preprocess, self._is_scaled = preprocess, is_scaled
        num_slots = _PICTURES_AHEAD // TASK_PICTURES + num_workers if num_workers else 1
        self._shape = (num_slots, TASK_PICTURES, *preprocess.size, 3)
        # Not /dev/shm: containers give it 64 MB by default and kill who writes more.
        self._descriptor = os.memfd_create("shelfwise-pixels")
        os.ftruncate(self._descriptor, int(np.prod(self._shape)))
        self._slots = _map_slots(self._descriptor, self._shape)
        self._executor: ProcessPoolExecutor | None = None
        self._device_thread = ThreadPoolExecutor(1)

    @property
    def seconds(self) -> float:
        """Least seconds that decoding alone would have taken so far."""
        return max(self._worker_seconds / max(self.num_workers, 1), self._device_seconds)

    def __enter__(self) -> "DecodePool":
        """Start the workers."""
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the workers."""
        self._device_thread.shutdown(cancel_futures=True)
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        os.close(self._descriptor)

    def _start(self) -> None:
        if not self.num_workers:
            return
        # Not fork: torch's and our own threads may hold locks at that moment.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipeline.pictures"])
        where = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._executor = ProcessPoolExecutor(
            self.num_workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(where, self._shape, self._preprocess, self._is_scaled),
        )

    def decode(self, tasks: Iterable[tuple[Tag, list[bytes]]]) -> Iterator[Decoded[Tag]]:
        """Yield the tasks' outcomes in order.

        Args:
            tasks: a tag and at most TASK_PICTURES encoded pictures each; read some tasks ahead.
        """
        waiting = iter(tasks)
        free = deque(range(len(self._slots)))
        pending: deque[tuple[Tag, list[bytes], int, list[_Job]]] = deque()
        is_open, num_bytes = True, 0
        while is_open or pending:
            while is_open and free and (num_bytes < _MAX_BYTES_AHEAD or not pending):
                task = next(waiting, None)
                if task is None:
                    is_open = False
                    break
                slot = free.popleft()
                num_bytes += sum(map(len, task[1]))
                pending.append((*task, slot, self._submit_all(slot, task[1])))
            if not pending:
                break
            tag, pictures, slot, jobs = pending.popleft()
            errors = self._outcome(pictures, slot, jobs)
            yield Decoded(tag, self._slots[slot][: len(pictures)], errors)
            free.append(slot)
            num_bytes -= sum(map(len, pictures))

    def _submit_all(self, slot: int, pictures: list[bytes]) -> list[_Job]:
        """Start to decode a task."""
        plain: list[int] = []
        others: list[int] = []
        for place, picture in enumerate(pictures):
            is_plain = self.jpegs is not None and self.jpegs.takes(picture)
            (plain if is_plain else others).append(place)
        jobs = []
        if plain:
            future = self._device_thread.submit(self._decode_on_device, slot, plain, pictures)
            jobs.append(_Job(plain, future, is_on_device=True))
        if others:
            jobs.append(_Job(others, self._submit(slot, others, pictures)))
        return jobs

    def _submit(
        self, slot: int, places: Sequence[int], pictures: list[bytes]
    ) -> Future[_Errors] | None:
        if self._executor is None:
            return None
        try:
            with _without_main_module():  # a call may start a worker
                chosen = [pictures[place] for place in places]
                return self._executor.submit(_decode_there, slot, places, chosen)
        except BrokenProcessPool:
            return None

    def _decode_on_device(self, slot: int, places: list[int], pictures: list[bytes]) -> _Errors:
        assert self.jpegs is not None
        started = time.perf_counter()
        self._slots[slot][places] = self.jpegs.decode([pictures[place] for place in places])
        return [None] * len(places), time.perf_counter() - started

    def _outcome(self, pictures: list[bytes], slot: int, jobs: list[_Job]) -> list[str | None]:
        errors: list[str | None] = [None] * len(pictures)
        for job in jobs:
            for place, error in zip(job.places, self._finish(pictures, slot, job), strict=True):
                errors[place] = error
        return errors

    def _finish(self, pictures: list[bytes], slot: int, job: _Job) -> list[str | None]:
        """Wait for a job; do it again, in other ways, where it failed."""
        if job.is_on_device and job.future is not None:
            try:
                errors, seconds = job.future.result()
            except RuntimeError as error:
                logger.info("decoded by Pillow, as the device refused: %s", error)
                job = _Job(job.places, self._submit(slot, job.places, pictures))
            else:
                self._device_seconds += seconds
                return errors
        if not self.num_workers:
            chosen = [pictures[place] for place in job.places]
            errors, seconds = _decode_to(
                self._slots[slot], job.places, chosen, self._preprocess, is_scaled=self._is_scaled
            )
        else:
            try:
                found = job.future.result() if job.future else None  # None: the pool broke before
            except BrokenProcessPool:
                found = None
            if found is None:
                return [self._alone(pictures, slot, place) for place in job.places]
            errors, seconds = found
        self._worker_seconds += seconds
        return errors

    def _alone(self, pictures: list[bytes], slot: int, place: int) -> str | None:
        """Decode one picture of a task whose worker died, in a pool without other work."""
        for _ in range(2):
            future = self._submit(slot, [place], pictures)
            if future is None:  # broken by another picture
                self._start()
                future = self._submit(slot, [place], pictures)
            try:
                found = future.result() if future else None
            except BrokenProcessPool:
                found = None
            if found is None:
                self._executor = None
                continue
            errors, seconds = found
            self._worker_seconds += seconds
            return errors[0]
        self._start()
        return "decoder died: its process was killed, twice"


_hiding_main = threading.Lock()  # of two pools at a time one would put back the other's stand-in


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Hide the main script from processes that start.

    A worker would import it first of all: one that imports torch costs each worker 5 seconds and
    700 MB, and one without `if __name__ == "__main__"` would run again.
    """
    with _hiding_main:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _map_slots(descriptor: int, shape: tuple[int, ...]) -> UInt8[np.ndarray, "slots B H W 3"]:
    return np.frombuffer(mmap.mmap(descriptor, int(np.prod(shape))), np.uint8).reshape(shape)


def _decode_to(
    out: UInt8[np.ndarray, "B H W 3"],
    places: Sequence[int],
    pictures: list[bytes],
    preprocess: Preprocess,
    *,
    is_scaled: bool,
) -> _Errors:
    """Decode pictures to their places in `out`; return their errors and the time it took."""
    started = time.perf_counter()
    errors: list[str | None] = []
    for place, data in zip(places, pictures, strict=True):
        try:
            out[place] = load(data, preprocess, is_scaled=is_scaled)
            errors.append(None)
        except PictureError as error:
            errors.append(str(error))
    return errors, time.perf_counter() - started


# What follows runs in a worker.

_worker: tuple[UInt8[np.ndarray, "slots B H W 3"], Preprocess, bool] | None = None


def _start_worker(
    where: str, shape: tuple[int, ...], preprocess: Preprocess, is_scaled: bool
) -> None:
    global _worker  # set once, a worker's only state
    # The main process decides when to stop.
    # SIGTERM stays deadly: with it the executor ends the others when one of them was killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_main, daemon=True).start()
    descriptor = os.open(where, os.O_RDWR)
    _worker = _map_slots(descriptor, shape), preprocess, is_scaled
    os.close(descriptor)


def _end_with_main() -> None:
    """End when the main process was killed: neither the queue nor the fork server would tell."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _decode_there(slot: int, places: Sequence[int], pictures: list[bytes]) -> _Errors:
    assert _worker is not None
    slots, preprocess, is_scaled = _worker
    return _decode_to(slots[slot], places, pictures, preprocess, is_scaled=is_scaled)
