"""Which choice reproduces the paper: every approach and weighting, three seeds, on one catalog.

    python benchmarks/study.py simulated --folder FOLDER [--items 200000] [--seeds 3]
    python benchmarks/study.py demo --folder FOLDER       # the workspace of `cli.py demo`
    python benchmarks/study.py grocery --folder FOLDER    # photographs, planned and embedded here

Runs of the same config are reused, so it goes on where it was stopped; all configs come with seed 0
before any comes with seed 1. Writes benchmarks/results/study-<catalog>.json. The simulated catalog
takes about 75 minutes on 2 cores, the other two about 10 each.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from record import RESULTS, machine
from study_catalog import make_study_catalog

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import PLAN, read_plan
from cache.storage import LocalStorage
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.runs import run_name
from pipeline.tensors import FitData
from schemas.configs import to_dict
from schemas.plan import Plan
from schemas.run import FitConfig

DATA = Path(__file__).parents[2] / "shared" / "data"
# What tells a config from the defaults, by the name it has in the tables.
CONFIGS: dict[str, dict[str, Any]] = {
    "1": {"approach": "1"},
    "1b": {"approach": "1b"},
    "2": {"approach": "2"},
    "3": {"approach": "3"},
    "4 affinity": {"approach": "4", "weighting": "affinity"},
    "4 controlled": {"approach": "4", "weighting": "controlled"},
    "4 softmax 0.05": {"approach": "4", "weighting": "softmax", "temperature": 0.05},
    "4 softmax solved": {"approach": "4", "weighting": "softmax"},
    "5 affinity linear": {"approach": "5", "weighting": "affinity"},
    "5 affinity geometric": {
        "approach": "5",
        "weighting": "affinity",
        "schedule": "geometric",
    },
    "5 affinity odds": {"approach": "5", "weighting": "affinity", "schedule": "odds"},
    "5 controlled linear": {"approach": "5", "weighting": "controlled"},
    "5 softmax 0.05 linear": {"approach": "5", "weighting": "softmax", "temperature": 0.05},
    "taxonomy": {"approach": "taxonomy"},
    "online": {"approach": "online"},
}
# A small head: the whole study in little more than an hour.
SMALL: dict[str, Any] = {"hidden_dim": 256, "epochs": 5, "patience": 5, "batch_size": 1024}


def main() -> None:
    """Make the catalog if it is not there, fit what is missing, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("catalog", choices=["simulated", "demo", "grocery"])
    parser.add_argument("--folder", type=Path, required=True, help="workspace")
    parser.add_argument("--items", type=int, default=200_000, help="of the simulated catalog")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="names of configs, with commas")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.catalog != "demo" and not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there: it has the labels and photographs of this study")
    workspace = LocalStorage(options.folder)
    plan = make_catalog(options.catalog, workspace, options.items)
    data = FitData(workspace, plan, torch.device("cpu"))
    chosen = options.only.split(",") if options.only else list(CONFIGS)
    common = SMALL if options.catalog == "simulated" else {}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for seed in range(options.seeds):
        for name in chosen:
            started = time.perf_counter()
            config = FitConfig(**CONFIGS[name], **common, seed=seed)
            run = fit(workspace, plan, config, device="cpu", data=data)
            record = {"run": run_name(config), "seed": seed, **to_dict(run.metrics)}
            found[name].append(record)
            print(line(name, record), f"{time.perf_counter() - started:6.1f} s", flush=True)
    path = RESULTS / f"study-{options.catalog}.json"
    report = {
        "machine": machine(),
        "catalog": options.catalog,
        "items": plan.num_items,
        "labels": plan.num_labels,
        "test_items": len(data.test),
        "common": common,
        "runs": found,
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print_table(found)


def make_catalog(name: str, workspace: LocalStorage, num_items: int) -> Plan:
    """Return the plan of the catalog's workspace, which is made where it is not there."""
    if workspace.size(PLAN) is not None:
        return read_plan(workspace)
    if name == "simulated":
        plan = make_study_catalog(workspace, DATA / "labels", num_items)
        write_neighbors(workspace, plan)
        return plan
    catalog = ["--items", DATA / "grocery/items.csv", "--labels", DATA / "grocery/labels.csv"]
    calls = {
        "demo": [["demo"]],
        "grocery": [
            ["plan", *catalog, "--model", "shelfwise-tiny", "--label-text", "path"],
            ["embed", "--all"],
            ["neighbors"],
        ],
    }
    for call in calls[name]:
        command = [sys.executable, Path(__file__).parents[1] / "cli.py", *call]
        subprocess.run([*command, "--workspace", workspace.location], check=True)
    return read_plan(workspace)


def line(name: str, record: dict[str, Any]) -> str:
    """Return one run's figures."""
    values = [100 * record["top1"], 100 * record["top5"], record["neighbors_at_5"]]
    text = f"{name:<24}{values[0]:8.2f}{values[1]:8.2f}{values[2]:7.2f}"
    return f"{text}{record['severity']:7.2f}{record['ece']:8.3f}{record['macro_f1']:8.3f}"


def print_table(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the means over seeds."""
    print(
        f"\n{'mean of seeds':<24}{'top1':>8}{'top5':>8}{'nb@5':>7}{'sever.':>7}{'ECE':>8}{'F1':>8}"
    )
    for name, records in found.items():
        keys = ("top1", "top5", "neighbors_at_5", "severity", "ece", "macro_f1")
        print(line(name, {key: fmean(record[key] for record in records) for key in keys}))


if __name__ == "__main__":
    main()
