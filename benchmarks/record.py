"""Append a benchmark's figures, with the machine they were measured on, to benchmarks/results."""

import datetime
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def append(name: str, figures: dict[str, Any]) -> None:
    """Add one line of JSON to results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        **figures,
    }
    with (RESULTS / f"{name}.json").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def machine() -> dict[str, Any]:
    """Describe where a figure was measured."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match[1] if match else platform.machine()
