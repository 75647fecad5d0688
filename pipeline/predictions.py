"""What trained networks say of some rows, measured and as a file.

Only the head runs again, on cached embeddings: 10,000 items take about a second on 2 cores.

T items, P predictions kept of each, C classes, B batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Float16, Int, Int64
from torch import Tensor

from cache.layout import parquet_bytes
from pipeline.decisions import Decision, argmax
from pipeline.fusion import FusionNetwork
from pipeline.metrics import Metrics, measure
from pipeline.tensors import Batch, FitData
from schemas.tables import PREDICTIONS

NUM_PREDICTIONS = 20
EVAL_BATCH = 1024  # more at a time is slower on a CPU, and takes gigabytes of 100,000 classes


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Answers for T items, best first."""

    top_labels: Int64[np.ndarray, "T P"]
    top_probabilities: Float[np.ndarray, "T P"]
    nll: Float[np.ndarray, " T"]
    predicted: Bool[np.ndarray, " T"]


class Inputs(NamedTuple):
    """What a network reads of some items."""

    image_emb: Float16[Tensor, "B D"]
    title_emb: Float16[Tensor, "B D"]
    image_ok: Bool[Tensor, " B"]
    title_ok: Bool[Tensor, " B"]

    def seen_by(self, modalities: str) -> "Inputs":
        """Return the same without the modality that a network may not see."""
        if modalities == "both":
            return self
        name = "title_ok" if modalities == "image" else "image_ok"
        return self._replace(**{name: torch.zeros_like(self.image_ok)})


def network_inputs(data: FitData, batch: Batch, modalities: str) -> Inputs:
    """Return what the network reads of some rows, hiding the modality it may not see."""
    image_ok, title_ok = data.image_ok[batch.rows], data.title_ok[batch.rows]
    return Inputs(batch.image_emb, batch.title_emb, image_ok, title_ok).seen_by(modalities)


class Chunk(NamedTuple):
    """What networks say of some rows."""

    rows: Int64[Tensor, " B"]
    log_p: Float[Tensor, "B C"]
    """Log-probabilities."""
    predicted: Bool[Tensor, " B"]
    """Whether there was anything to predict from."""

    def at(self, temperature: float) -> "Chunk":
        """Return the same with the log-probabilities divided by this and normalized again."""
        return self._replace(log_p=_tempered(self.log_p, temperature))


class Classifier:
    """One trained network, or several whose probabilities are averaged."""

    def __init__(
        self, members: Sequence[tuple[FusionNetwork, str]], *, temperature: float = 1.0
    ) -> None:
        """Name the networks, each with the modalities that it may see.

        Args:
            members: at least one; an item's mean is over those that see anything of it.
            temperature: divides the log-probabilities, which are then normalized again.
        """
        self._members = members
        self._temperature = temperature

    def at(self, temperature: float) -> "Classifier":
        """Return the same networks with this temperature on top of their own."""
        return Classifier(self._members, temperature=self._temperature * temperature)

    def log_p(self, data: FitData, rows: Int64[Tensor, " T"]) -> Iterator[Chunk]:
        """Yield the log-probabilities of some rows, thousands at a time."""
        for chunk in rows.split(EVAL_BATCH):
            yield Chunk(chunk, *self.of(network_inputs(data, data.batch(chunk), "both")))

    @torch.inference_mode()
    def of(self, inputs: Inputs) -> tuple[Float[Tensor, "B C"], Bool[Tensor, " B"]]:
        """Return items' log-probabilities, and whether there was anything to predict from.

        Args:
            inputs: on the networks' device, at most EVAL_BATCH items.
        """
        found, sees = [], []
        for network, modalities in self._members:
            seen = inputs.seen_by(modalities)
            found.append(network.eval()(*seen).float().log_softmax(dim=1))
            sees.append(seen.image_ok | seen.title_ok)
        log_p = found[0] if len(found) == 1 else _mean_of_seeing(found, torch.stack(sees))
        if self._temperature != 1.0:
            log_p = _tempered(log_p, self._temperature)
        return log_p, torch.stack(sees).any(dim=0)


def _tempered(log_p: Float[Tensor, "B C"], temperature: float) -> Float[Tensor, "B C"]:
    return (log_p / temperature).log_softmax(dim=1)


def _mean_of_seeing(
    log_p: Sequence[Float[Tensor, "B C"]], sees: Bool[Tensor, "n B"]
) -> Float[Tensor, "B C"]:
    """Return the log of the mean probability over the networks that see anything of an item.

    One that sees nothing only knows how frequent classes are; of an item that nobody sees all do.
    """
    takes_part = sees | ~sees.any(dim=0)
    masked = torch.stack(list(log_p)).masked_fill(~takes_part[..., None], -torch.inf)
    return masked.logsumexp(dim=0) - takes_part.sum(dim=0).log()[:, None]


def predict(
    classifier: Classifier,
    data: FitData,
    rows: Int64[Tensor, " T"],
    decision: Decision = argmax,
) -> Predictions:
    """Run the networks over some rows and rank the labels.

    Args:
        classifier: what gives the probabilities.
        data: items and embeddings.
        rows: whose.
        decision: how probabilities become a ranking.
    """
    return rank(classifier.log_p(data, rows), data, decision)


@torch.inference_mode()
def rank(chunks: Iterable[Chunk], data: FitData, decision: Decision = argmax) -> Predictions:
    """Rank the labels of items whose probabilities are known."""
    num_kept = min(NUM_PREDICTIONS, data.num_classes)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for rows, log_p, predicted in chunks:
        item_nll = -log_p.gather(1, data.labels[rows][:, None])[:, 0]
        parts.append((*top_answers(log_p, decision, num_kept), item_nll, predicted))
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    return Predictions(
        top_labels=columns[0], top_probabilities=columns[1], nll=columns[2], predicted=columns[3]
    )


def top_answers(
    log_p: Float[Tensor, "B C"], decision: Decision, num_kept: int
) -> tuple[Int64[Tensor, "B P"], Float[Tensor, "B P"]]:
    """Return the best labels, best first, and their probabilities."""
    top = decision(log_p).topk(num_kept, dim=1).indices
    return top, log_p.gather(1, top).exp()


def measure_predictions(
    predictions: Predictions,
    data: FitData,
    rows: Int[Tensor, " T"],
    *,
    exclude_true: bool = False,
) -> Metrics:
    """Compare the answers for some rows with the truth."""
    return measure(
        predictions.top_labels,
        data.labels[rows].cpu().numpy(),
        predictions.predicted,
        data.graph,
        confidence=predictions.top_probabilities[:, 0],
        nll=predictions.nll,
        taxonomy=data.taxonomy,
        train_counts=data.train_counts,
        exclude_true=exclude_true,
    )


def predictions_file(predictions: Predictions, data: FitData, rows: Int64[Tensor, " T"]) -> bytes:
    """Return predictions.parquet; an item that could not be predicted has empty lists."""
    numbers = rows.cpu().numpy()
    kept = predictions.predicted

    def lists(values: np.ndarray) -> list[list[Any]]:
        return [list(row) if ok else [] for row, ok in zip(values.tolist(), kept, strict=True)]

    columns = {
        "row": numbers,
        "item_id": data.item_ids.take(pa.array(numbers)),
        "label": data.labels[rows].cpu().numpy(),
        "top_labels": lists(predictions.top_labels),
        "top_probabilities": lists(predictions.top_probabilities),
    }
    return parquet_bytes(pa.table(columns).cast(PREDICTIONS))
