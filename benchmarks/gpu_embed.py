"""Time `embed` on a GPU beside the encoder alone: ViT-B-32, random weights, JPEGs of 500 pixels.

The encoder alone takes ready tensors, titles at full context. `embed` goes from the files to the
commit: its JPEGs decoded on the device where that works, then by worker processes; then by several
processes that share the device, as `embed --all --gpus-per-worker 0.25` does.

A few hundred pictures are drawn; the others are copies of them with another comment inside, so that
no two files are equal and each is decoded and encoded.
"""

import csv
import logging
import multiprocessing
import os
import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from embed import encoder_alone
from pictures import make_catalog

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import read_plan
from cache.storage import LocalStorage
from pipeline.encoder import RANDOM, load_encoder
from pipeline.plan import make_plan
from pipeline.shard_embedder import ShardEmbedder

logger = logging.getLogger(__name__)

MODEL = "ViT-B-32"
SIZE = 500
NUM_DRAWN = 256
BATCH_SIZE = 256
SHARD_ROWS = 2048
SHARING = (2, 4)


def measure_embed(folder: Path, device: torch.device, num_pictures: int) -> dict[str, Any]:
    """Return items/s of every side, and print them."""
    items, labels, files = make_pictures(folder, num_pictures)
    workspace = LocalStorage(folder / "workspace")
    plan = make_plan(
        workspace,
        items=items,
        labels=labels,
        model=MODEL,
        pretrained=RANDOM,
        shard_rows=SHARD_ROWS,
        chunk_rows=SHARD_ROWS,
    ).plan
    encoder = load_encoder(plan.encoder, str(device))
    jpegs = encoder.jpegs
    options = Namespace(items=min(num_pictures, 4096), batch_size=BATCH_SIZE)
    num_workers = max(1, (os.cpu_count() or 1) - 2)
    rates = {"encoder alone": encoder_alone(plan, encoder, files, options)}
    for name, decoder in (("embed, decoded on the device", jpegs), ("embed, workers", None)):
        if decoder is None and name != "embed, workers":
            print("JPEGs are not decoded on this device", flush=True)
            continue
        encoder.jpegs = decoder
        started = time.perf_counter()
        with ShardEmbedder(
            workspace,
            plan,
            lambda: encoder,
            batch_size=BATCH_SIZE,
            num_workers=num_workers,
            redo=True,
        ) as embedder:
            for shard in range(plan.num_shards):
                embedder.embed(shard)
        rates[name] = num_pictures / (time.perf_counter() - started)
    if jpegs is not None:
        for num_processes in SHARING:
            rates[f"embed, decoded on the device, {num_processes} processes"] = (
                num_pictures / seconds_of_sharing(workspace.location, device, num_processes)
            )
    for name, rate in rates.items():
        share = rate / rates["encoder alone"]
        print(f"{name}, {encoder.compute_dtype}: {rate:,.0f} items/s ({share:.2f})", flush=True)
    return {
        "model": MODEL,
        "compute_dtype": encoder.compute_dtype,
        "pictures": num_pictures,
        "size": SIZE,
        "workers": num_workers,
        "items_per_second": rates,
    }


def seconds_of_sharing(location: str, device: torch.device, num_processes: int) -> float:
    """Embed everything again by processes that share a device; time them once all are ready."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(num_processes), context.Queue()
    processes = [
        context.Process(target=share, args=(location, str(device), number, barrier, queue))
        for number in range(num_processes)
    ]
    for process in processes:
        process.start()
    starts, stops = zip(*(queue.get(timeout=300) for _ in processes), strict=True)
    for process in processes:
        process.join()
    return max(stops) - min(starts)


def share(location: str, device: str, number: int, barrier: Any, queue: Any) -> None:
    """Embed every so many shards, when all are ready; tell from when to when."""
    workspace = LocalStorage(Path(location))
    plan = read_plan(workspace)
    encoder = load_encoder(plan.encoder, device)
    encoder.items_per_second(BATCH_SIZE)
    num_workers = max(1, (os.cpu_count() or 1) // barrier.parties - 2)
    with ShardEmbedder(
        workspace, plan, lambda: encoder, batch_size=BATCH_SIZE, num_workers=num_workers, redo=True
    ) as embedder:
        barrier.wait()
        started = time.time()
        for shard in range(number, plan.num_shards, barrier.parties):
            embedder.embed(shard)
        queue.put((started, time.time()))


def make_pictures(folder: Path, num_pictures: int) -> tuple[Path, Path, Path]:
    """Write a catalog; return the paths of items, labels and files."""
    shutil.rmtree(folder, ignore_errors=True)
    num_drawn = min(NUM_DRAWN, num_pictures)
    items, labels, files = make_catalog(folder, num_items=num_drawn, size=SIZE, repeats=0.0)
    with items.open(encoding="utf-8", newline="") as file:
        drawn = list(csv.reader(file))[1:]
    with items.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for number in range(num_drawn, num_pictures):
            _, title, label, path = drawn[number % num_drawn]
            data = (folder / path).read_bytes()
            (files / f"{number:06d}.jpg").write_bytes(_with_comment(data, b"%06d" % number))
            (files / f"{number:06d}.txt").write_text(f"{title} {number}", encoding="utf-8")
            row = (f"item-{number:06d}", f"{title} {number}", label, f"files/{number:06d}.jpg")
            writer.writerow(row)
    return items, labels, files


def _with_comment(jpeg: bytes, comment: bytes) -> bytes:
    start, rest = jpeg[:2], jpeg[2:]
    return start + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + rest
