"""A small shop with a finished run, and `python cli.py serve` on it as a process."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cache.reader import read_plan
from cache.storage import LocalStorage
from pipeline.embed import embed
from pipeline.encoder import Encoder, load_encoder
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.plan import make_plan
from pipeline.run_classifier import RunClassifier, open_classifier
from pipeline.runs import find_folder
from schemas.run import FitConfig, PredictConfig
from tests.fakes import CPU, picture_bytes, write_catalog

ROOT = Path(__file__).parents[1]
NUM_ITEMS = 200
NUM_LABELS = 8
TITLES = [f"thing {i % NUM_LABELS} in {i % 7}" if i % 9 else None for i in range(NUM_ITEMS)]
PICTURES = [
    picture_bytes((30 * (i % NUM_LABELS), 7 * i % 256, 90)) if i % 8 else None
    for i in range(NUM_ITEMS)
]


@dataclass(frozen=True)
class Shop:
    """A workspace with one finished run of a real, small encoder."""

    workspace: LocalStorage
    run: str

    def model(self, num_top: int = 5) -> tuple[RunClassifier, Encoder]:
        """Load what `predict` would."""
        config = PredictConfig(runs=(self.run,), num_top=num_top)
        folder = find_folder(self.workspace, self.run)
        classifier = open_classifier([folder], config, torch.device("cpu"))
        return classifier, load_encoder(classifier.encoder, "cpu", "float32")


def make_shop(folder: Path, small_model: Path) -> Shop:
    """Plan, embed, link labels and train."""
    workspace = LocalStorage(folder)
    items, labels = write_catalog(
        folder / "catalog", num_items=NUM_ITEMS, num_labels=NUM_LABELS, title=TITLES, image=PICTURES
    )
    model = f"local-dir:{small_model}"
    make_plan(workspace, items=items, labels=labels, model=model, pretrained="", device="cpu")
    plan = read_plan(workspace)
    encoder = load_encoder(plan.encoder, "cpu", "float32")
    embed(workspace, plan, [0], lambda: encoder, with_labels=True, max_bad=1.0, num_workers=0)
    write_neighbors(workspace, plan, k=3)
    config = FitConfig(approach="1", epochs=4, batch_size=16, hidden_dim=16, lr=0.01)
    return Shop(workspace, fit(workspace, plan, config, runtime=CPU).name)


class Served:
    """A running service."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until it is ready; what it says is read from then on."""
        self.process, self.lines = process, []
        self.address = ""
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line.rstrip())
            if found := re.match(r"ready: (http://\S+)", line):
                self.address = found[1]
                break
        assert self.address, self.lines
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += [line.rstrip() for line in self.process.stderr]

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def peak_bytes(self) -> int:
        """Return the most memory that the process had so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", text)[1])

    def resident_bytes(self) -> int:
        """Return the memory that the process has."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])


@contextlib.contextmanager
def served(shop: Shop, *options: str) -> Iterator[Served]:
    """Run `serve` at a free port."""
    place = ["--workspace", shop.workspace.location]
    rest = ["--port", "0", "--device", "cpu", "--compute-dtype", "float32", "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "cli.py", "serve", shop.run, *place, *rest, *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            found = Served(process)
            yield found
            found.stop()
        finally:
            process.kill()
