"""Look closely at a finished run: metrics, categories, confusions, what may be accepted.

Takes a run's folder and the cache, reruns only the head (seconds), and writes report/<name>/:
metrics.json, categories.parquet, confusions.parquet, predictions.parquet, calibration.png. The
probabilities may be averaged with another run's, fitted to val, or ranked by another decision.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from cache.layout import parquet_bytes
from cache.reader import read_labels
from cache.storage import Storage
from pipeline.acceptance import MIN_ANSWERS, Acceptance
from pipeline.categories import (
    categories_table,
    confusions_table,
    top_confusions,
    worst_categories,
)
from pipeline.decisions import make_decision
from pipeline.device import pick_device
from pipeline.metrics_table import metrics_table
from pipeline.plots import plot_reliability
from pipeline.predictions import Classifier, predictions_file
from pipeline.results import Result, evaluate_classifier, fitted_temperature
from pipeline.runs import find_run, load_run, run_folder
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.configs import plain_json, to_dict
from schemas.plan import Plan
from schemas.run import EvaluateConfig


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What evaluate found."""

    result: Result
    categories: pa.Table
    """One row a label."""
    confusions: pa.Table
    """One row a pair of truth and other answer that occurred."""
    tables: tuple[TextTable, ...]
    """Metrics, acceptance, worst categories, most confused pairs."""
    record: dict[str, Any]
    """What metrics.json says."""
    folder: str
    """Where the files are."""


def evaluate(
    workspace: Storage, plan: Plan, config: EvaluateConfig, *, device: str = "auto"
) -> Evaluation:
    """Evaluate a finished run, or the mean of several.

    Args:
        workspace: where the plan, the cache and the runs are.
        plan: the workspace's plan.
        config: which runs, and how.
        device: where to compute.
    Raises: FitError if a run is not finished, of other inputs, or not the only one that begins so;
        TargetError for an unknown decision, or `crm` without paths.
    """
    config = replace(config, runs=tuple(find_run(workspace, run) for run in config.runs))
    data = FitData(
        workspace,
        plan,
        pick_device(device),
        allow_partial=config.allow_partial,
        clean=run_folder(workspace, config.runs[0]).record().config.clean,
    )
    decision = make_decision(config.decision, data.graph, data.taxonomy, data.device)
    loaded = [load_run(workspace, name, data) for name in config.runs]
    classifier = Classifier([(network, record.config.modalities) for network, record in loaded])
    temperature = fitted_temperature(classifier, data) if config.calibrate else 1.0
    rows = data.test if config.split == "test" else data.val
    result = evaluate_classifier(
        classifier.at(temperature),
        data,
        rows,
        decision=decision,
        exclude_true=config.exclude_true,
    )
    labels, names = data.labels[rows].cpu().numpy(), read_labels(workspace, plan)
    confusions = confusions_table(labels, result.answers, data.graph, data.taxonomy, names)
    categories = categories_table(
        result, labels, names=names, train_counts=data.train_counts, confusions=confusions
    )
    record = _record(result, config, temperature)
    files = {
        "metrics.json": (json.dumps(record, indent=2) + "\n").encode(),
        "categories.parquet": parquet_bytes(categories),
        "confusions.parquet": parquet_bytes(confusions),
        "predictions.parquet": predictions_file(result.predictions, data, rows),
        "calibration.png": plot_reliability(result, config.name()),
    }
    for name, content in files.items():
        workspace.write(f"report/{config.name()}/{name}", content)
    return Evaluation(
        result=result,
        categories=categories,
        confusions=confusions,
        tables=(
            _metrics_table(result, config, temperature),
            acceptance_table(result.acceptance, config.split),
            worst_categories(categories),
            top_confusions(confusions),
        ),
        record=record,
        folder=workspace.where(f"report/{config.name()}"),
    )


def _record(result: Result, config: EvaluateConfig, temperature: float) -> dict[str, Any]:
    record = {
        **to_dict(config),
        "temperature": temperature,
        "metrics": to_dict(result.metrics),
        "fitted_temperature": result.temperature,
        "calibrated_ece": result.calibrated_ece,
        "acceptance": [asdict(each) for each in result.acceptance],
    }
    found: dict[str, Any] = plain_json(record)
    return found


def _metrics_table(result: Result, config: EvaluateConfig, temperature: float) -> TextTable:
    title = f"{' and '.join(config.runs)} on {result.metrics.num_items:,} {config.split} items"
    if config.decision != "argmax":
        title += f", ranked by {config.decision}"
    note = f"temperature {temperature:.3f}, fitted on val"
    if not config.calibrate:
        note = (
            f"with the temperature that val asks for, {result.temperature:.3f}: "
            f"ECE {result.calibrated_ece:.4f} (--calibrate)"
        )
    return metrics_table(result.metrics, title=title, note=note)


def acceptance_table(acceptance: tuple[Acceptance, ...], split: str) -> TextTable:
    """Return what may be accepted without a person."""
    rows = [
        (
            f"{100 * each.target:.0f} %",
            f"{each.threshold:.4f}",
            f"{100 * each.coverage:.1f} %",
            f"{100 * each.precision:.2f} %",
            f"{100 * each.category_coverage:.1f} %",
            f"{100 * each.category_precision:.2f} %",
        )
        for each in acceptance
    ]
    return TextTable(
        title="What may be accepted without a person: thresholds from val",
        columns=(
            "precision asked for",
            "threshold",
            "accepted",
            "precision reached",
            "accepted, by category",
            "precision reached",
        ),
        rows=tuple(rows),
        note=f"accepted: share of all {split} items; by category: a threshold for each answer that "
        f"val has {MIN_ANSWERS} of, else the one for all"
        + ("; thresholds were chosen on these very items" if split == "val" else ""),
    )
