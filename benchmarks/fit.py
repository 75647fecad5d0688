"""Time training steps beside their matrix products alone and beside a plain loop.

    python benchmarks/fit.py [--labels 4350] [--dim 512] [--batch-size 4096] [--device auto]

Ours is the trainer's own step on resident embeddings, default head, approaches 1, 4 and 5, in
float32 and, where the hardware has it, bfloat16. The products are those of its linear layers,
forward and backward, same shapes and dtype, nothing else. Plain is peers/plain_fit_loop.py: a
DataLoader (the faster of no workers and two) with dense targets in float32. The sides take turns
five times; printed are medians, their ratios, and the range of the ratios. Must reach: a step at
0.7 of its products' speed (aim 0.8), and five times the plain loop. Appends to
benchmarks/results/fit.json. About 6 minutes on 2 cores.

B batch, C classes, D embedding width.
"""

import argparse
import logging
import multiprocessing
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import append
from scale_catalog import NUM_LABELS, make_scale_catalog

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

from plain_fit_loop import Items, run_plain

from cache.storage import LocalStorage
from pipeline.batches import Part
from pipeline.device import has_bfloat16, keep_freed_memory, pick_device
from pipeline.fit import build_targets
from pipeline.predictions import network_inputs
from pipeline.ranks import ALONE
from pipeline.runs import make_record
from pipeline.speed import products_of, seconds, seconds_of
from pipeline.stopping import Stop
from pipeline.tensors import FitData
from pipeline.trainer import Trainer
from schemas.run import FitConfig, FitRuntime, RunRecord

APPROACHES = ("1", "4", "5")
NUM_RUNS = 5
NUM_STEPS = 2


def make_trainer(data: FitData, approach: str, batch_size: int, dtype: str) -> Trainer:
    """Return a run under way, in one of the dtypes."""
    config = FitConfig(approach=approach, batch_size=batch_size)
    record: RunRecord = make_record(config, data)
    record = RunRecord(**{**vars(record), "compute_dtype": dtype})
    targets = build_targets(config, data)
    return Trainer(data, record, targets, FitRuntime(), ALONE, Stop())


def take_steps(trainer: Trainer, batches: list[Part]) -> None:
    """Take a step with each batch, as an epoch does."""
    trainer.network.train()
    for part in batches:
        trainer.recent.append(trainer._step(part))
        trainer.step += 1
    trainer._check_finite()


def measure_steps(data: FitData, batch_size: int, dtype: str) -> dict[str, Any]:
    """Time the steps of each approach and the products, in turn."""
    trainers = {name: make_trainer(data, name, batch_size, dtype) for name in APPROACHES}
    any_trainer = trainers[APPROACHES[0]]
    parts = []
    for part in any_trainer.batches.epoch(1, 0):
        parts.append(part)
        if len(parts) == NUM_STEPS:
            break
    inputs = network_inputs(data, parts[0].batch, "both")
    products = products_of(any_trainer.network, inputs)
    flops = sum(product.flops for product in products)
    found: dict[str, list[float]] = {name: [] for name in (*APPROACHES, "products")}
    for run in range(NUM_RUNS + 1):
        for name, trainer in trainers.items():
            taken = seconds(lambda trainer=trainer: take_steps(trainer, parts), data.device)
            found[name].append(taken / NUM_STEPS)
        found["products"].append(seconds_of(products, data.device, getattr(torch, dtype)))
        if run == 0:  # warms up
            for times in found.values():
                times.clear()
    figures: dict[str, Any] = {
        "dtype": dtype,
        "products_seconds": statistics.median(found["products"]),
        "products_gflops_per_second": flops / statistics.median(found["products"]) / 1e9,
        "step_seconds": {name: statistics.median(found[name]) for name in APPROACHES},
        "ratios": {},
        "ratio_range": {},
    }
    for name in APPROACHES:
        ratios = [a / b for a, b in zip(found["products"], found[name], strict=True)]
        figures["ratios"][name] = statistics.median(ratios)
        figures["ratio_range"][name] = [min(ratios), max(ratios)]
        print(
            f"{dtype}, approach {name}: step {figures['step_seconds'][name] * 1e3:,.1f} ms "
            f"({batch_size / figures['step_seconds'][name]:,.0f} items/s), products "
            f"{figures['products_seconds'] * 1e3:,.1f} ms "
            f"({figures['products_gflops_per_second']:,.0f} GFLOP/s): "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )
    return figures


def measure_plain(data: FitData, batch_size: int, dtype: str) -> dict[str, Any]:
    """Time ours (approach 4, items gathered too) and the plain loop in turn, on the CPU.

    The plain loop has a process of its own: what `fit` sets for its process is none of it.
    """
    trainer = make_trainer(data, "4", batch_size, dtype)
    table = torch.from_numpy(build_targets(trainer.config, data).dense()).float()
    rows = data.train
    items = Items(
        data.embeddings("image", rows), data.embeddings("title", rows), data.labels[rows], table
    )
    ours: list[float] = []
    plain: dict[int, list[float]] = {0: [], 2: []}
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=run_plain, args=(there, items, trainer.config.hidden_dim, batch_size, NUM_STEPS)
    )
    process.start()
    there.close()
    for run in range(NUM_RUNS):
        batches = trainer.batches.epoch(run + 1, 0)
        take_steps(trainer, [next(batches)])
        taken = seconds(
            lambda batches=batches: take_steps(trainer, [next(batches) for _ in range(NUM_STEPS)]),
            data.device,
        )
        ours.append(taken / NUM_STEPS / batch_size)
        for num_workers, times in plain.items():
            here.send(num_workers)
            times.append(here.recv())
    here.close()
    process.join()
    best = min(plain, key=lambda num_workers: statistics.median(plain[num_workers]))
    ratios = [theirs / own for theirs, own in zip(plain[best], ours, strict=True)]
    print(
        f"{dtype}: {1 / statistics.median(ours):,.0f} items/s, plain loop "
        f"{1 / statistics.median(plain[best]):,.0f} items/s with {best} workers: "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )
    return {
        "dtype": dtype,
        "items_per_second": 1 / statistics.median(ours),
        "plain_items_per_second": {
            num_workers: 1 / statistics.median(times) for num_workers, times in plain.items()
        },
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def main() -> None:
    """Make the catalog, time, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=NUM_LABELS)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    keep_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory() as folder:
        device = pick_device(options.device)
        append(
            "fit",
            measure_all(Path(folder), device, options.labels, options.dim, options.batch_size),
        )


def measure_all(
    folder: Path, device: torch.device, num_labels: int, dim: int, batch_size: int
) -> dict[str, Any]:
    """Return all figures of one device, and print them."""
    workspace = LocalStorage(folder)
    num_items = max(5 * batch_size, 3 * num_labels)
    plan = make_scale_catalog(workspace, num_items, dim, num_labels)
    data = FitData(workspace, plan, device)
    data.load("device")
    dtypes = ["float32", *["bfloat16"] * has_bfloat16(device)]
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "labels": num_labels,
        "dim": dim,
        "batch_size": batch_size,
        "steps": [measure_steps(data, batch_size, dtype) for dtype in dtypes],
    }
    if device.type == "cpu":
        figures["plain"] = [measure_plain(data, batch_size, dtype) for dtype in dtypes]
    return figures


if __name__ == "__main__":
    main()
