"""Every figure that only a GPU can show, in one call.

    python benchmarks/gpu.py --folder FOLDER [--parts steps,embed,approaches,elsewhere,accuracy]
        [--items 12000000] [--epochs 10] [--workspaces DEMO,GROCERY] [--out FILE]

steps        training steps beside their matrix products, in float32 and bfloat16 (fit.py), and the
             device's ceiling, the rate of one large bfloat16 product
embed        pictures and titles a second: the encoder alone on ready tensors, and `embed` with the
             JPEGs decoded on the device and by worker processes (gpu_embed.py)
approaches   a catalog of N items over 4,350 labels at D = 512 (scale_catalog.py; made once, not
             timed): each of the five approaches with its share of the ceiling; the cache is
             loaded once, and counted in each. Must reach at 12 million items and 10 epochs: 60 s a
             run, five minutes for all
elsewhere    the same items for an epoch from host memory and from disk
accuracy     top1 of approaches 1 and 5 in float32 and bfloat16, three seeds, on embedded workspaces

Appends one line to benchmarks/results/gpu.json, or writes it to --out. 12 million items need 25 GB
of disk and of GPU memory. On a CPU it runs at small sizes, which is what the tests do.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fit import measure_all as measure_steps
from gpu_embed import measure_embed
from record import append
from scale import describe, made_catalog, measure, measure_here
from scale_catalog import NUM_LABELS

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.device import device_name, pick_device
from pipeline.speed import seconds
from pipeline.targets.registry import PAPER_APPROACHES
from schemas.run import FitConfig, FitRuntime

_CEILING_SIZE = 8192


def ceiling(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return the flops per second of one square product, the best of ten."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b), device) for _ in range(10))


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the catalog")
    parser.add_argument("--parts", default="steps,embed,approaches,elsewhere")
    parser.add_argument("--items", type=int, default=12_000_000)
    parser.add_argument("--labels", type=int, default=NUM_LABELS)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=16_384)
    parser.add_argument("--workspaces", default="", help="for accuracy: embedded, with neighbors")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a file for the figures instead")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    device = pick_device(options.device)
    figures: dict[str, Any] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "ceiling_flops_per_second": measure_ceiling(device),
    }
    for part in options.parts.split(","):
        figures[part] = _PARTS[part](options, device, figures["ceiling_flops_per_second"])
        if options.out is not None:  # a lease may end before the parts do
            options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.out is None:
        append("gpu", figures)


def measure_ceiling(device: torch.device) -> float:
    """Return the flops per second of a large product."""
    is_cuda = device.type == "cuda"
    dtype = torch.bfloat16 if is_cuda else torch.float32
    most = ceiling(device, dtype, _CEILING_SIZE if is_cuda else 512)
    print(f"ceiling: {most / 1e12:.2f} TFLOP/s in {dtype}", flush=True)
    return most


def measure_the_steps(options: argparse.Namespace, device: torch.device, most: float) -> Any:
    """Time steps beside their products."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_steps(Path(folder), device, options.labels, options.dim, options.batch_size)


def measure_the_embedding(options: argparse.Namespace, device: torch.device, most: float) -> Any:
    """Time the encoder alone and `embed`."""
    return measure_embed(options.folder / "pictures", device, options.pictures)


def measure_approaches(options: argparse.Namespace, device: torch.device, most: float) -> Any:
    """Run every approach on the whole catalog."""
    place = made_catalog(options.folder, options.items, options.dim, options.labels)
    configs = [
        FitConfig(
            approach=approach,
            epochs=options.epochs,
            patience=options.epochs,
            batch_size=options.batch_size,
        )
        for approach in PAPER_APPROACHES
    ]
    runs = measure(place, configs, FitRuntime(device=options.device))
    for found in runs:
        found["ceiling_share"] = found["flops_per_item"] * found["items_per_second"] / most
        found["total_seconds"] = sum(
            found[f"{name}_seconds"] for name in ("open", "load", "train", "val", "test")
        )
        print(
            f"approach {found['approach']}: {found['total_seconds']:.1f} s, "
            f"{found['ceiling_share']:.0%} of the ceiling; {describe(found)}",
            flush=True,
        )
    print(
        f"all {len(runs)} approaches, loaded once: {runs[0]['process_seconds']:.1f} s with the "
        "interpreter's start",
        flush=True,
    )
    return runs


def measure_elsewhere(options: argparse.Namespace, device: torch.device, most: float) -> Any:
    """Train an epoch from host memory and one from disk."""
    place = made_catalog(options.folder, options.items, options.dim, options.labels)
    runs = []
    for residency in ("host", "stream"):
        config = FitConfig(approach="5", epochs=1, batch_size=options.batch_size)
        runtime = FitRuntime(device=options.device, residency=residency)
        runs += measure(place, [config], runtime)
        print(describe(runs[-1]), flush=True)
    return runs


def measure_accuracy(options: argparse.Namespace, device: torch.device, most: float) -> Any:
    """Compare what both dtypes learn; each with its spread over seeds."""
    found: list[dict[str, Any]] = []
    for place in options.workspaces.split(","):
        for approach in ("1", "5"):
            for dtype in ("float32", "bfloat16"):
                configs = [FitConfig(approach=approach, seed=seed) for seed in range(3)]
                runtime = FitRuntime(device=options.device)
                runs = measure_here(Path(place), configs, runtime, compute_dtype=dtype)
                top1 = [run["top1"] for run in runs]
                found.append(
                    {
                        "workspace": Path(place).name,
                        "approach": approach,
                        "compute_dtype": dtype,
                        "top1": top1,
                    }
                )
                shown = ", ".join(f"{each:.4f}" for each in top1)
                print(f"{Path(place).name}, approach {approach}, {dtype}: {shown}", flush=True)
    return found


_PARTS: dict[str, Callable[[argparse.Namespace, torch.device, float], Any]] = {
    "steps": measure_the_steps,
    "embed": measure_the_embedding,
    "approaches": measure_approaches,
    "elsewhere": measure_elsewhere,
    "accuracy": measure_accuracy,
}


if __name__ == "__main__":
    main()
