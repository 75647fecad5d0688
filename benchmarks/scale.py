"""Measure load, training and evaluation of one run from 10 thousand to 12 million items.

    python benchmarks/scale.py [--sizes 100000,1000000,3000000] [--hidden-dim 1024] [--epochs 1]
        [--residency auto] [--folder FOLDER]

Makes a simulated catalog of each size over 4,350 labels (scale_catalog.py; not timed), then runs
approach 5 in a process of its own: one batch size and one head at all sizes, so that the time of an
item is to be the same. Printed and appended to benchmarks/results/scale.json: seconds to open
(items, rows, graph), to load or check the embeddings, to train, to evaluate; time of an item;
peak memory of the process; top1. `--plot` draws what the results file holds as docs/scale.png.
12 million items need 25 GB of disk. A small --hidden-dim leaves less time to hide behind.

N items, H hidden width.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, append
from scale_catalog import NUM_LABELS, make_scale_catalog

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import PLAN, read_plan
from cache.storage import LocalStorage
from pipeline.device import keep_freed_memory, pick_device
from pipeline.fit import build_targets
from pipeline.predictions import Classifier, measure_predictions, network_inputs, predict
from pipeline.ranks import ALONE
from pipeline.runs import make_record
from pipeline.speed import peak_bytes, products_of
from pipeline.stopping import Stop
from pipeline.tensors import FitData
from pipeline.trainer import Trainer
from schemas.run import FitConfig, FitRuntime

DOCS = Path(__file__).parents[1] / "docs"
SIZES = "100000,300000,1000000,3000000"


def measure_here(
    folder: Path,
    configs: Sequence[FitConfig],
    runtime: FitRuntime,
    *,
    compute_dtype: str | None = None,
) -> list[dict[str, Any]]:
    """Open and load once, then train and evaluate each, in this process.

    In the hardware's dtype if compute_dtype is None.
    """
    workspace = LocalStorage(folder)
    clock = _Clock()
    device = pick_device(runtime.device)
    data = FitData(workspace, read_plan(workspace), device)
    opened = clock.lap()
    data.load(runtime.residency)
    torch.empty(1, device=device).cpu()
    loaded = clock.lap()
    found = []
    for config in configs:
        clock.lap()
        targets = build_targets(config, data)
        record = make_record(config, data)
        if compute_dtype is not None:
            record = replace(record, compute_dtype=compute_dtype)
        trainer = Trainer(data, record, targets, runtime, ALONE, Stop())
        with workspace.folder("runs/scale") as place:
            network = trainer.train(place, lambda checkpoint: None)
        trained = clock.lap()
        predictions = predict(Classifier([(network, "both")]), data, data.test)
        metrics = measure_predictions(predictions, data, data.test)
        evaluated = clock.lap()
        num_trained = len(trainer.history) * len(data.train)
        found.append(
            {
                "items": len(data.labels),
                "labels": data.num_classes,
                "dim": data.embed_dim,
                "device": str(device),
                "threads": torch.get_num_threads(),
                "compute_dtype": record.compute_dtype,
                "residency": data.residency,
                "approach": config.approach,
                "hidden_dim": config.hidden_dim,
                "fusion": config.fusion,
                "batch_size": record.batch_size,
                "epochs": len(trainer.history),
                "open_seconds": opened,
                "load_seconds": loaded,
                "train_seconds": trainer.seconds,
                "val_seconds": trained - trainer.seconds,
                "test_seconds": evaluated,
                "microseconds_per_item": trainer.seconds / num_trained * 1e6,
                "items_per_second": num_trained / trainer.seconds,
                "peak_process_bytes": peak_bytes(torch.device("cpu")),
                "peak_device_bytes": peak_bytes(device),
                "flops_per_item": _flops_per_item(trainer, data),
                "top1": metrics.top1,
            }
        )
    return found


def _flops_per_item(trainer: Trainer, data: FitData) -> float:
    rows = data.train[:16]
    inputs = network_inputs(data, data.batch(rows), "both")
    return sum(each.flops for each in products_of(trainer.network, inputs)) / len(rows)


class _Clock:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return them and begin the next."""
        now = time.perf_counter()
        taken, self._last = now - self._last, now
        return taken


