"""Progress of anything slow: a bar on a terminal, else a log line every 30 seconds."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)
_LOG_SECONDS = 30.0


class Progress:
    """Counts what is done and shows the rate and the time left, on stderr."""

    def __init__(
        self, what: str, total: int, unit: str = "item", *, is_shown: bool = True, done: int = 0
    ) -> None:
        """Start counting.

        Args:
            what: shown in front, such as "embed shard 3".
            total: number of units at the end.
            unit: singular name of what is counted.
            is_shown: False to count in silence, as one of several processes.
            done: units that were done before.
        """
        self._what, self._total, self._unit = what, total, unit
        self._is_shown, self._is_terminal = is_shown, sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=unit,
            disable=not (is_shown and self._is_terminal),
        )
        self._done = self._before = done
        self._started = self._logged = time.monotonic()

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bar."""
        self._bar.close()

    def update(self, num: int) -> None:
        """Count `num` more units as done."""
        self._done += num
        self._bar.update(num)
        now = time.monotonic()
        if self._is_shown and not self._is_terminal and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            rate = (self._done - self._before) / (now - self._started)
            logger.info(
                "%s: %s of %s, %.0f %ss/s, %s left",
                self._what,
                f"{self._done:,}",
                f"{self._total:,}",
                rate,
                self._unit,
                duration((self._total - self._done) / rate) if rate else "unknown",
            )


def duration(seconds: float) -> str:
    """Return a time as people say it: 41 s, 3 min 20 s, 5 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
