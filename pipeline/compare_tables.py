"""The tables of compare: the paper's two, one of mistakes, one of calibration and acceptance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from pipeline.acceptance import TARGETS
from pipeline.metrics import HIERARCHICAL_AT, TOP, Metrics, Outcomes
from pipeline.results import Result, mean_outcomes
from pipeline.significance import Change, Ratio, change, holm, mcnemar_over_seeds
from pipeline.text_table import TextTable

Kind = Literal["approach", "control", "ensemble", "reference"]
COMPARED = ("top1", "top5", "neighbors_at_5", "severity")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the tables."""

    title: str
    kind: Kind
    """A trained approach, another decision on one, several together, or nothing trained."""
    results: tuple[Result, ...]
    """One a seed, or one of all seeds together; a reference has one."""

    @cached_property
    def outcomes(self) -> Outcomes:
        """What each test item adds, mean over seeds."""
        return mean_outcomes(self.results)

    def values(self, get: Callable[[Metrics], float | None]) -> list[float]:
        """Return a metric of each seed; empty where it is unknown."""
        found = [get(result.metrics) for result in self.results]
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float:
        """Return a metric's mean over the seeds that have it; NaN where none has."""
        values = self.values(lambda metrics: getattr(metrics, name))
        known = [value for value in values if not math.isnan(value)]
        return fmean(known) if known else float("nan")

    def num_right(self) -> Int64[np.ndarray, " T"]:
        """Return how many seeds have each item right."""
        return np.sum([result.outcomes.top1 > 0 for result in self.results], axis=0)

    @property
    def label(self) -> str:
        """Return the title as it stands in a table, set in unless it is an approach."""
        return self.title if self.kind == "approach" else f"   {self.title} ({self.kind})"


def ratio(outcomes: Outcomes, name: str) -> Ratio | None:
    """Return a metric as a ratio of what the items add; None if it is unknown."""
    if name == "severity":
        if outcomes.mistake_distance is None:
            return None
        return Ratio(outcomes.mistake_distance, outcomes.mistakes)
    values = getattr(outcomes, name)
    return Ratio(values, np.ones_like(values))


@dataclass(frozen=True, kw_only=True)
class Line:
    """An entry beside the first one."""

    entry: Entry
    changes: dict[str, Change | None]
    """Of top1, top5, neighbors_at_5 and severity against the first; None of the first itself."""
    p_top1: float | None
    """Of McNemar's test against the first, Holm-adjusted over the trained approaches; None of
    others."""
    is_front: bool
    """Nothing trained is at least as good in all four and better in one."""


def compared(entries: Sequence[Entry]) -> list[Line]:
    """Compare each entry with the first."""
    first = entries[0]
    tested = [entry for entry in entries[1:] if entry.kind == "approach"]
    p_values = holm([mcnemar_over_seeds(each.num_right(), first.num_right()) for each in tested])
    p_of = {entry.title: p for entry, p in zip(tested, p_values, strict=True)}
    competing = [entry for entry in entries if entry.kind != "reference"]
    fronts = pareto_front(competing)
    on_front = {entry.title for entry, is_on in zip(competing, fronts, strict=True) if is_on}
    return [
        Line(
            entry=entry,
            changes={
                name: None if entry is first else _changed(entry, first, name) for name in COMPARED
            },
            p_top1=p_of.get(entry.title),
            is_front=entry.title in on_front,
        )
        for entry in entries
    ]


def _changed(entry: Entry, first: Entry, name: str) -> Change | None:
    new, old = ratio(entry.outcomes, name), ratio(first.outcomes, name)
    return None if new is None or old is None else change(new, old)


def pareto_front(entries: Sequence[Entry]) -> list[bool]:
    """Say of each whether no other is at least as good in top1, top5, neighbors@5 and severity.

    In the means over seeds; without paths, of the first three.
    """
    points = np.array(
        [
            [each.mean("top1"), each.mean("top5"), each.mean("neighbors_at_5"), -_severity(each)]
            for each in entries
        ]
    )
    return [
        not any((other >= point).all() and (other > point).any() for other in points)
        for point in points
    ]


def _severity(entry: Entry) -> float:
    return float(np.nan_to_num(entry.mean("severity")))


def table1(lines: Sequence[Line], note: str) -> TextTable:
    """Return the paper's Table 1, with intervals and tests."""
    rows = [
        (
            line.entry.label,
            _percent(line.entry.values(lambda each: each.top1)),
            _change(line.changes["top1"], 100),
            _p(line.p_top1),
            _percent(line.entry.values(lambda each: each.top5)),
            _change(line.changes["top5"], 100),
        )
        for line in lines
    ]
    return TextTable(
        title="Table 1: top-1 and top-5 accuracy in percent, change against the first line [95% "
        "interval], p",
        columns=("approach", "top1", "change", "p", "top5", "change"),
        rows=tuple(rows),
        note=f"{note}; intervals: paired bootstrap over items; p: exact McNemar (over "
        "seeds: sign-flip) on top1, Holm over the approaches",
    )