def measure(
    folder: Path, configs: Sequence[FitConfig], runtime: FitRuntime
) -> list[dict[str, Any]]:
    """Do it in a process of its own, so that memory is these runs' alone.

    process_seconds has the interpreter's start and the imports too.
    """
    call = {
        "folder": str(folder),
        "configs": [vars(config) for config in configs],
        "runtime": vars(runtime),
    }
    clock = _Clock()
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(call)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = clock.lap()
    return [{**run, "process_seconds": seconds} for run in json.loads(done.stdout.splitlines()[-1])]


def describe(figures: dict[str, Any]) -> str:
    """Say a run's figures in one line."""
    return (
        f"{figures['items']:>10,} items ({figures['residency']}): open "
        f"{figures['open_seconds']:.1f} s, load {figures['load_seconds']:.1f} s, train "
        f"{figures['train_seconds']:.1f} s ({figures['microseconds_per_item']:.1f} us an item), "
        f"val {figures['val_seconds']:.1f} s, test {figures['test_seconds']:.1f} s, peak "
        f"{figures['peak_process_bytes'] / 1e9:.1f} GB, top1 {figures['top1']:.3f}"
    )


def made_catalog(
    folder: Path, num_items: int, dim: int, num_labels: int, *, is_sorted: bool = False
) -> Path:
    """Return the folder of a catalog, made if it is not there."""
    place = folder / f"{num_items}x{dim}-{num_labels}{'-sorted' * is_sorted}"
    if not (place / "neighbors.parquet").exists():
        shutil.rmtree(place, ignore_errors=True)
        make_scale_catalog(LocalStorage(place), num_items, dim, num_labels, is_sorted=is_sorted)
    assert (place / PLAN).exists()
    return place


def plot() -> None:
    """Draw time of an item and peak memory against the number of items."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in (RESULTS / "scale.json").read_text().splitlines()]
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        name = f"{line['residency']}, H = {line['hidden_dim']}, {line['device']}"
        groups.setdefault(name, []).append(line)
    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, group in groups.items():
        latest = {line["items"]: line for line in group if not line.get("sorted")}
        sizes = sorted(latest)
        each = [latest[size]["microseconds_per_item"] for size in sizes]
        memory = [latest[size]["peak_process_bytes"] / 1e9 for size in sizes]
        time_axis.plot(sizes, each, "o-", label=name)
        memory_axis.plot(sizes, memory, "o-", label=name)
    time_axis.set(xscale="log", xlabel="items", ylabel="microseconds an item and epoch")
    memory_axis.set(xscale="log", xlabel="items", ylabel="peak memory, GB")
    for axis in (time_axis, memory_axis):
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.grid(alpha=0.3)
    time_axis.legend()
    figure.savefig(DOCS / "scale.png", dpi=120)


def main() -> None:
    """Make the catalogs, measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--labels", type=int, default=NUM_LABELS)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--hidden-dim", type=int, default=1024)
    parser.add_argument("--fusion", default="attention")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--residency", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="keeps the catalogs; else they are temporary")
    parser.add_argument("--sorted", action="store_true", help="items of a label stand together")
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.plot:
        plot()
        return
    if options.child:
        keep_freed_memory()  # as the command does
        call = json.loads(options.child)
        configs = [FitConfig(**config) for config in call["configs"]]
        runtime = FitRuntime(**call["runtime"])
        print(json.dumps(measure_here(Path(call["folder"]), configs, runtime)))
        return
    config = FitConfig(
        approach="5",
        fusion=options.fusion,
        hidden_dim=options.hidden_dim,
        batch_size=options.batch_size,
        epochs=options.epochs,
        seed=options.seed,
    )
    runtime = FitRuntime(device=options.device, residency=options.residency)
    with tempfile.TemporaryDirectory() as temporary:
        for size in map(int, options.sizes.split(",")):
            folder = options.folder or Path(temporary)
            place = made_catalog(
                folder, size, options.dim, options.labels, is_sorted=options.sorted
            )
            os.sync()  # the writes of a catalog are not its readers' time
            (figures,) = measure(place, [config], runtime)
            print(describe(figures), flush=True)
            append("scale", {**figures, "sorted": options.sorted, "seed": options.seed})
            if options.folder is None:
                shutil.rmtree(place)


if __name__ == "__main__":
    main()
