"""Progress of anything slow: a bar on a terminal, else a log line every 30 seconds."""

import logging
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from pipeline.logs import event, is_bar_shown

logger = logging.getLogger(__name__)
_LOG_SECONDS = 30.0


class Progress:
    """Counts what is done and shows the rate and the time left, on stderr."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "item",
        *,
        is_shown: bool = True,
        done: int = 0,
        **values: Any,
    ) -> None:
        """Start counting.

        Args:
            what: shown in front, such as "embed shard 3".
            total: number of units at the end.
            unit: singular name of what is counted.
            is_shown: False to count in silence, as one of several processes.
            done: units that were done before.
            values: of its log events, beside what is counted.
        """
        self._values, self._note = values, ""
        self._what, self._total, self._unit = what, total, unit
        self._is_shown, self._is_terminal = is_shown, is_bar_shown()
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

    def note(self, text: str, **values: Any) -> None:
        """Show a text behind the rate from now on; its values go into the log events."""
        self._note = text
        self._values |= values
        self._bar.set_postfix_str(text, refresh=False)

    def update(self, num: int) -> None:
        """Count `num` more units as done."""
        self._done += num
        self._bar.update(num)
        now = time.monotonic()
        if self._is_shown and not self._is_terminal and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            rate = (self._done - self._before) / (now - self._started)
            seconds_left = (self._total - self._done) / rate if rate else None
            logger.info(
                "%s: %s of %s, %.0f %ss/s, %s left%s",
                self._what,
                f"{self._done:,}",
                f"{self._total:,}",
                rate,
                self._unit,
                "unknown" if seconds_left is None else duration(seconds_left),
                self._note and f"; {self._note}",
                extra=event(
                    "progress",
                    what=self._what,
                    unit=self._unit,
                    done=self._done,
                    total=self._total,
                    per_second=round(rate, 1),
                    seconds_left=seconds_left,
                    **self._values,
                ),
            )


def duration(seconds: float) -> str:
    """Return a time as people say it: 41 s, 3 min 20 s, 5 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
