"""What a network says of some rows, measured and as a file.

T items, P predictions kept of each, C classes, B batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from cache.layout import parquet_bytes
from pipeline.fusion import FusionNetwork
from pipeline.metrics import Metrics, measure
from pipeline.tensors import FitData
from schemas.tables import PREDICTIONS

NUM_PREDICTIONS = 20
_EVAL_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Answers for T items, best first."""

    top_labels: Int64[np.ndarray, "T P"]
    top_probabilities: Float[np.ndarray, "T P"]
    nll: Float[np.ndarray, " T"]
    predicted: Bool[np.ndarray, " T"]


def network_inputs(
    data: FitData, rows: Int64[Tensor, " B"], modalities: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gather what the network reads of some rows, hiding the modality it may not see."""
    image_ok, title_ok = data.image_ok[rows], data.title_ok[rows]
    if modalities != "both":
        hidden = title_ok if modalities == "image" else image_ok
        hidden.zero_()
    return data.image_emb[rows], data.title_emb[rows], image_ok, title_ok


@torch.inference_mode()
def predict(
    network: FusionNetwork, data: FitData, rows: Int64[Tensor, " T"], modalities: str = "both"
) -> Predictions:
    """Run the network over some rows."""
    network.eval()
    num_kept = min(NUM_PREDICTIONS, data.num_classes)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for chunk in rows.split(_EVAL_BATCH):
        inputs = network_inputs(data, chunk, modalities)
        log_p = network(*inputs).float().log_softmax(dim=1)
        top = log_p.topk(num_kept, dim=1)
        nll = -log_p.gather(1, data.labels[chunk][:, None])[:, 0]
        parts.append((top.indices, top.values.exp(), nll, inputs[2] | inputs[3]))
    top_labels, top_p, nll, predicted = (
        torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)
    )
    return Predictions(top_labels=top_labels, top_probabilities=top_p, nll=nll, predicted=predicted)


def measure_predictions(
    predictions: Predictions, data: FitData, rows: Int[Tensor, " T"]
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
    )


def predictions_file(predictions: Predictions, data: FitData) -> bytes:
    """Return predictions.parquet; an item that could not be predicted has empty lists."""
    rows = data.test.cpu().numpy()
    kept = predictions.predicted

    def lists(values: np.ndarray) -> list[list[Any]]:
        return [list(row) if ok else [] for row, ok in zip(values.tolist(), kept, strict=True)]

    columns = {
        "row": rows,
        "item_id": data.item_ids.take(pa.array(rows)),
        "label": data.labels[data.test].cpu().numpy(),
        "top_labels": lists(predictions.top_labels),
        "top_probabilities": lists(predictions.top_probabilities),
    }
    return parquet_bytes(pa.table(columns).cast(PREDICTIONS))
