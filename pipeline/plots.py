"""Pictures of results."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.acceptance import TARGETS
from pipeline.compare_tables import Entry, Line
from pipeline.figures import png
from pipeline.metrics import NUM_BINS, TOP, calibration_table
from pipeline.results import Result

_MARKERS = {"approach": "o", "ensemble": "D", "control": "s", "reference": "x"}


def draw_compare(entries: Sequence[Entry]) -> Figure:
    """Draw Table 1 as points, one a seed, and Table 2 as stacked bars, one row an entry."""
    places = np.arange(len(entries))[::-1]
    figure = Figure(figsize=(12, 1.4 + 0.36 * len(entries)), layout="constrained")
    accuracy, in_range = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    for metric, color in (("top1", "#3579c6"), ("top5", "#d9822b")):
        for place, entry in zip(places, entries, strict=True):
            values = [100 * getattr(result.metrics, metric) for result in entry.results]
            accuracy.plot(values, [place] * len(values), "o", color=color, alpha=0.5, ms=5)
            accuracy.plot([np.mean(values)], [place], "|", color=color, ms=14, mew=2.5)
        accuracy.plot([], [], "o", color=color, label=metric)
    accuracy.set_yticks(places, [entry.title for entry in entries])
    for text, entry in zip(accuracy.get_yticklabels(), entries, strict=True):
        text.set_color("black" if entry.kind == "approach" else "#666666")
    accuracy.set_xlabel("accuracy on test, percent")
    accuracy.grid(axis="x", alpha=0.3)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.95, TOP + 1))
    for place, entry in zip(places, entries, strict=True):
        every = [result.metrics.neighbors_at_5_shares for result in entry.results]
        shares = 100 * np.mean(every, axis=0)
        left = np.concatenate([[0], np.cumsum(shares)[:-1]])
        in_range.barh(place, shares, left=left, color=colors, height=0.7)
        in_range.text(101, place, f"mean {entry.mean('neighbors_at_5'):.2f}", va="center")
    bars = [mpl.patches.Patch(color=color, label=str(n)) for n, color in enumerate(colors)]
    figure.legend(handles=bars, loc="outside upper right", ncols=6, title="of the top 5 in range")
    in_range.set_xlim(0, 118)
    in_range.set_xticks(range(0, 101, 20))
    in_range.set_xlabel("percent of test items")
    return figure


def draw_front(lines: Sequence[Line]) -> Figure:
    """Draw top1 and top5 against neighbors@5; who is on the Pareto front is filled."""
    # A reference that is right half as often would squeeze all others into a corner.
    least = 0.85 * max(line.entry.mean("top1") for line in lines)
    shown = [line for line in lines if line.entry.mean("top1") >= least]
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    colors = [*mpl.color_sequences["tab10"], *mpl.color_sequences["Dark2"]]
    for axes, metric in zip(figure.subplots(1, 2), ("top1", "top5"), strict=True):
        for place, line in enumerate(shown):
            axes.plot(
                [line.entry.mean("neighbors_at_5")],
                [100 * line.entry.mean(metric)],
                _MARKERS[line.entry.kind],
                color=colors[place % len(colors)],
                fillstyle="full" if line.is_front else "none",
                ms=9,
                label=f"{line.entry.title}{' *' if line.is_front else ''}",
            )
        axes.set_xlabel("neighbors@5, mean")
        axes.set_ylabel(f"{metric} on test, percent")
        axes.grid(alpha=0.3)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", fontsize=9)
    figure.suptitle(
        "Up and to the right is better; filled, *: on the Pareto front (with severity)", fontsize=10
    )
    return figure


def draw_coverage(entries: Sequence[Entry]) -> Figure:
    """Draw how many items each approach may have accepted, at each target precision."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots()
    chosen = [entry for entry in entries if entry.kind == "approach"]
    width = 0.8 / len(chosen)
    for place, entry in enumerate(chosen):
        known = [result.acceptance for result in entry.results if result.acceptance]
        if not known:
            continue
        coverage = 100 * np.mean([[a.coverage for a in each] for each in known], axis=0)
        at = np.arange(len(TARGETS)) + (place - (len(chosen) - 1) / 2) * width
        axes.bar(at, coverage, width=0.92 * width, label=entry.title)
    axes.set_xticks(range(len(TARGETS)), [f"{100 * target:.0f}% right" for target in TARGETS])
    axes.set_ylabel("accepted, percent of test items")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_calibration(entries: Sequence[Entry]) -> Figure:
    """Draw accuracy against confidence of every trained entry, over its seeds together."""
    chosen = [entry for entry in entries if entry.kind == "approach"]
    num_columns = min(5, len(chosen))
    num_rows = -(-len(chosen) // num_columns)
    figure = Figure(figsize=(3.2 * num_columns, 3.3 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    for axes, entry in zip(grid.flat, chosen, strict=False):
        _reliability(axes, entry.results)
        axes.set_title(f"{entry.title}\nECE {entry.mean('ece'):.3f}", fontsize=9)
    figure.supxlabel("confidence of the first answer")
    figure.supylabel("share of right answers")
    return figure


def plot_reliability(result: Result, title: str) -> bytes:
    """Draw accuracy against confidence of one run."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    _reliability(axes, [result])
    axes.set_title(f"{title}\nECE {result.metrics.ece:.3f}", fontsize=10)
    axes.set_xlabel("confidence of the first answer")
    axes.set_ylabel("share of right answers (bars: share of items)")
    return png(figure)


def _reliability(axes: Axes, results: Sequence[Result]) -> None:
    """Draw a line through the bins that have items, and how many have each as bars below."""
    kept = [result.predictions.predicted for result in results]
    confidence = np.concatenate(
        [r.predictions.top_probabilities[k, 0] for r, k in zip(results, kept, strict=True)]
    )
    right = np.concatenate([r.outcomes.top1[k] > 0 for r, k in zip(results, kept, strict=True)])
    num_items, sum_confidence, num_right = calibration_table(confidence, right).T
    some = num_items > 0
    centers = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    axes.bar(centers, num_items / max(num_items.sum(), 1), width=0.9 / NUM_BINS, color="#c9d7e8")
    axes.plot([0, 1], [0, 1], ":", color="gray")
    x, y = sum_confidence[some] / num_items[some], num_right[some] / num_items[some]
    axes.plot(x, y, "o-", color="#3579c6", ms=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def draw_learning(histories: dict[str, list[list[dict[str, float]]]]) -> Figure:
    """Draw val metrics over the epochs, mean of the seeds.

    Args:
        histories: by title, one a seed: what the run said of each epoch.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    grid = figure.subplots(1, 3)
    names = {"val/top1": "top1", "val/top5": "top5", "val/neighbors_at_5": "neighbors@5"}
    for axes, (name, word) in zip(grid, names.items(), strict=True):
        for title, runs in histories.items():
            # Seeds may stop at different epochs: each epoch is the mean of those that reached it.
            longest = max(map(len, runs))
            means = [
                np.mean([run[epoch][name] for run in runs if len(run) > epoch])
                for epoch in range(longest)
            ]
            axes.plot(range(1, longest + 1), means, "o-", ms=3, label=title)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{word} on val")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