def table2(lines: Sequence[Line], note: str) -> TextTable:
    """Return the paper's Table 2, with an interval, and top5 beside it."""
    rows = []
    for line in lines:
        entry = line.entry
        every = [result.metrics.neighbors_at_5_shares for result in entry.results]
        rows.append(
            (
                entry.label,
                *(f"{100 * share:.2f}" for share in np.mean(every, axis=0)),
                _spread(entry.values(lambda each: each.neighbors_at_5), 2),
                _change(line.changes["neighbors_at_5"], 1),
                _percent(entry.values(lambda each: each.top5)),
            )
        )
    return TextTable(
        title="Table 2: percent of test items with 0 to 5 of their top 5 in range (the true label "
        "and its neighbors)",
        columns=("approach", *(str(count) for count in range(TOP + 1)), "mean", "change", "top5"),
        rows=tuple(rows),
        note=note,
    )


def table3(lines: Sequence[Line], note: str) -> TextTable:
    """Return how bad mistakes are in the category tree, and for which classes.

    Classes without a train item have columns of their own where test items are of such a class.
    """
    unseen = [line.entry.values(lambda each: each.zero_shot_top1) for line in lines]
    zero_shot = ("zero", "zero@5") if any(unseen) else ()
    rows = [
        (
            line.entry.label,
            _spread(line.entry.values(lambda each: each.severity), 2),
            _change(line.changes["severity"], 1),
            *_distances(line.entry),
            _spread([100 * x for x in line.entry.values(lambda each: each.macro_f1)], 2),
            *_groups(line.entry),
            *_zero_shot(line.entry)[: len(zero_shot)],
            "*" if line.is_front else "",
        )
        for line in lines
    ]
    return TextTable(
        title="Table 3: mistakes in the category tree (levels); macro-F1 and top1 by class size "
        "(percent)",
        columns=(
            "approach",
            *("severity", "change", "dist@1", "@5", "@20", "F1", "head", "mid", "tail"),
            *zero_shot,
            "front",
        ),
        rows=tuple(rows),
        note=f"{note}; severity: of mistakes; dist: of all items and the first k labels; front: "
        "nothing trained is as good in top1, top5, neighbors@5 and severity",
    )


def table4(lines: Sequence[Line], note: str) -> TextTable:
    """Return how honest probabilities are, and what may be accepted."""
    rows = [
        (
            line.entry.label,
            _spread(line.entry.values(lambda each: each.ece), 3),
            _spread([result.temperature for result in line.entry.results], 2),
            _spread([result.calibrated_ece for result in line.entry.results], 3),
            _spread(line.entry.values(lambda each: each.nll), 3),
            *(_coverage(line.entry, place) for place in range(len(TARGETS))),
        )
        for line in lines
        if line.entry.kind != "reference"
    ]
    return TextTable(
        title="Table 4: calibration, and percent of items accepted without a person (precision "
        "reached)",
        columns=(
            *("approach", "ECE", "T", "ECE at T", "nll"),
            *(f"at {100 * target:.0f}%" for target in TARGETS),
        ),
        rows=tuple(rows),
        note=f"{note}; T: temperature fitted on val; thresholds from val, one for all categories",
    )


def record(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return everything of the tables as plain numbers, for JSON."""
    return [
        {
            "title": line.entry.title,
            "kind": line.entry.kind,
            "mean": {name: line.entry.mean(name) for name in (*COMPARED, "macro_f1", "ece", "nll")},
            "change": {
                name: asdict(each) for name, each in line.changes.items() if each is not None
            },
            "p_top1": line.p_top1,
            "is_front": line.is_front,
            "acceptance": [[asdict(a) for a in result.acceptance] for result in line.entry.results],
            "temperature": [result.temperature for result in line.entry.results],
        }
        for line in lines
    ]


def _distances(entry: Entry) -> list[str]:
    every = [result.metrics.hierarchical_distances for result in entry.results]
    known = [distances for distances in every if distances is not None]
    if not known:
        return [""] * len(HIERARCHICAL_AT)
    return [f"{distance:.2f}" for distance in np.mean(known, axis=0)]


def _groups(entry: Entry) -> list[str]:
    every = [each.metrics.group_top1 for each in entry.results if each.metrics.group_top1]
    if not every:
        return ["", "", ""]
    return [f"{100 * share:.1f}" for share in np.mean(every, axis=0)]


def _zero_shot(entry: Entry) -> list[str]:
    """Return top1 and top5 of classes without train items."""
    every = [
        entry.values(lambda each: each.zero_shot_top1),
        entry.values(lambda each: each.zero_shot_top5),
    ]
    return [f"{100 * fmean(values):.1f}" if values else "" for values in every]


def _coverage(entry: Entry, place: int) -> str:
    every = [result.acceptance[place] for result in entry.results if result.acceptance]
    if not every:
        return ""
    coverage = 100 * fmean(each.coverage for each in every)
    precision = [each.precision for each in every if not math.isnan(each.precision)]
    return f"{coverage:.1f} ({100 * fmean(precision):.1f})" if precision else f"{coverage:.1f}"


def _change(found: Change | None, factor: float) -> str:
    return "" if found is None or math.isnan(found.value) else str(found.times(factor))


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _percent(values: Sequence[float]) -> str:
    return _spread([100 * value for value in values], 2)


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return ""
    mean = f"{fmean(known):.{digits}f}"
    return f"{mean} +- {stdev(known):.{digits}f}" if len(known) > 1 else mean
