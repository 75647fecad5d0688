"""Do fit's defaults need tuning? A small grid around them on one catalog.

    python benchmarks/defaults.py --name demo --workspace demo-workspace [--seeds 2]
        [--approaches 1,5] [--small]

Learning rate times batch size, each halved and doubled, and half and twice the epochs, for each
approach and seed. Runs are kept in the workspace and reused. Prints top1 on test of every config,
means over seeds, and how far the defaults are from the best; appends to
benchmarks/results/defaults.json. --small takes the study's small head, for large catalogs on a CPU.
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
from record import append
from study import SMALL

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import read_plan
from cache.storage import open_storage
from pipeline.device import pick_device
from pipeline.fit import fit_all
from pipeline.runs import make_record
from pipeline.tensors import FitData
from schemas.run import FitConfig

LR, EPOCHS = FitConfig.lr, FitConfig.epochs
GRID = [(lr, batch, EPOCHS) for lr in (LR / 2, LR, 2 * LR) for batch in (0.5, 1.0, 2.0)]
GRID += [(LR, 1.0, EPOCHS // 2), (LR, 1.0, 2 * EPOCHS)]


def main() -> None:
    """Fit what is missing and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="of the catalog, for the results")
    parser.add_argument("--workspace", required=True, help="planned, embedded, with a label graph")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--approaches", default="1,5")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    workspace = open_storage(options.workspace)
    data = FitData(workspace, read_plan(workspace), pick_device("auto"))
    head = {name: SMALL[name] for name in ("fusion", "hidden_dim")} if options.small else {}
    for approach in options.approaches.split(","):
        default = make_record(FitConfig(approach=approach), data).batch_size
        configs = [
            FitConfig(
                approach=approach,
                lr=lr,
                batch_size=None if batch == 1.0 else round(batch * default),
                epochs=epochs,
                seed=seed,
                **head,
            )
            for lr, batch, epochs in GRID
            for seed in range(options.seeds)
        ]
        top1 = [result.metrics.top1 for result in fit_all(workspace, data, configs)]
        means = 100 * np.reshape(top1, (len(GRID), options.seeds)).mean(axis=1)
        lines = dict(zip(GRID, means.tolist(), strict=True))
        best = max(lines, key=lambda key: lines[key])
        for (lr, batch, epochs), mean in lines.items():
            print(
                f"approach {approach} lr {lr:g} batch {batch * default:g} epochs {epochs}: "
                f"{mean:.2f}"
            )
        own = lines[LR, 1.0, EPOCHS]
        print(
            f"{options.name}, approach {approach}: defaults {own:.2f}, best {lines[best]:.2f} "
            f"(lr {best[0]:g}, batch {best[1] * default:g}, epochs {best[2]})",
            flush=True,
        )
        append(
            "defaults",
            {
                "catalog": options.name,
                "train_items": len(data.train),
                "labels": data.num_classes,
                "head": head or "default",
                "approach": approach,
                "seeds": options.seeds,
                "default_batch_size": default,
                "default_top1": own,
                "best_top1": lines[best],
                "grid": [
                    {"lr": lr, "batch_size": batch * default, "epochs": epochs, "top1": mean}
                    for (lr, batch, epochs), mean in lines.items()
                ],
            },
        )


if __name__ == "__main__":
    main()
