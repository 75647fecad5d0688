"""Draw report/clean.html: what clean leaves out, with pictures, to judge thresholds by eye.

One file that opens from disk: thumbnails are in it. Pictures come from the catalog; where they
cannot be read the card says why.

N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jinja2 import Environment

from pipeline.text_table import TextTable
from pipeline.thumbnails import data_url, read_thumbnails
from schemas.plan import Plan

_PIXELS = 160
_FORMAT = "JPEG"
_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Section:
    """Sets of items that belong together, under a title."""

    title: str
    how_to_read: str
    """One sentence."""
    sets: Sequence[Sequence[int]]
    """Rows of the plan, shown side by side."""
    notes: Sequence[str]
    """Of each set, such as its score."""


@dataclass(frozen=True, kw_only=True)
class _Card:
    item_id: str
    title: str
    label: str
    split: str
    is_kept: bool
    picture: str
    """Data URL; empty without one."""
    problem: str
    """Why there is no picture."""


def contact_sheet(
    plan: Plan,
    items: pa.Table,
    labels: pa.Table,
    keep: np.ndarray,
    tables: Sequence[TextTable],
    sections: Sequence[Section],
) -> bytes:
    """Return the page.

    Args:
        plan: says where the pictures are.
        items: of the whole plan, in the schema ITEMS.
        labels: in the schema LABELS.
        keep: of each item, whether it stays.
        tables: shown first.
        sections: shown after.
    """
    rows = sorted({row for section in sections for each in section.sets for row in each})
    chosen = items.take(pa.array(rows, pa.int64()))
    paths = [
        path or name
        for path, name in zip(labels["path"].to_pylist(), labels["name"].to_pylist(), strict=True)
    ]
    thumbnails = read_thumbnails(
        plan.items,
        chosen,
        pixels=_PIXELS,
        picture_format=_FORMAT,
        quality=_QUALITY,
        what="clean: pictures of the report",
    )
    cards = {
        item["row"]: _Card(
            item_id=item["item_id"],
            title=small.title,
            label=paths[item["label"]],
            split=item["split"],
            is_kept=bool(keep[item["row"]]),
            picture=data_url(small.picture, _FORMAT),
            problem=small.problem,
        )
        for item, small in zip(chosen.to_pylist(), thumbnails, strict=True)
    }
    shown = [
        (
            section,
            [
                (note, [cards[row] for row in each])
                for note, each in zip(section.notes, section.sets, strict=True)
            ],
        )
        for section in sections
    ]
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(tables=tables, sections=shown, pixels=_PIXELS).encode()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What clean leaves out</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem auto; max-width: 76rem;
  padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #8885; }
th:first-child, td:first-child { text-align: left; }
.sets { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; border: 1px solid #8887; border-radius: 6px; padding: .5rem; }
figcaption { font-size: .85rem; margin-bottom: .4rem; }
.items { display: flex; gap: .5rem; flex-wrap: wrap; }
.item { width: {{ pixels }}px; font-size: .78rem; overflow-wrap: anywhere; }
.item img, .none { width: {{ pixels }}px; height: {{ pixels }}px; object-fit: contain;
  background: #8882; display: block; }
.none { display: grid; place-items: center; text-align: center; }
.out { color: light-dark(#a3250f, #ff9a85); }
.note { white-space: pre-line; }
</style>
</head>
<body>
<h1>What clean leaves out</h1>
{% for table in tables %}
<h2>{{ table.title }}</h2>
<table>
<thead><tr>{% for name in table.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% endfor %}
{% for section, sets in sections %}
<h2>{{ section.title }}</h2>
<p>{{ section.how_to_read }}</p>
<div class="sets">
{% for note, cards in sets %}
<figure>
<figcaption>{{ note }}</figcaption>
<div class="items">
{% for card in cards %}
<div class="item">
{% if card.picture %}<img src="{{ card.picture }}" alt="{{ card.title or card.item_id }}">
{% else %}<div class="none">{{ card.problem }}</div>{% endif %}
<strong>{{ card.title or "(no title)" }}</strong><br>
{{ card.label }}<br>
{{ card.item_id }}, {{ card.split }}{% if not card.is_kept %},
<span class="out">left out</span>{% endif %}
</div>
{% endfor %}
</div>
</figure>
{% endfor %}
</div>
{% endfor %}
</body>
</html>
"""
