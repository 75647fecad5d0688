"""What binary codes of labels are good for: beside approaches 1 to 5, unseen classes included.

    python benchmarks/codes.py simulated --folder FOLDER [--items 200000] [--seeds 3]
    python benchmarks/codes.py grocery --folder FOLDER

A twentieth of the classes (a tenth of grocery's) has no train and no val item, as if it were added
after training. Two more tables, of seed 0: every class with the same few train items, and codes of
other sizes and sources; the report is written after each table. Runs of the same config are reused,
so it goes on where it was stopped.
Writes docs/study/codes-<catalog>.md and .png, and the numbers as
benchmarks/results/codes-<catalog>.json.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import DATA, SMALL, make_catalog, make_entries, report

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.storage import LocalStorage
from pipeline.codes import make_codes
from pipeline.fit import fit_all
from pipeline.label_codes import codes_name, read_codes
from pipeline.metrics import Metrics
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.errors import CodesError
from schemas.plan import Plan
from schemas.run import FitConfig, FitRuntime

CODES = {"approach": "codes"}
SHUFFLED = {"approach": "codes-shuffled"}
# What tells a config from the defaults, by the name it has in the tables.
CONFIGS: dict[str, dict[str, Any]] = {
    "1": {"approach": "1"},
    "2": {"approach": "2"},
    "3": {"approach": "3"},
    "4": {"approach": "4"},
    "5": {"approach": "5"},
    "codes": CODES,
    "codes, shuffled": SHUFFLED,
    "codes beside classes": {**CODES, "code_head": "beside"},
    "codes, loss of bits": {**CODES, "code_loss": "bits"},
    "codes, loss of bits, shuffled": {**SHUFFLED, "code_loss": "bits"},
}
ENSEMBLES = [("codes", "5")]
SOURCES = [
    *(("embedding", num_bits) for num_bits in (32, 128, 512)),
    ("taxonomy", 0),
    ("both", 128),
]
FEW = (1, 4)  # train items a class
FEW_CONFIGS = ("1", "5", "codes", "codes, shuffled", "codes beside classes")
# Enough steps, also where all items together are less than a batch.
FEW_COMMON: dict[str, dict[str, Any]] = {
    "simulated": {"epochs": 10, "batch_size": 256},
    "grocery": {"epochs": 100, "patience": 100, "batch_size": 64},
}
UNSEEN = {"simulated": 20, "grocery": 10}  # one class of so many


def main() -> None:
    """Make the catalog if it is not there, fit what is missing, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("catalog", choices=["simulated", "grocery"])
    parser.add_argument("--folder", type=Path, required=True, help="workspace")
    parser.add_argument("--items", type=int, default=200_000, help="of the simulated catalog")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there: it has the labels and photographs of this study")
    workspace = LocalStorage(options.folder)
    plan = make_catalog(options.catalog, workspace, options.items)
    sources = [codes_of(workspace, plan, *each) for each in SOURCES]
    data = hold_out(FitData(workspace, plan, torch.device("cpu")), UNSEEN[options.catalog])
    common = SMALL if options.catalog == "simulated" else {}
    runs = LocalStorage(options.folder / "unseen")
    configs = [
        FitConfig(**chosen, **common, seed=seed)
        for seed in range(options.seeds)
        for chosen in CONFIGS.values()
    ]
    fit(runs, data, configs)
    entries = make_entries(runs, data, common, options.seeds, CONFIGS, ENSEMBLES)
    name = f"codes-{options.catalog}"
    extra: list[TextTable] = []
    makers = [
        lambda: few_table(options.folder, data, {**common, **FEW_COMMON[options.catalog]}),
        lambda: sizes_table(runs, data, common, sources),
    ]
    report(options.catalog, plan, data, common, entries, name=name, configs=CONFIGS)
    for make in makers:
        extra.append(make())
        report(
            options.catalog, plan, data, common, entries, name=name, configs=CONFIGS, extra=extra
        )


def codes_of(
    workspace: LocalStorage, plan: Plan, source: str, num_bits: int
) -> tuple[str, int, int]:
    """Return codes' name, bits and collisions; they are made where they are not there."""
    name = codes_name(source, num_bits)
    try:
        codes = read_codes(workspace, plan, name)
    except CodesError:
        _, codes = make_codes(workspace, plan, source=source, num_bits=num_bits or 1)
    return name, codes.num_bits, codes.num_collisions


