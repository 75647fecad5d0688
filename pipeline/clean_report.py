"""Say what clean found: counts by reason and category, and which sets of items to look at.

N items, n some items.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from pipeline.contact_sheet import Section
from pipeline.duplicates import Pairs
from pipeline.picture_margins import PictureMargins
from pipeline.text_table import TextTable
from schemas.clean import EXACT, LABEL, MISMATCH, NEAR, CleanConfig
from schemas.tables import LABEL_QUALITY, PICTURE_MARGINS, SPLITS

if TYPE_CHECKING:
    from pipeline.label_quality import LabelQuality

_REMOVING = (EXACT, NEAR, MISMATCH)
_SHOWN_SETS = 24
_SHOWN_CATEGORIES = 10
_SHOWN_OF_GROUP = 6


def reasons_table(
    table: pa.Table,
    labels: Int64[np.ndarray, " N"],
    splits: Int64[np.ndarray, " N"],
    recall: tuple[int, int] | None,
) -> TextTable:
    """Return how many items go, by reason and split.

    Args:
        table: in the schema CLEAN.
        labels: class ids.
        splits: positions in SPLITS.
        recall: pairs found of a sample's, and all of the sample's; None if search was exact.
    """
    keep, reason = table["keep"].to_numpy(), _reasons(table)
    rows = []
    counted = [(each, reason == each) for each in _REMOVING] + [("kept", keep)]
    if (reason == LABEL).any():
        counted.append(("of them with a suspicious label", reason == LABEL))
    for name, is_it in counted:
        counts = np.bincount(splits[is_it], minlength=len(SPLITS))
        rows.append((name, *(f"{count:,}" for count in (counts.sum(), *counts))))
    notes = []
    group = _groups(table)
    if (group >= 0).any():
        num_conflicts = len(conflicting(group, labels))
        notes.append(
            f"{group.max() + 1:,} groups of duplicates, the largest of "
            f"{np.bincount(group[group >= 0]).max():,} items; in {num_conflicts:,} the items have "
            "several labels"
        )
    if recall is not None:
        notes.append(
            f"searched in cells: of {recall[1]:,} near pairs that exact search finds for a sample, "
            f"{recall[0]:,} were found"
        )
    return TextTable(
        title=f"Left out of {len(keep):,} items",
        columns=("reason", "items", *SPLITS),
        rows=tuple(rows),
        note="\n".join(notes),
    )


def categories_table(
    table: pa.Table, labels: Int64[np.ndarray, " N"], names: pa.Table
) -> TextTable:
    """Return the categories that lose the largest shares.

    Args:
        table: in the schema CLEAN.
        labels: class ids.
        names: in the schema LABELS.
    """
    keep, reason = table["keep"].to_numpy(), _reasons(table)
    num_labels = len(names)
    totals = np.bincount(labels, minlength=num_labels)
    gone = np.bincount(labels[~keep], minlength=num_labels)
    share = gone / np.maximum(totals, 1)
    order = np.lexsort((np.arange(num_labels), -gone, -share))[:_SHOWN_CATEGORIES]
    by_reason = [np.bincount(labels[reason == each], minlength=num_labels) for each in _REMOVING]
    paths = names["path"].to_pylist()
    plain = names["name"].to_pylist()
    return TextTable(
        title="Categories that lose most",
        columns=("category", "items", "left out", *_REMOVING),
        rows=tuple(
            (
                paths[label] or plain[label],
                f"{totals[label]:,}",
                f"{100 * share[label]:.1f}%",
                *(f"{counts[label]:,}" for counts in by_reason),
            )
            for label in order.tolist()
            if gone[label]
        ),
        note=f"{int((gone > 0).sum()):,} of {num_labels:,} categories lose items",
    )


def sections(
    table: pa.Table,
    labels: Int64[np.ndarray, " N"],
    exact: Pairs,
    near: Pairs,
    config: CleanConfig,
) -> list[Section]:
    """Return the sets of items by which a person can judge the thresholds; none that is empty.

    Args:
        table: in the schema CLEAN.
        labels: class ids.
        exact: pairs.
        near: pairs.
        config: thresholds.
    """
    found = [
        _near_section(near, config),
        _largest_section(_groups(table)),
        _conflicts_section(_groups(table), labels),
        _exact_section(exact),
        _mismatch_section(table, config),
    ]
    return [section for section in found if section.sets]


def _near_section(near: Pairs, config: CleanConfig) -> Section:
    order = np.argsort(near.score, kind="stable")[:_SHOWN_SETS]
    return Section(
        title="Near duplicates, the least alike first",
        how_to_read="If these are different products, raise --min-cosine "
        f"({config.min_cosine:g} now); if all are the same, lower it.",
        sets=[[int(near.one[i]), int(near.other[i])] for i in order],
        notes=[f"cosine {near.score[i]:.3f}" for i in order],
    )


def _largest_section(group: Int64[np.ndarray, " N"]) -> Section:
    """Show where a chain of near duplicates may have joined what does not belong together."""
    counts = np.bincount(group[group >= 0])
    order = np.argsort(-counts, kind="stable")[: _SHOWN_SETS // 2]
    numbers = order[counts[order] > 2]
    members = [np.flatnonzero(group == number) for number in numbers]
    return Section(
        title="The largest groups of duplicates",
        how_to_read="One of each stays. If they are different products, raise --min-cosine.",
        sets=[
            rows[
                np.unique(np.linspace(0, len(rows) - 1, _SHOWN_OF_GROUP).astype(np.int64))
            ].tolist()
            for rows in members
        ],
        notes=[
            f"group {number}: {len(rows):,} items"
            for number, rows in zip(numbers, members, strict=True)
        ],
    )


def _conflicts_section(group: Int64[np.ndarray, " N"], labels: Int64[np.ndarray, " N"]) -> Section:
    conflicts = conflicting(group, labels)
    counts = np.bincount(group[group >= 0])
    conflicts = conflicts[np.argsort(-counts[conflicts], kind="stable")][:_SHOWN_SETS]
    members = [np.flatnonzero(group == number) for number in conflicts]
    return Section(
        title="Duplicates with several labels",
        how_to_read="One of them stays with its own label: correct the labels in the catalog where "
        "it matters.",
        sets=[rows[:_SHOWN_OF_GROUP].tolist() for rows in members],
        notes=[
            f"group {number}: {len(rows):,} items"
            for number, rows in zip(conflicts, members, strict=True)
        ],
    )


def _exact_section(exact: Pairs) -> Section:
    shown = range(min(_SHOWN_SETS // 2, len(exact.one)))
    return Section(
        title="Exact duplicates",
        how_to_read="The same picture and the same title but for case and spaces.",
        sets=[[int(exact.one[i]), int(exact.other[i])] for i in shown],
        notes=["same content" for _ in shown],
    )


def _mismatch_section(table: pa.Table, config: CleanConfig) -> Section:
    rows = np.flatnonzero(_reasons(table) == MISMATCH)
    score = table["score"].to_numpy(zero_copy_only=False)
    rows = rows[np.argsort(score[rows], kind="stable")]
    if len(rows) > 2 * _SHOWN_SETS:  # from all of them, evenly
        rows = rows[np.linspace(0, len(rows) - 1, 2 * _SHOWN_SETS).astype(np.int64)]
    return Section(
        title="Picture and title do not match, from the lowest cosine to the highest",
        how_to_read=f"If the last ones match, lower {_mismatch_option(config)}.",
        sets=[[int(row)] for row in rows],
        notes=[f"cosine {score[row]:.3f}" for row in rows],
    )


def _mismatch_option(config: CleanConfig) -> str:
    if config.min_image_title_cosine is not None:
        return f"--min-image-title-cosine ({config.min_image_title_cosine:g} now)"
    return f"--mismatch-quantile ({config.mismatch_quantile:g} now)"


def labels_section(quality: "LabelQuality", names: pa.Table) -> Section:
    """Return the items whose labels are least believed, with what networks would say."""
    paths, plain = names["path"].to_pylist(), names["name"].to_pylist()
    chosen = quality.suspicious()[: 2 * _SHOWN_SETS]
    suggested = quality.suggested[chosen].tolist()
    return Section(
        title=f"Labels that networks do not believe ({quality.num_suspicious:,} are suspicious)",
        how_to_read="They stay. Correct the labels in the catalog where the suggestion is right.",
        sets=[[int(row)] for row in quality.rows[chosen]],
        notes=[
            f"believed {100 * believed:.1f}%; rather {paths[label] or plain[label]}"
            for believed, label in zip(quality.quality[chosen], suggested, strict=True)
        ],
    )


def pictures_section(
    margins: PictureMargins, labels: Int64[np.ndarray, " N"], names: pa.Table
) -> Section:
    """Return the items whose pictures are least their category's, each beside what it is like.

    Args:
        margins: as found.
        labels: class ids, of all rows.
        names: in the schema LABELS.
    """
    rows = names.to_pylist()
    shelves = [row["path"] or row["name"] for row in rows]
    order = margins.order()
    shown = [place for place in order[: 4 * _SHOWN_SETS] if margins.nearest[place] >= 0]
    shown = shown[:_SHOWN_SETS]
    others = [int(margins.nearest[place]) for place in shown]
    return Section(
        title="Pictures that look like another category's, the most so first",
        how_to_read="They stay. Beside each is the most similar picture of another category: where "
        "the first is one of these, correct picture or label in the catalog.",
        sets=[
            [int(margins.rows[place]), other] for place, other in zip(shown, others, strict=True)
        ],
        notes=[
            f"margin {margins.margin[place]:.2f}; like {shelves[labels[other]]}"
            for place, other in zip(shown, others, strict=True)
        ],
    )


def margins_table(margins: PictureMargins, items: pa.Table) -> pa.Table:
    """Return all pictures that were compared, the lowest margin first, as PICTURE_MARGINS.

    Args:
        margins: as found.
        items: of the whole plan, in the schema ITEMS.
    """
    order = margins.order()
    rows, nearest = margins.rows[order], margins.nearest[order]
    columns = {
        "row": rows,
        "item_id": items["item_id"].take(pa.array(rows)),
        "label": margins.labels[order],
        "margin": margins.margin[order],
        "nearest": pa.array(nearest, mask=nearest < 0),
    }
    return pa.table(columns).cast(PICTURE_MARGINS)


def quality_table(quality: "LabelQuality", items: pa.Table) -> pa.Table:
    """Return all judged labels, the least believed first, in the schema LABEL_QUALITY.

    Args:
        quality: as judged.
        items: of the whole plan, in the schema ITEMS.
    """
    order = np.argsort(quality.quality, kind="stable")
    is_suspicious = np.zeros(len(order), bool)
    is_suspicious[quality.suspicious()] = True
    rows = quality.rows[order]
    columns = {
        "row": rows,
        "item_id": items["item_id"].take(pa.array(rows)),
        "label": quality.labels[order],
        "quality": quality.quality[order],
        "suggested": quality.suggested[order],
        "is_suspicious": is_suspicious[order],
    }
    return pa.table(columns).cast(LABEL_QUALITY)


def conflicting(
    group: Int64[np.ndarray, " N"], labels: Int64[np.ndarray, " N"]
) -> Int64[np.ndarray, " g"]:
    """Return the groups whose items do not all have one label; group -1 is none."""
    inside = group >= 0
    number, label = group[inside], labels[inside]
    least = np.full(number.max(initial=-1) + 1, np.iinfo(np.int64).max)
    most = np.full(len(least), -1)
    np.minimum.at(least, number, label)
    np.maximum.at(most, number, label)
    return np.flatnonzero(least < most)


def _groups(table: pa.Table) -> Int64[np.ndarray, " N"]:
    return table["group"].combine_chunks().fill_null(-1).to_numpy()


def _reasons(table: pa.Table) -> np.ndarray:
    return np.asarray(table["reason"].to_pylist(), object)
