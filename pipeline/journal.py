"""What a run says of its epochs: history.jsonl and TensorBoard events."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class Journal:
    """Lines of a run's epochs; a context manager."""

    def __init__(self, folder: Path | None) -> None:
        """Name the folder; without one nothing is written."""
        self._folder = folder

    def __enter__(self) -> "Journal":
        if self._folder is not None:
            self._events = SummaryWriter(str(self._folder))
            self._history = (self._folder / "history.jsonl").open("w", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            self._events.close()
            self._history.close()

    def write(self, row: dict[str, float]) -> None:
        """Add the line of an epoch."""
        if self._folder is None:
            return
        self._history.write(json.dumps(row) + "\n")
        self._history.flush()
        for name, value in row.items():
            self._events.add_scalar(name, value, row["epoch"])
