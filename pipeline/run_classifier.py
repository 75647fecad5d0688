"""Finished runs as one classifier of embeddings, made from their folders alone.

T items, V val items, P predictions kept of each, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from pipeline.acceptance import choose_threshold
from pipeline.decisions import Decision, argmax, crm, fit_temperature
from pipeline.predictions import EVAL_BATCH, Classifier, Inputs, top_answers
from pipeline.run_folder import VAL, RunFolder
from pipeline.status import RUN_COMMIT
from pipeline.taxonomy import Taxonomy
from schemas.errors import FitError, TargetError
from schemas.plan import EncoderSpec
from schemas.run import PredictConfig, RunCommit


@dataclass(frozen=True)
class Answered:
    """Answers for T items, best first."""

    top_labels: Int64[np.ndarray, "T P"]
    top_probabilities: Float32[np.ndarray, "T P"]
    predicted: Bool[np.ndarray, " T"]
    """Whether there was anything to predict from."""
    accepted: Bool[np.ndarray, " T"]
    """Whether the first answer's probability reaches the threshold."""


@dataclass(frozen=True, kw_only=True)
class RunClassifier:
    """One run, or several whose probabilities are averaged, ready to answer."""

    runs: tuple[str, ...]
    """Names."""
    encoder: EncoderSpec
    """Whose embeddings it takes."""
    labels: pa.Table
    """Its answers, in the schema LABELS."""
    classifier: Classifier
    decision: Decision
    threshold: float
    """Least probability of an answer; -inf takes every one."""
    num_top: int
    """P."""
    sees_images: bool
    """Whether one of the networks looks at pictures."""
    device: torch.device

    def answer(self, inputs: Inputs) -> Answered:
        """Answer for some items, at most EVAL_BATCH."""
        inputs = Inputs(*(each.to(self.device) for each in inputs))
        log_p, predicted = self.classifier.of(inputs)
        found = top_answers(log_p, self.decision, min(self.num_top, log_p.shape[1]))
        top_labels, top_probabilities, can = (each.cpu().numpy() for each in (*found, predicted))
        accepted = can & (top_probabilities[:, 0] >= self.threshold)
        return Answered(top_labels, top_probabilities, can, accepted)


def open_classifier(
    folders: Sequence[RunFolder], config: PredictConfig, device: torch.device
) -> RunClassifier:
    """Load runs from their folders.

    Args:
        folders: of finished runs over the same labels and embeddings.
        config: how they are to answer.
        device: where to compute.
    Raises: FitError if a run is not finished and whole, two of them do not go together, or no
        threshold on val reaches `min_precision`; TargetError for `crm` without paths.
    """
    records = [folder.record() for folder in folders]
    first = folders[0]
    digests = [folder.read_json(RunCommit, RUN_COMMIT).sha256 for folder in folders]
    encoder, labels = first.encoder(), first.labels()
    spoken = labels.drop_columns(["count"])  # which changes with the catalog
    for folder in folders[1:]:
        is_other = folder.labels().drop_columns(["count"]) != spoken
        if is_other or folder.encoder().spec_id() != encoder.spec_id():
            raise FitError(
                f"{folder.name} has other labels or another encoder than {first.name}",
                where="--ensemble",
                fix="average runs of one workspace, trained since its plan changed last",
            )
    members = [
        (
            folder.network(record.config, embed_dim=encoder.embed_dim, num_classes=len(labels)).to(
                device
            ),
            record.config.modalities,
        )
        for folder, record in zip(folders, records, strict=True)
    ]
    classifier, decision = Classifier(members), _decision(config.decision, labels, device)
    if config.calibrate or config.min_precision is not None:
        if len({found[VAL] for found in digests}) > 1:
            raise FitError(
                "the runs have different val items: thresholds and temperature come from these",
                where="--ensemble",
                fix="fit the runs again on the workspace as it is, or leave --min-precision and "
                "--calibrate out",
            )
        val = first.val()
        val_labels = val.pop("labels")
        said = _said(classifier, Inputs(**val), device)
        if config.calibrate:
            can = said[1]
            temperature = fit_temperature(said[0][can], val_labels[can])
            classifier = classifier.at(temperature)
            said = _said(classifier, Inputs(**val), device)
    threshold = -np.inf
    if config.min_precision is not None:
        threshold = _threshold(*said, val_labels, decision, config.min_precision)
    return RunClassifier(
        runs=tuple(folder.name for folder in folders),
        encoder=encoder,
        labels=labels,
        classifier=classifier,
        decision=decision,
        threshold=threshold,
        num_top=config.num_top,
        sees_images=any(modalities != "title" for _, modalities in members),
        device=device,
    )


def _decision(name: str, labels: pa.Table, device: torch.device) -> Decision:
    if name == "argmax":
        return argmax
    if name == "crm":
        paths = labels["path"]
        return crm(None if paths.null_count else Taxonomy(paths.to_pylist()), device)
    raise TargetError(
        f"unknown decision {name!r}", where="--decision", fix="use one of: argmax, crm"
    )


def _said(
    classifier: Classifier, inputs: Inputs, device: torch.device
) -> tuple[Float[Tensor, "V C"], Bool[Tensor, " V"]]:
    """Return what the networks say of many items: 174 MB for 10,000 of 4,350 labels."""
    parts = [
        classifier.of(Inputs(*(each.to(device) for each in part)))
        for part in zip(*(each.split(EVAL_BATCH) for each in inputs), strict=True)
    ]
    log_p, predicted = zip(*parts, strict=True)
    return torch.cat(log_p).cpu(), torch.cat(predicted).cpu()


def _threshold(
    log_p: Float[Tensor, "V C"],
    predicted: Bool[Tensor, " V"],
    labels: Int64[Tensor, " V"],
    decision: Decision,
    min_precision: float,
) -> float:
    """Return the least probability above which enough answers on val are right."""
    parts = [top_answers(part, decision, 1) for part in log_p.split(EVAL_BATCH)]
    answer, probability = (torch.cat(each)[:, 0] for each in zip(*parts, strict=True))
    confidence = np.where(predicted.numpy(), probability.numpy(), -np.inf)
    is_right = (predicted & (answer == labels)).numpy()
    threshold = choose_threshold(confidence, is_right, min_precision)
    if threshold == np.inf:
        raise FitError(
            f"no threshold makes {min_precision:.1%} of the answers to the {len(labels):,} val "
            f"items right; without one {is_right.mean():.1%} are",
            where="--min-precision",
            fix="ask for less, or train a better run",
        )
    return threshold
