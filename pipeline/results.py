"""What a run, a decision on it or a reference reaches on held-out items.

T held-out items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.acceptance import Acceptance, Answers, accept
from pipeline.decisions import Decision, argmax, fit_temperature
from pipeline.metrics import Metrics, Outcomes, expected_calibration_error, outcomes
from pipeline.predictions import Chunk, Classifier, Predictions, measure_predictions, rank
from pipeline.tensors import FitData


@dataclass(frozen=True, kw_only=True)
class Result:
    """Predictions for some rows and what they are worth."""

    predictions: Predictions
    answers: Answers
    """The first of them."""
    metrics: Metrics
    outcomes: Outcomes
    val_answers: Answers | None = None
    """To the val items; None where val was not looked at, and so below."""
    temperature: float | None = None
    """That val asks for, on top of the classifier's own."""
    calibrated_ece: float | None = None
    """ECE with that temperature."""
    acceptance: tuple[Acceptance, ...] = ()
    """With thresholds from val."""


def measured(
    predictions: Predictions,
    data: FitData,
    rows: Int64[Tensor, " T"],
    *,
    exclude_true: bool = False,
) -> Result:
    """Measure predictions on their own, as of a reference."""
    return Result(
        predictions=predictions,
        answers=_answers(predictions, data, rows),
        metrics=measure_predictions(predictions, data, rows, exclude_true=exclude_true),
        outcomes=outcomes(
            predictions.top_labels,
            data.labels[rows].cpu().numpy(),
            predictions.predicted,
            data.graph,
            taxonomy=data.taxonomy,
            exclude_true=exclude_true,
        ),
    )


def evaluate_classifier(
    classifier: Classifier,
    data: FitData,
    rows: Int64[Tensor, " T"],
    *,
    decision: Decision = argmax,
    exclude_true: bool = False,
) -> Result:
    """Run a classifier over val and some rows; temperature and thresholds come from val.

    Holds the log-probabilities of one split: 174 MB for 10,000 items and 4,350 labels.

    Args:
        classifier: as it is; its temperature is fitted beside it.
        data: items and embeddings.
        rows: whose metrics.
        decision: how probabilities become a ranking.
        exclude_true: do not count the true label itself in neighbors@5.
    """
    said = list(classifier.log_p(data, data.val))
    temperature = _temperature_of(said, data)
    val = _answers(rank(said, data, decision), data, data.val)
    said = list(classifier.log_p(data, rows))
    found = measured(rank(said, data, decision), data, rows, exclude_true=exclude_true)
    tempered = (chunk.at(temperature) for chunk in said)
    calibrated = _answers(rank(tempered, data, decision), data, rows)
    is_kept = calibrated.confidence > -np.inf
    return replace(
        found,
        val_answers=val,
        temperature=temperature,
        calibrated_ece=expected_calibration_error(
            calibrated.confidence[is_kept], calibrated.is_right[is_kept]
        ),
        acceptance=accept(val, found.answers, data.num_classes),
    )


def fitted_temperature(classifier: Classifier, data: FitData) -> float:
    """Return the temperature that fits the classifier's probabilities to val."""
    return _temperature_of(list(classifier.log_p(data, data.val)), data)


def _temperature_of(said: Sequence[Chunk], data: FitData) -> float:
    log_p = torch.cat([chunk.log_p[chunk.predicted] for chunk in said])
    rows = torch.cat([chunk.rows[chunk.predicted] for chunk in said])
    return fit_temperature(log_p, data.labels[rows]) if len(rows) else 1.0


def _answers(predictions: Predictions, data: FitData, rows: Int64[Tensor, " T"]) -> Answers:
    """Return the top answers to some rows, for acceptance."""
    label = predictions.top_labels[:, 0]
    return Answers(
        label=label,
        confidence=np.where(predictions.predicted, predictions.top_probabilities[:, 0], -np.inf),
        is_right=predictions.predicted & (label == data.labels[rows].cpu().numpy()),
    )


def mean_outcomes(results: Sequence[Result]) -> Outcomes:
    """Return the items' outcomes, mean over seeds."""
    every = [result.outcomes for result in results]
    means = {
        name: np.mean([getattr(each, name) for each in every], axis=0)
        for name in ("top1", "top5", "neighbors_at_5", "mistakes")
    }
    distances = [each.mistake_distance for each in every if each.mistake_distance is not None]
    return Outcomes(**means, mistake_distance=np.mean(distances, axis=0) if distances else None)
