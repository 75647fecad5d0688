"""All approaches side by side: fits what is missing and writes the paper's two tables.

Takes the workspace's cache and label graph; writes report/compare.md, .json and .png. Beside the
approaches stand two references that train nothing: the largest class and the nearest title.

N items, T test items, D embedding width.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from cache.storage import Storage
from pipeline.device import pick_device
from pipeline.fit import RunResult, fit
from pipeline.metrics import TOP, Metrics
from pipeline.plots import plot_compare
from pipeline.runs import without_unused
from pipeline.search import top_k
from pipeline.targets.registry import PAPER_APPROACHES, get_approach
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.configs import to_dict
from schemas.plan import Plan
from schemas.run import FitConfig

logger = logging.getLogger(__name__)

BASELINE = PAPER_APPROACHES[0]
# 1-NN over every train title would take hours on a CPU at 12M items.
_MAX_TITLES = 200_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What compare found."""

    table1: TextTable
    """top1 and top5, and their change against approach 1."""
    table2: TextTable
    """Share of test items with 0..5 of the top 5 in range, and the mean."""
    files: tuple[str, ...]
    """What was written."""


def compare(
    workspace: Storage,
    plan: Plan,
    *,
    approaches: Sequence[str] = PAPER_APPROACHES,
    num_seeds: int = 3,
    config: FitConfig | None = None,
    device: str = "auto",
) -> Comparison:
    """Fit what is missing and compare.

    Args:
        workspace: where the plan, the cache and the label graph are.
        plan: the workspace's plan.
        approaches: names; approach 1 is always among them.
        num_seeds: runs of each approach, with seeds 0, 1, ...
        config: options of all runs; its approach and seed are replaced.
        device: where to train.
    Raises: as fit.
    """
    base = config or FitConfig(approach=BASELINE)
    names = [BASELINE, *(name for name in approaches if name != BASELINE)]
    for name in names:
        get_approach(name)
    data = FitData(workspace, plan, pick_device(device), allow_partial=base.allow_partial)
    runs: dict[str, list[RunResult]] = {
        name: [
            fit(
                workspace,
                plan,
                without_unused(replace(base, approach=name, seed=seed)),
                device=device,
                data=data,
            )
            for seed in range(num_seeds)
        ]
        for name in names
    }
    references = {
        "largest class": majority_top1(data),
        "nearest title": nearest_title_top1(data),
    }
    return _write(workspace, runs, references, num_test=len(data.test))


def majority_top1(data: FitData) -> float:
    """Return top1 of always answering with the largest train class."""
    labels = data.labels.cpu().numpy()
    largest = np.bincount(labels[data.train.cpu().numpy()]).argmax()
    return float((labels[data.test.cpu().numpy()] == largest).mean())


def nearest_title_top1(data: FitData) -> float:
    """Return top1 of answering with the label of the train item with the nearest title."""
    title_ok = data.title_ok.cpu().numpy()
    labels = data.labels.cpu().numpy()
    train, test = data.train.cpu().numpy(), data.test.cpu().numpy()
    train = train[title_ok[train]]
    if len(train) > _MAX_TITLES:
        logger.info("nearest title: %d of %d train titles, by chance", _MAX_TITLES, len(train))
        train = np.random.default_rng(0).choice(train, _MAX_TITLES, replace=False)
    asked = test[title_ok[test]]
    title_emb = data.title_emb.cpu().numpy()
    if not len(train) or not len(asked):
        return 0.0
    _, nearest = top_k(title_emb[asked].astype(np.float32), title_emb[train].astype(np.float32), 1)
    return float((labels[train[nearest[:, 0]]] == labels[asked]).sum() / len(test))


def _write(
    workspace: Storage,
    runs: dict[str, list[RunResult]],
    references: dict[str, float],
    *,
    num_test: int,
) -> Comparison:
    metrics = {name: [run.metrics for run in results] for name, results in runs.items()}
    num_seeds = len(metrics[BASELINE])
    note = f"{num_test:,} test items; mean" + (" +- std" if num_seeds > 1 else "")
    note += f" of {num_seeds} seed{'s' if num_seeds > 1 else ''}"
    table1, table2 = _table1(metrics, references, note), _table2(metrics, note)
    record: dict[str, Any] = {
        "num_test": num_test,
        "references_top1": references,
        "approaches": {
            name: {
                "title": get_approach(name).title,
                "runs": {run.name: to_dict(run.metrics) for run in results},
            }
            for name, results in runs.items()
        },
    }
    files = {
        "report/compare.md": f"{table1.markdown()}\n{table2.markdown()}".encode(),
        "report/compare.json": (json.dumps(record, indent=2) + "\n").encode(),
        "report/compare.png": plot_compare(metrics),
    }
    for name, data in files.items():
        workspace.write(name, data)
    return Comparison(table1=table1, table2=table2, files=tuple(map(workspace.where, files)))


def _table1(
    metrics: dict[str, list[Metrics]], references: dict[str, float], note: str
) -> TextTable:
    rows = []
    for name, results in metrics.items():
        row = [_title(name)]
        for metric in ("top1", "top5"):
            values = [getattr(each, metric) for each in results]
            baseline = [getattr(each, metric) for each in metrics[BASELINE]]
            change = fmean(values) - fmean(baseline)
            row += [_percent(values), "" if name == BASELINE else f"{100 * change:+.2f}"]
        rows.append(tuple(row))
    rows += [
        (f"   {name} (reference)", f"{100 * top1:.2f}", "", "", "")
        for name, top1 in references.items()
    ]
    return TextTable(
        title="Table 1: top-1 and top-5 accuracy in percent, and change against approach 1",
        columns=("approach", "top1", "change", "top5", "change"),
        rows=tuple(rows),
        note=note,
    )


def _table2(metrics: dict[str, list[Metrics]], note: str) -> TextTable:
    rows = []
    for name, results in metrics.items():
        shares = np.mean([each.neighbors_at_5_shares for each in results], axis=0)
        mean = _spread([each.neighbors_at_5 for each in results], 2)
        top5 = _percent([each.top5 for each in results])
        rows.append((_title(name), *(f"{100 * share:.2f}" for share in shares), mean, top5))
    return TextTable(
        title="Table 2: percent of test items with 0 to 5 of their top 5 in range "
        "(the true label and its neighbors)",
        columns=("approach", *(str(count) for count in range(TOP + 1)), "mean", "top5"),
        rows=tuple(rows),
        note=note,
    )


def _title(name: str) -> str:
    return f"{name}. {get_approach(name).title}"


def _percent(values: list[float]) -> str:
    return _spread([100 * value for value in values], 2)


def _spread(values: list[float], digits: int) -> str:
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} +- {stdev(values):.{digits}f}" if len(values) > 1 else mean