def hold_out(data: FitData, one_of: int) -> FitData:
    """Return the same data without train and val items of some classes."""
    num_unseen = data.num_classes // one_of
    unseen = np.random.default_rng(0).choice(data.num_classes, num_unseen, replace=False)
    is_unseen = torch.zeros(data.num_classes, dtype=torch.bool)
    is_unseen[unseen] = True
    train, val = (rows[~is_unseen[data.labels[rows]]] for rows in (data.train, data.val))
    return data.with_rows(train=train, val=val, test=data.test)


def keep_few(data: FitData, num_each: int) -> FitData:
    """Return the same data with so many train items a class, or all of fewer."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data.train)))
    labels = data.labels[data.train[order]]
    by_label = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=data.num_classes)
    first = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(labels)) - first[labels[by_label]]
    kept = order[by_label[place < num_each]]
    return data.with_rows(train=data.train[kept.sort().values], val=data.val, test=data.test)


def fit(runs: LocalStorage, data: FitData, configs: list[FitConfig]) -> list[Metrics]:
    """Fit what is missing."""
    runs.root.mkdir(parents=True, exist_ok=True)
    found = fit_all(runs, data, configs, runtime=FitRuntime(resume=True))
    for each in found:
        words = "reused" if each.is_reused else f"{each.seconds:.0f} s"
        print(f"{each.name:<50} top1 {each.metrics.top1:.4f}, {words}", flush=True)
    return [each.metrics for each in found]


def sizes_table(
    runs: LocalStorage,
    data: FitData,
    common: dict[str, Any],
    sources: list[tuple[str, int, int]],
) -> TextTable:
    """Compare codes of other sizes and sources, alone and beside classes, seed 0."""
    # Siblings share all their categories: the taxonomy alone cannot tell them apart.
    heads = {name: "beside" if name == "taxonomy" else "alone" for name, *_ in sources}
    configs = [
        FitConfig(**CODES, codes=name, code_head=head, **common) for name, head in heads.items()
    ]
    rows = [
        (
            name + (", beside classes" if heads[name] == "beside" else ""),
            f"{num_bits}",
            f"{num_collisions:,}",
            *percents(metrics),
        )
        for (name, num_bits, num_collisions), metrics in zip(
            sources, fit(runs, data, configs), strict=True
        )
    ]
    return TextTable(
        title="Codes of other sizes and sources, seed 0",
        columns=("codes", "bits", "share a code", *PERCENTS),
        rows=tuple(rows),
        note="zero: classes without train items",
    )


PERCENTS = ("top1", "top5", "head", "mid", "tail", "zero", "zero@5")


def percents(metrics: Metrics) -> list[str]:
    """Return a run's columns."""
    values = [metrics.top1, metrics.top5, *(metrics.group_top1 or ())]
    values += [metrics.zero_shot_top1 or 0.0, metrics.zero_shot_top5 or 0.0]
    return [f"{100 * value:.2f}" for value in values]


def few_table(folder: Path, data: FitData, common: dict[str, Any]) -> TextTable:
    """Compare approaches where every class has as few train items, seed 0."""
    rows = []
    for num_each in FEW:
        few = keep_few(data, num_each)
        configs = [FitConfig(**CONFIGS[name], **common) for name in FEW_CONFIGS]
        every = fit(LocalStorage(folder / f"few-{num_each}"), few, configs)
        for name, metrics in zip(FEW_CONFIGS, every, strict=True):
            zero = (metrics.zero_shot_top1 or 0.0, metrics.zero_shot_top5 or 0.0)
            values = (metrics.top1, metrics.top5, metrics.macro_f1, *zero)
            rows.append(
                (name, f"{num_each}", f"{len(few.train):,}", *(f"{100 * x:.2f}" for x in values))
            )
    return TextTable(
        title="Few train items a class, seed 0, all test items",
        columns=("approach", "items", "in all", "top1", "top5", "F1", "zero", "zero@5"),
        rows=tuple(rows),
    )


if __name__ == "__main__":
    main()
