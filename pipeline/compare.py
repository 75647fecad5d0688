"""All approaches side by side: fits what is missing and writes the paper's tables.

Takes the workspace's cache and label graph; writes report/compare.md and .json and its pictures.
Beside the trained approaches stand the ensemble that the paper advises, controls (other decisions
on the baseline) and references: what a user would pick instead.

T test items.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cache.reader import read_label_emb
from cache.storage import Storage
from pipeline import compare_tables as tables
from pipeline import references
from pipeline.compare_tables import Entry
from pipeline.decisions import make_decision
from pipeline.device import pick_device
from pipeline.figures import png, svg
from pipeline.fit import DEFAULT_RUNTIME, RunResult, fit_all
from pipeline.fusion import FusionNetwork
from pipeline.plots import (
    draw_calibration,
    draw_compare,
    draw_coverage,
    draw_front,
    draw_learning,
)
from pipeline.predictions import Classifier, Predictions
from pipeline.results import Result, evaluate_classifier, measured
from pipeline.runs import load_run, read_history, refuse_unused, without_unused
from pipeline.targets.registry import BASELINE, PAPER_APPROACHES, PARTNER, get_approach
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.configs import plain_json, to_dict
from schemas.errors import CacheIncompleteError
from schemas.plan import Plan
from schemas.run import FitConfig, FitRuntime
from schemas.targets import MAX_DENSE_CLASSES

logger = logging.getLogger(__name__)

# Of each seed, the networks whose probabilities are averaged, with what each may see.
Members = list[list[tuple[FusionNetwork, str]]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What compare found."""

    entries: tuple[Entry, ...]
    """Lines of the tables: approaches, controls, references; the baseline first."""
    tables: tuple[TextTable, ...]
    """The paper's two, one of mistakes, one of calibration and acceptance."""
    record: dict[str, Any]
    """What the JSON says."""
    files: tuple[str, ...]
    """What was written: Markdown, JSON and pictures."""


def compare(
    workspace: Storage,
    plan: Plan,
    *,
    approaches: Sequence[str] = PAPER_APPROACHES,
    num_seeds: int = 3,
    config: FitConfig | None = None,
    runtime: FitRuntime = DEFAULT_RUNTIME,
    exclude_true: bool = False,
) -> Comparison:
    """Fit what is missing and compare.

    Args:
        workspace: where the plan, the cache and the label graph are.
        plan: the workspace's plan.
        approaches: names; approach 1 is always among them.
        num_seeds: runs of each approach, with seeds 0, 1, ...
        config: options of all runs; its approach and seed are replaced.
        runtime: how runs are computed; one that was stopped goes on where it was.
        exclude_true: do not count the true label itself in neighbors@5.
    Raises: as fit.
    """
    base = config or FitConfig(approach=BASELINE)
    names = list(dict.fromkeys([BASELINE, *approaches]))
    for name in names:
        get_approach(name)
    refuse_unused(base, names)
    data = FitData(
        workspace,
        plan,
        pick_device(runtime.device),
        allow_partial=base.allow_partial,
        clean=base.clean,
    )
    configs = {name: without_unused(replace(base, approach=name)) for name in names}
    each = [replace(configs[name], seed=seed) for name in names for seed in range(num_seeds)]
    made = fit_all(workspace, data, each, runtime=replace(runtime, resume=True))
    runs = {name: made[i * num_seeds :][:num_seeds] for i, name in enumerate(names)}
    entries = _Entries(workspace, data, runs, exclude_true=exclude_true)
    every = [
        *entries.approaches(),
        *entries.ensembles(),
        *entries.controls(),
        *entries.references(plan),
    ]
    histories = {
        entries.title(name): [read_history(workspace, run.name) for run in results]
        for name, results in runs.items()
    }
    return _write(workspace, every, histories, runs, len(data.test), exclude_true=exclude_true)


