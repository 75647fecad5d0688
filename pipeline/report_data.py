"""What the report's script shows: categories and mistakes, as plain numbers for JSON.

Predictions come from the folders of runs, so that no network runs again. Columns in place of
objects, labels as numbers: 10,000 test items of 4,350 labels are 2 MB.

T test items, C classes, K neighbors, A approaches, G mistakes in the gallery.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from cache.layout import parquet_table
from pipeline.acceptance import Answers
from pipeline.categories import confusions_table
from pipeline.metrics import TOP
from pipeline.run_folder import RunFolder
from pipeline.taxonomy import Taxonomy
from schemas.graph import NeighborGraph

_CONFUSIONS_SHOWN = 5
_NO_ANSWER = -1


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run whose answers are shown, for its approach."""

    title: str
    """Of the approach."""
    name: str
    """Folder below runs/."""
    rows: Int64[np.ndarray, " T"]
    """Test items, rows of the plan."""
    labels: Int64[np.ndarray, " T"]
    """The truth."""
    top_labels: Int64[np.ndarray, "T P"]
    """Best first; -1 of an item without an answer."""
    top_probabilities: Float32[np.ndarray, "T P"]

    @property
    def answers(self) -> Answers:
        """The first answers."""
        label, has_answer = self.top_labels[:, 0], self.top_labels[:, 0] >= 0
        return Answers(
            label=np.where(has_answer, label, 0),
            confidence=np.where(has_answer, self.top_probabilities[:, 0], -np.inf),
            is_right=label == self.labels,
        )


def read_shown(run: RunFolder, title: str) -> ShownRun:
    """Read a finished run's predictions."""
    table = parquet_table(run.read("predictions.parquet"))
    labels = _matrix(table["top_labels"], np.int64, _NO_ANSWER)
    return ShownRun(
        title=title,
        name=run.name,
        rows=table["row"].to_numpy(),
        labels=table["label"].to_numpy().astype(np.int64),
        top_labels=labels,
        top_probabilities=_matrix(table["top_probabilities"], np.float32, 0.0),
    )


def _matrix(column: pa.ChunkedArray, dtype: type, absent: float) -> np.ndarray:
    """Return lists of one length as rows; an empty list is a row of `absent`."""
    lists = column.combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    width = int(lengths.max(initial=1))
    matrix: np.ndarray = np.full((len(lists), width), absent, dtype)
    matrix[lengths > 0] = lists.flatten().to_numpy().reshape(-1, width)
    return matrix


def categories(
    shown: Sequence[ShownRun],
    names: pa.Table,
    graph: NeighborGraph,
    taxonomy: Taxonomy | None,
    train_counts: Int64[np.ndarray, " C"],
) -> dict[str, Any]:
    """Return what is known of each label, and of each label under each approach.

    Args:
        shown: A runs over the same items.
        names: of the labels, in the schema LABELS.
        graph: the label graph.
        taxonomy: the tree above the labels; None without paths.
        train_counts: train items of each label.
    """
    num_classes = len(names)
    has_neighbor = graph.neighbors >= 0
    similarities = np.round(1000 * np.nan_to_num(graph.similarities)).astype(np.int64)
    return {
        "id": names["label_id"].to_pylist(),
        "name": names["name"].to_pylist(),
        "path": names["path"].to_pylist(),
        "train": train_counts.tolist(),
        "items": np.bincount(shown[0].labels, minlength=num_classes).tolist(),
        "neighbors": [
            row[ok].tolist() for row, ok in zip(graph.neighbors, has_neighbor, strict=True)
        ],
        "similarities": [
            row[ok].tolist() for row, ok in zip(similarities, has_neighbor, strict=True)
        ],
        "runs": [_under(run, num_classes, names, graph, taxonomy) for run in shown],
    }


def _under(
    run: ShownRun,
    num_classes: int,
    names: pa.Table,
    graph: NeighborGraph,
    taxonomy: Taxonomy | None,
) -> dict[str, Any]:
    """Return counts of right answers, of answers, of none, and what labels are taken for."""
    answers = run.answers
    has_answer = answers.confidence > -np.inf
    table = confusions_table(run.labels, answers, graph, taxonomy, names)
    taken_for: dict[int, list[tuple[int, int]]] = {}
    for label, answer, count in zip(
        *(table[name].to_pylist() for name in ("label", "answer", "num_items")), strict=True
    ):
        pairs = taken_for.setdefault(label, [])
        if len(pairs) < _CONFUSIONS_SHOWN:
            pairs.append((answer, count))
    return {
        "right": np.bincount(run.labels[answers.is_right], minlength=num_classes).tolist(),
        "answers": np.bincount(answers.label[has_answer], minlength=num_classes).tolist(),
        "unanswered": np.bincount(run.labels[~has_answer], minlength=num_classes).tolist(),
        "confused": taken_for,
    }


def choose_mistakes(shown: Sequence[ShownRun], most: int) -> tuple[Int64[np.ndarray, " G"], int]:
    """Return positions of test items that some approach gets wrong, and how many there are.

    Where there are more than `most`, evenly out of all of them.
    """
    is_wrong = np.any([~run.answers.is_right for run in shown], axis=0)
    places = np.flatnonzero(is_wrong)
    if len(places) <= most:
        return places, len(places)
    return places[np.linspace(0, len(places) - 1, most).astype(np.int64)], len(places)


def mistakes(
    shown: Sequence[ShownRun],
    places: Int64[np.ndarray, " G"],
    graph: NeighborGraph,
    taxonomy: Taxonomy | None,
) -> dict[str, Any]:
    """Return the gallery's items: truth, and each approach's five answers.

    A mistake is near where the answer is among the truth's neighbors in the label graph.

    Args:
        shown: A runs over the same items.
        places: which of these.
        graph: the label graph.
        taxonomy: the tree above the labels; None without paths.
    """
    labels = shown[0].labels[places]
    runs = []
    for run in shown:
        top = run.top_labels[places, :TOP]
        answer, has_answer = top[:, 0], top[:, 0] >= 0
        is_near = (graph.neighbors[labels] == answer[:, None]).any(axis=1)
        distance = np.full(len(labels), -1)
        if taxonomy is not None:
            found = taxonomy.distance(np.where(has_answer, answer, 0), labels)
            distance = np.where(has_answer, found, -1)
        thousandths = np.round(1000 * run.top_probabilities[places, :TOP]).astype(np.int64)
        runs.append(
            {
                "top": top.tolist(),
                "thousandths": thousandths.tolist(),
                "near": is_near.astype(int).tolist(),
                "distance": distance.tolist(),
            }
        )
    return {"label": labels.tolist(), "runs": runs}
