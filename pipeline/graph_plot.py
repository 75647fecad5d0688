"""The label graph as a picture. Apart from plots.py, which knows runs and loads torch."""

import numpy as np
from matplotlib.figure import Figure

from pipeline.figures import png
from pipeline.graph_stats import QUANTILES, in_degrees
from schemas.graph import NeighborGraph


def plot_graph(graph: NeighborGraph) -> bytes:
    """Draw how similarity falls with the rank, and how often labels are listed."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_rank, listed = figure.subplots(1, 2)
    is_known = np.isfinite(graph.similarities)
    places = np.flatnonzero(is_known.any(axis=0))
    bands = [
        np.quantile(graph.similarities[is_known[:, place], place], QUANTILES) for place in places
    ]
    low, middle, high = np.reshape(bands, (-1, len(QUANTILES))).T
    by_rank.fill_between(places + 1, low, high, alpha=0.2, lw=0, label="5% to 95% of the labels")
    by_rank.plot(places + 1, middle, "o-", ms=3.5, color="#1f5fa8", label="median")
    by_rank.set_title("How similar a label's neighbors are")
    by_rank.set_xlabel("rank of the neighbor, 1 is the nearest")
    by_rank.set_ylabel("cosine of the label embeddings")
    by_rank.xaxis.get_major_locator().set_params(integer=True)
    by_rank.legend(frameon=False)
    counts = in_degrees(graph)
    width = max(1, -(-int(counts.max() + 1) // 40))  # whole numbers, 40 bars at most
    bins = np.arange(0, counts.max() + 1 + width, width) - 0.5
    listed.hist(counts, bins=bins, color="#d9822b", ec="white", lw=0.5)
    mean = counts.mean()
    listed.axvline(mean, color="black", ls="--", lw=1, label=f"mean {mean:.1f}")
    listed.plot([], [], " ", label=f"listed by none: {int((counts == 0).sum()):,} labels")
    listed.set_title("How often a label is another label's neighbor")
    listed.set_xlabel(
        "number of labels that list it" + (f", {width} to a bar" if width > 1 else "")
    )
    listed.set_ylabel("number of labels")
    listed.legend(frameon=False)
    for axes in (by_rank, listed):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return png(figure)
