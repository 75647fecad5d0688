"""Figures as files."""

import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

_BLACK = "#000000"


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return the figure as an SVG for pages: no background, and what is black in the page's color.

    Texts stay texts, in the page's font; the same figure gives the same bytes.
    """
    buffer = io.BytesIO()
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if legend is not None:
            legend.get_frame().set_alpha(0.0)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "shelfwise"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :].replace(_BLACK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL).encode()
