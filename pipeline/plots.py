"""Pictures of results, as PNG bytes."""

import io

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.metrics import TOP, Metrics
from pipeline.targets.registry import get_approach


def plot_compare(metrics: dict[str, list[Metrics]]) -> bytes:
    """Draw Table 1 as points and Table 2 as stacked bars, one row an approach.

    Args:
        metrics: by approach name, one entry a seed.
    """
    names = list(metrics)
    places = np.arange(len(names))[::-1]
    figure = Figure(figsize=(11, 1.2 + 0.5 * len(names)), layout="constrained")
    accuracy, severity = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    for metric, color in (("top1", "#1f5fa8"), ("top5", "#d9822b")):
        for place, name in zip(places, names, strict=True):
            values = [100 * getattr(each, metric) for each in metrics[name]]
            accuracy.plot(values, [place] * len(values), "o", color=color, alpha=0.5, ms=5)
            accuracy.plot([np.mean(values)], [place], "|", color=color, ms=16, mew=2.5)
        accuracy.plot([], [], "o", color=color, label=metric)
    accuracy.set_yticks(places, [f"{name}. {get_approach(name).title}" for name in names])
    accuracy.set_xlabel("accuracy on test, percent")
    accuracy.grid(axis="x", alpha=0.3)
    accuracy.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2, frameon=False)
    colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.95, TOP + 1))
    for place, name in zip(places, names, strict=True):
        shares = 100 * np.mean([each.neighbors_at_5_shares for each in metrics[name]], axis=0)
        left = np.concatenate([[0], np.cumsum(shares)[:-1]])
        severity.barh(place, shares, left=left, color=colors, height=0.7)
        mean = np.mean([each.neighbors_at_5 for each in metrics[name]])
        severity.text(101, place, f"mean {mean:.2f}", va="center")
    for count in range(TOP + 1):
        severity.barh(0, 0, color=colors[count], label=str(count))
    severity.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=6, frameon=False)
    severity.set_xlim(0, 126)
    severity.set_xticks(range(0, 101, 20))
    severity.set_xlabel("percent of test items by how many of their top 5 are in range")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
