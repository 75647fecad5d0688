"""The metrics of one run as a table for the terminal."""

import math

from pipeline.metrics import Metrics
from pipeline.text_table import TextTable


def metrics_table(metrics: Metrics, *, title: str, note: str = "") -> TextTable:
    """Return one line a metric."""
    shares = " / ".join(f"{100 * share:.1f}" for share in metrics.neighbors_at_5_shares)
    groups = " / ".join(f"{100 * share:.1f}" for share in metrics.group_top1 or ())
    severity = distances = "unknown: not every label has a path"
    if metrics.severity is not None and metrics.hierarchical_distances is not None:
        severity = f"{metrics.severity:.2f} levels"
        if math.isnan(metrics.severity):
            severity = "no mistakes" if metrics.top1 > 0 else "no answers"
        distances = " / ".join(f"{each:.2f}" for each in metrics.hierarchical_distances) + " levels"
    rows: tuple[tuple[str, str], ...] = (
        ("top1", f"{100 * metrics.top1:.2f} %"),
        ("top5", f"{100 * metrics.top5:.2f} %"),
        ("neighbors@5", f"{metrics.neighbors_at_5:.2f} of 5"),
        ("items with 0/1/2/3/4/5", f"{shares} %"),
        ("macro-F1", f"{metrics.macro_f1:.4f}"),
        ("top1 of head/mid/tail", f"{groups} %"),
        ("mistake severity", severity),
        ("tree distance at 1/5/20", distances),
        ("ECE", f"{metrics.ece:.4f}"),
        ("nll", f"{metrics.nll:.4f} nats"),
    )
    if metrics.zero_shot_top1 is not None and metrics.zero_shot_top5 is not None:
        shares = f"{100 * metrics.zero_shot_top1:.2f} / {100 * metrics.zero_shot_top5:.2f} %"
        rows = (*rows, ("top1/top5 of classes without train items", shares))
    return TextTable(title=title, columns=("metric", "value"), rows=rows, note=note)