class _Entries:
    """Makes the lines of the tables."""

    def __init__(
        self,
        workspace: Storage,
        data: FitData,
        runs: dict[str, list[RunResult]],
        *,
        exclude_true: bool,
    ) -> None:
        self._workspace, self._data, self._runs = workspace, data, runs
        self._exclude_true = exclude_true
        self._members: dict[str, Members] = {}
        for name, results in runs.items():
            loaded = [load_run(workspace, result.name, data) for result in results]
            self._members[name] = [[(net, record.config.modalities)] for net, record in loaded]

    def title(self, name: str) -> str:
        return f"{name}. {get_approach(name).title}"

    def approaches(self) -> list[Entry]:
        return [
            self._entry(self.title(name), "approach", self._members[name]) for name in self._runs
        ]

    def controls(self) -> list[Entry]:
        """Other decisions on the baseline."""
        found = [("then its neighbors", "neighbors")]
        if self._data.taxonomy is not None and self._data.num_classes <= MAX_DENSE_CLASSES:
            found.append(("by CRM", "crm"))
        return [
            self._entry(f"{BASELINE}, {words}", "control", self._members[BASELINE], decision)
            for words, decision in found
        ]

    def ensembles(self) -> list[Entry]:
        """The paper's advice: approach 4 with that of best val top1; seed by seed, and all."""
        if PARTNER not in self._runs:
            return []
        best = max((name for name in self._runs if name != PARTNER), key=self._val_top1)
        pairs = [
            [*one, *other]
            for one, other in zip(self._members[PARTNER], self._members[best], strict=True)
        ]
        title = f"{PARTNER} and {best} together"
        found = [self._entry(title, "ensemble", pairs)]
        if len(pairs) > 1:
            every = [member for pair in pairs for member in pair]
            found.append(self._entry(f"{title}, {len(pairs)} seeds each", "ensemble", [every]))
        return found

    def references(self, plan: Plan) -> list[Entry]:
        found = {"largest class": references.largest_class(self._data)}
        try:
            label_emb = read_label_emb(self._workspace, plan)
        except CacheIncompleteError:
            logger.info("no zero-shot lines: the labels are not embedded by the plan's encoder")
        else:
            for view in references.VIEWS:
                found[f"nearest label, {view}"] = references.zero_shot(self._data, label_emb, view)
        is_sample = len(self._data.train) > references.MAX_TRAIN
        sample = f" of {references.MAX_TRAIN:,}" if is_sample else ""
        for view in references.VIEWS:
            predictions, k = references.nearest_items(self._data, view)
            found[f"nearest items{sample}, {view} (k = {k})"] = predictions
        return [
            Entry(title=title, kind="reference", results=(self._measured(predictions),))
            for title, predictions in found.items()
        ]

    def _entry(
        self, title: str, kind: tables.Kind, members: Members, decision: str = "argmax"
    ) -> Entry:
        data = self._data
        chosen = make_decision(decision, data.graph, data.taxonomy, data.device)
        results: list[Result] = [
            evaluate_classifier(
                Classifier(together),
                data,
                data.test,
                decision=chosen,
                exclude_true=self._exclude_true,
            )
            for together in members
        ]
        return Entry(title=title, kind=kind, results=tuple(results))

    def _measured(self, predictions: Predictions) -> Result:
        data = self._data
        return measured(predictions, data, data.test, exclude_true=self._exclude_true)

    def _val_top1(self, name: str) -> float:
        return sum(
            max(row["val/top1"] for row in read_history(self._workspace, run.name))
            for run in self._runs[name]
        )


def _write(
    workspace: Storage,
    entries: list[Entry],
    histories: dict[str, list[list[dict[str, float]]]],
    runs: dict[str, list[RunResult]],
    num_test: int,
    *,
    exclude_true: bool,
) -> Comparison:
    num_seeds = len(entries[0].results)
    note = f"{num_test:,} test items; mean" + (" +- std" if num_seeds > 1 else "")
    note += f" of {num_seeds} seed{'s' if num_seeds > 1 else ''}"
    if exclude_true:
        note += "; neighbors@5 without the true label"
    suffix = "-exclude-true" if exclude_true else ""
    lines = tables.compared(entries)
    makers = (tables.table1, tables.table2, tables.table3, tables.table4)
    shown = tuple(make(lines, note) for make in makers)
    record: dict[str, Any] = {
        "num_test": num_test,
        "num_seeds": num_seeds,
        "exclude_true": exclude_true,
        "entries": tables.record(lines),
        "runs": {run.name: to_dict(run.metrics) for results in runs.values() for run in results},
        "seeds": {name: [run.name for run in results] for name, results in runs.items()},
        "tables": [table.as_dict() for table in shown],
    }
    record = plain_json(record)
    figures = {
        "compare": draw_compare(entries),
        "front": draw_front(lines),
        "calibration": draw_calibration(entries),
        "learning": draw_learning(histories),
        "coverage": draw_coverage(entries),
    }
    pngs = {each: png(figure) for each, figure in figures.items()}
    svgs = {each: svg(figure) for each, figure in figures.items()}
    record["figures"] = {each: hashlib.sha256(data).hexdigest() for each, data in svgs.items()}
    files = {
        f"report/compare{suffix}.md": "\n".join(table.markdown() for table in shown).encode(),
        f"report/compare{suffix}.json": (json.dumps(record, indent=2) + "\n").encode(),
        **{f"report/{each}{suffix}.png": data for each, data in pngs.items()},
        **{f"report/{each}{suffix}.svg": data for each, data in svgs.items()},
    }
    for file, data in files.items():
        workspace.write(file, data)
    return Comparison(
        entries=tuple(entries),
        tables=shown,
        record=record,
        files=tuple(map(workspace.where, files)),
    )
