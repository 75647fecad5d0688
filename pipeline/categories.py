"""Which categories go wrong, and what they are taken for.

T items, C classes.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from pipeline.acceptance import TARGETS, Answers, category_thresholds
from pipeline.results import Result
from pipeline.taxonomy import Taxonomy
from pipeline.text_table import TextTable
from schemas.graph import NeighborGraph
from schemas.tables import CATEGORIES, CONFUSIONS

NUM_SHOWN = 10


def categories_table(
    result: Result,
    labels: Int[np.ndarray, " T"],
    *,
    names: pa.Table,
    train_counts: Int[np.ndarray, " C"],
    confusions: pa.Table,
) -> pa.Table:
    """Return one row a label, as schemas.tables.CATEGORIES.

    Args:
        result: of the items, with answers to val for the thresholds.
        labels: the truth.
        names: label_id, name and path of the labels.
        train_counts: train items of each label.
        confusions: of the same items, most frequent first.
    """
    num_classes = len(names)
    found, answers = result.outcomes, result.answers
    is_answered = answers.confidence > -np.inf
    num_items = np.bincount(labels, minlength=num_classes)
    num_answers = np.bincount(answers.label[is_answered], minlength=num_classes)
    num_right = np.bincount(labels[found.top1 > 0], minlength=num_classes)
    num_mistakes = np.bincount(labels, found.mistakes, num_classes)
    severity: pa.Array = pa.nulls(num_classes, pa.float64())
    if found.mistake_distance is not None:
        severity = _ratio(np.bincount(labels, found.mistake_distance, num_classes), num_mistakes)
    columns = {
        "label": np.arange(num_classes),
        **{name: names[name] for name in ("label_id", "name", "path")},
        "num_train": train_counts,
        "num_items": num_items,
        "num_answers": num_answers,
        "num_right": num_right,
        "recall": _ratio(num_right, num_items),
        "precision": _ratio(num_right, num_answers),
        "f1": _ratio(2 * num_right, num_items + num_answers),
        "top5": _ratio(np.bincount(labels, found.top5, num_classes), num_items),
        "neighbors_at_5": _ratio(np.bincount(labels, found.neighbors_at_5, num_classes), num_items),
        "severity": severity,
        "most_confused_with": _most_confused(confusions, num_classes),
    }
    assert result.val_answers is not None
    for target in TARGETS:
        threshold = category_thresholds(result.val_answers, num_classes, target)
        is_accepted = is_answered & (answers.confidence >= threshold[answers.label])
        accepted, right = answers.label[is_accepted], answers.is_right[is_accepted]
        percent = round(100 * target)
        columns |= {
            f"threshold_{percent}": threshold,
            f"accepted_{percent}": np.bincount(accepted, minlength=num_classes),
            f"accepted_right_{percent}": np.bincount(accepted[right], minlength=num_classes),
        }
    return pa.table(columns).cast(CATEGORIES)


def confusions_table(
    labels: Int[np.ndarray, " T"],
    answers: Answers,
    graph: NeighborGraph,
    taxonomy: Taxonomy | None,
    names: pa.Table,
) -> pa.Table:
    """Return how often each label was taken for each other, most frequent first.

    As schemas.tables.CONFUSIONS; equal counts by label and answer.
    """
    num_classes = len(names)
    is_wrong = ~answers.is_right & (answers.confidence > -np.inf)
    pairs, counts = np.unique(
        labels[is_wrong] * num_classes + answers.label[is_wrong], return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    truth, answer = np.divmod(pairs[order], num_classes)
    counts = counts[order]
    num_items = np.bincount(labels, minlength=num_classes)
    distance: object = pa.nulls(len(truth), pa.int64())
    if taxonomy is not None:
        distance = taxonomy.distance(truth, answer)
    columns = {
        "label": truth,
        "answer": answer,
        "num_items": counts,
        "share": counts / num_items[truth],
        "is_neighbor": (graph.neighbors[truth] == answer[:, None]).any(axis=1),
        "distance": distance,
        "label_name": names["name"].take(pa.array(truth)),
        "answer_name": names["name"].take(pa.array(answer)),
    }
    return pa.table(columns).cast(CONFUSIONS)


def worst_categories(categories: pa.Table) -> TextTable:
    """Return the labels with most mistakes."""
    rows = categories.to_pylist()
    rows.sort(key=lambda row: (row["num_right"] - row["num_items"], row["label"]))
    names = categories["name"].to_pylist()
    shown = [
        (
            row["path"] or row["name"],
            f"{row['num_train']:,}",
            f"{row['num_items']:,}",
            _percent(row["recall"]),
            _percent(row["precision"]),
            "" if row["neighbors_at_5"] is None else f"{row['neighbors_at_5']:.2f}",
            "" if row["most_confused_with"] is None else names[row["most_confused_with"]],
        )
        for row in rows[:NUM_SHOWN]
        if row["num_right"] < row["num_items"]
    ]
    return TextTable(
        title="Categories with most mistakes",
        columns=("category", "train", "items", "recall", "precision", "nb@5", "mostly taken for"),
        rows=tuple(shown),
    )


def top_confusions(confusions: pa.Table) -> TextTable:
    """Return the most frequent confusions."""
    shown = [
        (
            row["label_name"],
            row["answer_name"],
            f"{row['num_items']:,}",
            _percent(row["share"]),
            "yes" if row["is_neighbor"] else "no",
            "" if row["distance"] is None else str(row["distance"]),
        )
        for row in confusions.slice(0, NUM_SHOWN).to_pylist()
    ]
    return TextTable(
        title="Most confused pairs",
        columns=("truth", "answer", "items", "of the truth", "neighbor", "tree distance"),
        rows=tuple(shown),
    )


def _most_confused(confusions: pa.Table, num_classes: int) -> pa.Array:
    """Return what each label is most often taken for; the first of its rows is that."""
    truth, first = np.unique(confusions["label"].to_numpy(), return_index=True)
    found = np.full(num_classes, -1)
    found[truth] = confusions["answer"].to_numpy()[first]
    return pa.array(found, mask=found < 0)


def _ratio(numerator: Float[np.ndarray, " C"], denominator: Float[np.ndarray, " C"]) -> pa.Array:
    is_known = denominator > 0
    values = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=is_known)
    return pa.array(values, mask=~is_known)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"
