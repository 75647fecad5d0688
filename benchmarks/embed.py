"""Embed against the encoder alone, a plain DataLoader loop and clip-retrieval's inference.

Same random ViT-B-32 weights, same JPEGs and titles, one run after another on this machine. Prints
both sides of every ratio and appends them to benchmarks/results/embed.json. The clocks run from
the first request for a picture to the finished files; interpreter start and model load are in
none of them.

    python benchmarks/embed.py [--items 384] [--sizes 224,500,1000] [--peer-python peer/bin/python]

About 25 minutes on 2 cores with all three sizes; without --peer-python (see
peers/clip_retrieval_inference.py for how to make that environment) that side is left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from pictures import make_catalog
from record import append
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import Cache
from cache.storage import LocalStorage
from pipeline.decode_pool import DecodePool
from pipeline.device import keep_freed_memory
from pipeline.embed_shard import embed_shard
from pipeline.encoder import Encoder, load_encoder
from pipeline.items import CatalogWatch
from pipeline.pictures import load
from pipeline.plan import make_plan
from schemas.plan import Plan

MODEL = "ViT-B-32"
PEERS = Path(__file__).parent / "peers"


def main() -> None:
    """Measure every catalog and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=384)
    parser.add_argument("--sizes", default="224,500,1000")
    parser.add_argument("--repeats", default="0,0.3")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer-python", help="of an environment with clip-retrieval")
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "weights.safetensors"
        torch.manual_seed(0)
        save_file(open_clip.create_model(MODEL).state_dict(), checkpoint)
        encoders: dict[str, Encoder] = {}
        for size in map(int, options.sizes.split(",")):
            for repeats in map(float, options.repeats.split(",")):
                place = Path(folder) / f"{size}-{repeats}"
                figures = measure(place, checkpoint, encoders, size, repeats, options)
                append("embed", figures)


def measure(
    place: Path,
    checkpoint: Path,
    encoders: dict[str, Encoder],
    size: int,
    repeats: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return items/s of every side on one catalog."""
    items, labels, files = make_catalog(place, num_items=options.items, size=size, repeats=repeats)
    workspace = LocalStorage(place / "workspace")
    plan = make_plan(
        workspace, items=items, labels=labels, model=MODEL, pretrained=str(checkpoint)
    ).plan
    dtypes = ["float32"]
    for dtype in ("float32", "auto"):
        if dtype not in encoders:
            encoders[dtype] = load_encoder(plan.encoder, "cpu", dtype)
    if encoders["auto"].compute_dtype != "float32":
        dtypes.append("auto")
    rates: dict[str, float] = {}
    for dtype in dtypes:
        encoder = encoders[dtype]
        name = encoder.compute_dtype
        rates[f"encoder alone, {name}"] = encoder_alone(plan, encoder, files, options)
        rates[f"embed, full titles, {name}"] = ours(
            workspace, plan, encoder, options, is_trimmed=False
        )
        rates[f"embed, {name}"] = ours(workspace, plan, encoder, options, is_trimmed=True)
    rates["DataLoader loop, float32"] = peer(
        sys.executable, "dataloader_loop.py", files, checkpoint, place, options
    )
    if options.peer_python:
        rates["clip-retrieval, float32"] = peer(
            options.peer_python, "clip_retrieval_inference.py", files, checkpoint, place, options
        )
    cosine = agreement(workspace, plan, place / "dataloader_loop" / "image_emb.npy")
    return report(size, repeats, rates, cosine, options)


def encoder_alone(plan: Plan, encoder: Encoder, files: Path, options: argparse.Namespace) -> float:
    """Return items/s of both towers on ready tensors, titles at full context, no repeats saved."""
    paths = sorted(files.glob("*.jpg"))[: max(options.batch_size, options.items // 2)]
    preprocess = plan.encoder.preprocess
    pixels = np.stack([load(path.read_bytes(), preprocess, is_scaled=True) for path in paths])
    tokens = encoder._tokenize([path.with_suffix(".txt").read_text() for path in paths])
    encoder.items_per_second()  # warm up
    started = time.perf_counter()
    batches = range(0, len(paths), options.batch_size)
    for _ in encoder.encode_images(pixels[i : i + options.batch_size] for i in batches):
        pass
    with torch.inference_mode():
        for i in batches:
            batch = tokens[i : i + options.batch_size].to(encoder.device)
            encoder._model.encode_text(batch, normalize=True).cpu()
    return len(paths) / (time.perf_counter() - started)


def ours(
    workspace: LocalStorage,
    plan: Plan,
    encoder: Encoder,
    options: argparse.Namespace,
    *,
    is_trimmed: bool,
) -> float:
    """Return items/s of one shard from its files to its commit."""
    encoder._text_tower.is_trimmed = is_trimmed
    started = time.perf_counter()
    preprocess = plan.encoder.preprocess
    with DecodePool(preprocess, is_scaled=True, num_workers=options.workers) as pool:
        embed_shard(
            workspace,
            plan,
            0,
            encoder,
            pool,
            CatalogWatch(plan.items),
            batch_size=options.batch_size,
            redo=lambda rows: True,
        )
        seconds = time.perf_counter() - started
    encoder._text_tower.is_trimmed = True
    return plan.num_items / seconds


def peer(
    python: str,
    script: str,
    files: Path,
    checkpoint: Path,
    place: Path,
    options: argparse.Namespace,
) -> float:
    """Return items/s of another program, as it says itself."""
    out = place / Path(script).stem
    command = [python, str(PEERS / script), "--images", str(files), "--checkpoint"]
    command += [str(checkpoint), "--model", MODEL, "--out", str(out)]
    command += ["--batch-size", str(options.batch_size), "--workers", str(options.workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found["items"] / found["seconds"]


def agreement(workspace: LocalStorage, plan: Plan, other: Path) -> float:
    """Return the lowest cosine between our last image embeddings and a peer's."""
    mine = Cache(workspace, plan).read("image").astype(np.float32)
    theirs = np.load(other).astype(np.float32)
    return float((mine * theirs).sum(axis=1).min())


def report(
    size: int, repeats: float, rates: dict[str, float], cosine: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Print one catalog's figures."""
    print(f"{size} px, {repeats:.0%} repeated, {options.items} items")
    for name, rate in rates.items():
        print(f"  {name:<32} {rate:8.1f} items/s")
    ratios = {}
    for name, rate in rates.items():
        dtype = name.rpartition(", ")[2]
        if not name.startswith("embed"):
            continue
        bases = [f"encoder alone, {dtype}"]
        if "full" not in name:
            bases += [base for base in rates if base.startswith(("DataLoader", "clip-retrieval"))]
        for base in bases:
            ratios[f"{name} / {base}"] = rate / rates[base]
            print(f"  {name:<32} / {base:<28} {rate / rates[base]:6.2f}")
    print(f"  lowest cosine to the DataLoader loop's images: {cosine:.5f}", flush=True)
    return {
        "size": size,
        "repeats": repeats,
        "items": options.items,
        "batch_size": options.batch_size,
        "items_per_second": rates,
        "ratios": ratios,
        "lowest_cosine": cosine,
    }


if __name__ == "__main__":
    main()
