"""Which choice reproduces the paper: every approach and weighting, three seeds, on one catalog.

    python benchmarks/study.py simulated --folder FOLDER [--items 200000] [--seeds 3]
    python benchmarks/study.py demo --folder FOLDER       # the workspace of `cli.py demo`
    python benchmarks/study.py grocery --folder FOLDER    # photographs, planned and embedded here

Runs of the same config are reused, so it goes on where it was stopped; all configs come with seed 0
before any comes with seed 1. Writes docs/study/<catalog>.md and .png, and the numbers as
benchmarks/results/study-<catalog>.json.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, machine
from study_catalog import make_study_catalog

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import PLAN, read_plan
from cache.storage import LocalStorage
from pipeline import compare_tables as tables
from pipeline.compare import Members
from pipeline.compare_tables import Entry, Kind
from pipeline.decisions import make_decision
from pipeline.figures import png
from pipeline.fit import fit
from pipeline.neighbors import write_neighbors
from pipeline.plots import draw_front
from pipeline.predictions import Classifier
from pipeline.results import evaluate_classifier
from pipeline.runs import load_run, run_name
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.configs import plain_json
from schemas.plan import Plan
from schemas.run import FitConfig

DOCS = Path(__file__).parents[1] / "docs" / "study"
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
    "5 affinity linear": {"approach": "5", "weighting": "affinity", "schedule": "linear"},
    "5 affinity geometric": {
        "approach": "5",
        "weighting": "affinity",
        "schedule": "geometric",
    },
    "5 affinity odds": {"approach": "5", "weighting": "affinity", "schedule": "odds"},
    "5 controlled linear": {"approach": "5", "weighting": "controlled", "schedule": "linear"},
    "5 softmax 0.05 linear": {
        "approach": "5",
        "weighting": "softmax",
        "temperature": 0.05,
        "schedule": "linear",
    },
    "taxonomy": {"approach": "taxonomy"},
    "online": {"approach": "online"},
}
# What the paper advises: approach 4 together with another.
ENSEMBLES = [("5 affinity odds",), ("4 affinity", "1"), ("4 affinity", "5 affinity odds")]
# A small head: a run in two to three minutes of one core.
SMALL: dict[str, Any] = {
    "fusion": "concat",
    "hidden_dim": 256,
    "epochs": 5,
    "patience": 5,
    "batch_size": 1024,
}


def main() -> None:
    """Make the catalog if it is not there, fit what is missing, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("catalog", choices=["simulated", "demo", "grocery"])
    parser.add_argument("--folder", type=Path, required=True, help="workspace")
    parser.add_argument("--items", type=int, default=200_000, help="of the simulated catalog")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.catalog != "demo" and not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there: it has the labels and photographs of this study")
    workspace = LocalStorage(options.folder)
    plan = make_catalog(options.catalog, workspace, options.items)
    data = FitData(workspace, plan, torch.device("cpu"))
    common = {"lr": 1e-3, **(SMALL if options.catalog == "simulated" else {})}  # default then
    for seed in range(options.seeds):
        for name, chosen in CONFIGS.items():
            started = time.perf_counter()
            config = FitConfig(**chosen, **common, seed=seed)
            metrics = fit(workspace, plan, config, data=data).metrics
            print(
                f"{name:<24} seed {seed}: top1 {metrics.top1:.4f}, top5 {metrics.top5:.4f}, "
                f"neighbors@5 {metrics.neighbors_at_5:.2f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    entries = make_entries(workspace, data, common, options.seeds)
    report(options.catalog, plan, data, common, entries)


def make_entries(
    workspace: LocalStorage,
    data: FitData,
    common: dict[str, Any],
    num_seeds: int,
    configs: dict[str, dict[str, Any]] = CONFIGS,
    ensembles: Sequence[tuple[str, ...]] = ENSEMBLES,
) -> list[Entry]:
    """Return the lines of the tables: every config, ensembles, and decisions on the baseline."""
    members: dict[str, Members] = {}
    for name, chosen in configs.items():
        names = [run_name(FitConfig(**chosen, **common, seed=seed)) for seed in range(num_seeds)]
        loaded = [load_run(workspace, each, data) for each in names]
        members[name] = [[(network, record.config.modalities)] for network, record in loaded]
    lines: list[tuple[str, Kind, Members, str]] = [
        (name, "approach", members[name], "argmax") for name in configs
    ]
    for names in ensembles:
        by_seed = zip(*(members[name] for name in names), strict=True)
        together = [list(chain.from_iterable(each)) for each in by_seed]
        title = " and ".join(names)
        if len(names) > 1:
            lines.append((f"{title} together", "ensemble", together, "argmax"))
        all_seeds = [list(chain.from_iterable(together))]
        lines.append((f"{title} together, {num_seeds} seeds each", "ensemble", all_seeds, "argmax"))
    lines += [
        ("1, then its neighbors", "control", members["1"], "neighbors"),
        ("1, by CRM", "control", members["1"], "crm"),
    ]
    entries = []
    for title, kind, chosen_members, decision in lines:
        chosen_decision = make_decision(decision, data.graph, data.taxonomy, data.device)
        results = [
            evaluate_classifier(Classifier(each), data, data.test, decision=chosen_decision)
            for each in chosen_members
        ]
        entries.append(Entry(title=title, kind=kind, results=tuple(results)))
    return entries


def report(
    catalog: str,
    plan: Plan,
    data: FitData,
    common: dict[str, Any],
    entries: list[Entry],
    *,
    name: str | None = None,
    configs: dict[str, dict[str, Any]] = CONFIGS,
    extra: Sequence[TextTable] = (),
) -> None:
    """Print the tables; write them to docs/study/ and their numbers to benchmarks/results/."""
    lines = tables.compared(entries)
    num_seeds = len(entries[0].results)
    note = f"{len(data.test):,} test items; mean +- std of {num_seeds} seeds"
    shown = [
        make(lines, note) for make in (tables.table1, tables.table2, tables.table3, tables.table4)
    ]
    for table in shown:
        table.print()
    DOCS.mkdir(exist_ok=True)
    title = f"# Study: {catalog} catalog, {plan.num_items:,} items, {plan.num_labels:,} labels"
    shown += extra
    text = "\n".join([f"{title}\n", *(table.markdown() for table in shown)])
    (DOCS / f"{name or catalog}.md").write_text(text, encoding="utf-8")
    (DOCS / f"{name or catalog}.png").write_bytes(png(draw_front(lines)))
    record = {
        "machine": machine(),
        "catalog": catalog,
        "items": plan.num_items,
        "labels": plan.num_labels,
        "test_items": len(data.test),
        "seeds": num_seeds,
        "common": common,
        "configs": configs,
        "lines": tables.record(lines),
        "extra": [[table.columns, *table.rows] for table in extra],
    }
    path = RESULTS / f"{name or f'study-{catalog}'}.json"
    path.write_text(json.dumps(plain_json(record), indent=1) + "\n", encoding="utf-8")


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


if __name__ == "__main__":
    main()
