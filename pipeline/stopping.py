"""Ctrl-C and SIGTERM while something trains: end at the next step, with everything kept."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 2.0


class Stop:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        """Nobody has."""
        self.reason = ""
        self._asked = 0.0

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal; one that comes seconds after it interrupts at once.

        Not sooner: torchrun hands on to its processes what a terminal has sent to all of them.
        """
        del frame
        now = time.monotonic()
        if self.reason:
            if now - self._asked > _AGAIN_SECONDS:
                raise KeyboardInterrupt
            return
        self._asked = now
        self.reason = signal.Signals(number).name
        logger.info("%s: stopping after this step; once more to stop at once", self.reason)


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Give what SIGINT and SIGTERM set; outside the main thread nobody can ask."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
