"""Every figure that only a GPU can show, in one call.

    python benchmarks/gpu.py --folder FOLDER [--items 12000000] [--epochs 10] [--out FILE]

1. Training steps beside their matrix products, in float32 and bfloat16 (fit.py).
2. The device's ceiling: the rate of one large bfloat16 product.
3. A catalog of N items over 4,350 labels at D = 512 (scale_catalog.py; made once, not timed): each
   of the five approaches, cache load included, with its share of the ceiling. Must reach at 12
   million items and 10 epochs: 60 s a run, five minutes for all five.
4. The same items for an epoch from host memory and from disk.

Appends one line to benchmarks/results/gpu.json, or writes it to --out. 12 million items need 25 GB
of disk and of GPU memory. On a CPU it runs at small sizes, which is what the tests do; nothing here
has been measured on a GPU yet.
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from fit import measure_all
from record import append
from scale import describe, made_catalog, measure
from scale_catalog import NUM_LABELS

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.device import pick_device
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
    parser.add_argument("--items", type=int, default=12_000_000)
    parser.add_argument("--labels", type=int, default=NUM_LABELS)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a file for the figures instead")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    figures = measure_device(options, pick_device(options.device))
    if options.out is None:
        append("gpu", figures)
    else:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure_device(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return all figures, printed on the way."""
    with tempfile.TemporaryDirectory() as folder:
        steps = measure_all(Path(folder), device, options.labels, options.dim, options.batch_size)
    is_cuda = device.type == "cuda"
    dtype = torch.bfloat16 if is_cuda else torch.float32
    most = ceiling(device, dtype, _CEILING_SIZE if is_cuda else 512)
    print(f"ceiling: {most / 1e12:.2f} TFLOP/s in {dtype}", flush=True)
    place = made_catalog(options.folder, options.items, options.dim, options.labels)
    runs = []
    for approach in PAPER_APPROACHES:
        config = FitConfig(
            approach=approach,
            epochs=options.epochs,
            patience=options.epochs,
            batch_size=options.batch_size,
        )
        found = measure(place, config, FitRuntime(device=options.device))
        found["ceiling_share"] = found["flops_per_item"] * found["items_per_second"] / most
        found["total_seconds"] = sum(
            found[f"{name}_seconds"] for name in ("open", "load", "train", "val", "test")
        )
        print(
            f"approach {approach}: {found['total_seconds']:.1f} s, "
            f"{found['ceiling_share']:.0%} of the ceiling; {describe(found)}",
            flush=True,
        )
        runs.append(found)
    total = sum(found["total_seconds"] for found in runs)
    print(f"all {len(runs)} approaches, each loading again: {total:.1f} s", flush=True)
    elsewhere = []
    for residency in ("host", "stream"):
        config = FitConfig(approach="5", epochs=1, batch_size=options.batch_size)
        runtime = FitRuntime(device=options.device, residency=residency)
        elsewhere.append(measure(place, config, runtime))
        print(describe(elsewhere[-1]), flush=True)
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "steps": steps,
        "ceiling_flops_per_second": most,
        "runs": runs,
        "all_seconds": total,
        "elsewhere": elsewhere,
    }


if __name__ == "__main__":
    main()
