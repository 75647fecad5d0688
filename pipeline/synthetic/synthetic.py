"""The paper's experiment with binary codes on the synthetic sets, from images to verdict.

Writes into one folder: a contact sheet of each set, runs/<set>/<arm>-s<seed>/ with result.json and
TensorBoard events, learning.png, results.md and results.json. Runs that are there are reused, so
more seeds cost only themselves. Sixty runs of one thread each: see docs/codes.md for the time.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from cache.storage import LocalStorage
from pipeline.progress import Progress
from pipeline.synthetic.experiment import ARMS, Curve, SyntheticConfig, train
from pipeline.synthetic.report import plot_learning, plot_samples, record, results_table
from pipeline.synthetic.shapes import SETS
from pipeline.text_table import TextTable
from schemas.configs import from_json, to_json
from schemas.errors import ConfigError, FitError

logger = logging.getLogger(__name__)

EPOCHS = {"rectangle-triangle": 30, "circle-square": 10}


@dataclass(frozen=True, kw_only=True)
class SyntheticResult:
    """What the experiment found."""

    tables: tuple[TextTable, ...]
    """One a set."""
    record: dict[str, Any]
    """What the JSON says."""
    files: tuple[str, ...]
    """What was written, but for the runs."""


def run_synthetic(
    folder: LocalStorage, *, num_seeds: int = 10, epochs: int | None = None
) -> SyntheticResult:
    """Train what is missing and report.

    Args:
        folder: to write to.
        num_seeds: runs of each arm on each set, with seeds 0, 1, ...; at least 2.
        epochs: of each run; None: as many as each set needs.
    Raises: ConfigError; WorkspaceError if the folder cannot be written.
    """
    if num_seeds < 2:
        raise ConfigError(
            f"{num_seeds} seeds give no interval", where="--seeds", fix="use 2 or more"
        )
    if epochs is not None and epochs < 1:
        raise ConfigError(f"{epochs} epochs", where="--epochs", fix="use 1 or more")
    folder.check_writable()
    for name in SETS:
        folder.write(f"{name}.png", plot_samples(name))
    configs = [
        SyntheticConfig(images=name, arm=arm, seed=seed, epochs=epochs or EPOCHS[name])
        for name in SETS
        for seed in range(num_seeds)
        for arm in ARMS
    ]
    curves: dict[str, dict[str, list[Curve]]] = {name: {arm: [] for arm in ARMS} for name in SETS}
    for curve in _curves(folder, configs):
        curves[curve.config.images][curve.config.arm].append(curve)
    tables = tuple(results_table(name, curves[name]) for name in SETS)
    found = record(curves)
    files = {
        "learning.png": plot_learning(curves),
        "results.md": "\n".join(table.markdown() for table in tables).encode(),
        "results.json": (json.dumps(found, indent=2) + "\n").encode(),
    }
    for file, data in files.items():
        folder.write(file, data)
    written = [*(f"{name}.png" for name in SETS), *files]
    return SyntheticResult(tables=tables, record=found, files=tuple(map(folder.where, written)))


def _curves(folder: LocalStorage, configs: Sequence[SyntheticConfig]) -> list[Curve]:
    """Return the runs' curves in order; those that are missing are trained, one a core."""
    found = {config: _read(folder, config) for config in configs}
    missing = [config for config, curve in found.items() if curve is None]
    with Progress("synthetic", len(configs), "run", done=len(configs) - len(missing)) as progress:
        for made in _train_all(missing):
            _write(folder, made)
            found[made.config] = made
            progress.update(1)
    return [curve for config in configs if (curve := found[config]) is not None]


def _train_all(configs: Sequence[SyntheticConfig]) -> Iterator[Curve]:
    num_workers = min(len(configs), len(os.sched_getaffinity(0)))
    if num_workers < 1:
        return
    with ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=_use_one_thread
    ) as pool:
        futures = [pool.submit(train, config) for config in configs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise FitError(
                f"a process that trained was killed: {error}",
                where="synthetic",
                fix="see whether memory is short, and run it again: what is finished is kept",
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _use_one_thread() -> None:
    torch.set_num_threads(1)  # with another number sums round otherwise


def _place(config: SyntheticConfig) -> str:
    """Return a run's folder; one of other epochs does not take the place of the usual one."""
    words = [config.arm.replace(",", "").replace(" ", "-"), f"s{config.seed}"]
    if config.epochs != EPOCHS[config.images]:
        words.append(f"e{config.epochs}")
    return f"runs/{config.images}/{'-'.join(words)}"


def _read(folder: LocalStorage, config: SyntheticConfig) -> Curve | None:
    """Return a run of this very config that is there."""
    name = f"{_place(config)}/result.json"
    try:
        text = folder.read(name).decode()
        curve = from_json(Curve, text, where=folder.where(name), fix="delete it")
    except FileNotFoundError:
        return None
    except (ConfigError, UnicodeDecodeError) as error:
        logger.warning("%s is made again: %s", folder.where(name), error)
        return None
    return curve if curve.config == config else None


def _write(folder: LocalStorage, curve: Curve) -> None:
    """Write a run, its result last."""
    place = _place(curve.config)
    for name in folder.sizes(place):
        folder.remove(name)
    with SummaryWriter(str(Path(folder.root) / place)) as events:
        for step, loss, accuracy in zip(curve.steps, curve.losses, curve.accuracies, strict=True):
            events.add_scalar("train/loss", loss, step)
            events.add_scalar("test/accuracy", accuracy, step)
    folder.write(f"{place}/result.json", to_json(curve).encode())
