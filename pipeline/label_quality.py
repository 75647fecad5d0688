"""Rank items by how little a network that never saw them believes their label.

Five networks are trained, each without a fifth of the items, and asked about that fifth; cleanlab
decides from their probabilities how many labels are suspicious. Takes the cache and the label
graph. Costs five fits and, at 12M items and C = 4,350, two passes over the head.

N items, n some items, C classes.
Source: Northcutt et al., JAIR 2021 (confident learning).
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cleanlab.experimental.label_issues_batched import LabelInspector
from jaxtyping import Float32, Int64
from torch import Tensor

from pipeline.predictions import Chunk, Classifier
from pipeline.ranks import ALONE
from pipeline.runs import make_record
from pipeline.stopping import Stop, listening
from pipeline.targets.options import TargetOptions
from pipeline.targets.registry import BASELINE, get_approach
from pipeline.tensors import FitData
from pipeline.trainer import Trainer
from schemas.run import FitConfig, FitRuntime

NUM_FOLDS = 5
_VAL_EVERY = 10  # of the items that a network may see, one in so many stops its training


@dataclass(frozen=True)
class LabelQuality:
    """What networks think of the labels of some items."""

    rows: Int64[np.ndarray, " n"]
    """Of the plan, rising."""
    labels: Int64[np.ndarray, " n"]
    """As they are."""
    quality: Float32[np.ndarray, " n"]
    """Probability of the item's own label."""
    suggested: Int64[np.ndarray, " n"]
    """The most probable label."""
    num_suspicious: int
    """So many labels are probably wrong, by confident learning."""

    def suspicious(self) -> Int64[np.ndarray, " m"]:
        """Return the positions of those labels, the least believed first."""
        others = np.flatnonzero(self.suggested != self.labels)
        return others[np.argsort(self.quality[others], kind="stable")][: self.num_suspicious]


def label_quality(
    data: FitData, rows: Int64[np.ndarray, " n"], *, config: FitConfig | None = None
) -> LabelQuality:
    """Train and ask.

    Args:
        data: of the whole catalog.
        rows: of the items to judge, without duplicates: a copy in another fold would vouch for it.
        config: of the networks; None for the defaults of approach 1.
    Raises: FitError, FitStoppedError.
    """
    config = config or FitConfig(approach=BASELINE)
    labels = data.labels.cpu().numpy()
    folds = _folds(labels[rows])
    with listening() as stop:
        data.load()
        asked = [
            (_trained(data, rows, folds, fold, config, stop), rows[folds == fold])
            for fold in range(NUM_FOLDS)
        ]
    inspector = LabelInspector(
        num_class=data.num_classes,
        verbose=False,
        store_results=False,
        n_jobs=1,
        num_issue_kwargs={"estimation_method": "off_diagonal"},
    )
    for chunk in _answers(data, asked):
        said = chunk.log_p.exp().cpu().numpy()
        inspector.update_confident_thresholds(labels[chunk.rows.cpu().numpy()], said)
    quality = np.full(len(labels), np.nan, np.float32)
    suggested = np.full(len(labels), -1, np.int64)
    for chunk in _answers(data, asked):
        place, said = chunk.rows.cpu().numpy(), chunk.log_p.exp().cpu().numpy()
        quality[place] = inspector.score_label_quality(labels[place], said)
        suggested[place] = said.argmax(axis=1)
    return LabelQuality(
        rows=rows,
        labels=labels[rows],
        quality=quality[rows],
        suggested=suggested[rows],
        num_suspicious=int(inspector.get_num_issues(silent=True)),
    )


def _folds(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Deal each label's items out to the folds, in random order."""
    order = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % NUM_FOLDS
    return fold


def _trained(
    data: FitData,
    rows: Int64[np.ndarray, " n"],
    folds: Int64[np.ndarray, " n"],
    fold: int,
    config: FitConfig,
    stop: Stop,
) -> Classifier:
    """Return a network that saw all folds but one."""
    seen = rows[folds != fold]
    is_val = np.arange(len(seen)) % _VAL_EVERY == 0

    def tensor(chosen: Int64[np.ndarray, " m"]) -> Tensor:
        return torch.from_numpy(chosen).to(data.device)

    part = data.with_rows(
        train=tensor(seen[~is_val]), val=tensor(seen[is_val]), test=tensor(rows[folds == fold])
    )
    targets = get_approach(config.approach).build(data.graph, TargetOptions(), data.paths)
    trainer = Trainer(part, make_record(config, part), targets, FitRuntime(), ALONE, stop)
    with tempfile.TemporaryDirectory() as folder:
        network = trainer.train(Path(folder), lambda checkpoint: None)
    return Classifier([(network, config.modalities)])


def _answers(
    data: FitData, asked: list[tuple[Classifier, Int64[np.ndarray, " m"]]]
) -> Iterator[Chunk]:
    for classifier, rows in asked:
        yield from classifier.log_p(data, torch.from_numpy(rows).to(data.device))
