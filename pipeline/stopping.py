"""Ctrl-C and SIGTERM while something trains: end at the next step, with everything kept."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)


class Stop:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        """Nobody has."""
        self.reason = ""

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal; a second one interrupts at once."""
        del frame
        if self.reason:
            raise KeyboardInterrupt
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
