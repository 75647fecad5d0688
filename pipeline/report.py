"""Write report/index.html: compare's tables and figures, the categories and the mistakes.

Takes report/compare.json and its figures, the predictions of the runs that it compared, the label
graph, the catalog's pictures and what `clean` found; writes one page that opens from disk, with
everything in it. No network runs. Cost: reading and shrinking a picture for each mistake shown.
"""

import hashlib
import json
import logging
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, FileSystemLoader

from cache.layout import parquet_table
from cache.reader import Cache, read_all_items, read_labels, read_plan
from cache.storage import Storage
from pipeline.clean_report import reasons_table
from pipeline.clean_table import CLEAN_TABLE, read_clean
from pipeline.label_graph import read_graph
from pipeline.report_data import (
    ShownRun,
    categories,
    choose_mistakes,
    mistakes,
    read_shown,
)
from pipeline.runs import run_folder
from pipeline.taxonomy import Taxonomy
from pipeline.text_table import TextTable
from pipeline.thumbnails import Thumbnail, data_url, read_thumbnails
from schemas.configs import plain_json
from schemas.errors import PipelineError, ReportError
from schemas.plan import Plan
from schemas.tables import SPLITS

logger = logging.getLogger(__name__)

COMPARED = "report/compare.json"
PAGE = "report/index.html"
_PAGES = Path(__file__).parent / "pages"
_RUN_COMPARE = "run `python cli.py compare` again"
_PIXELS = 128
_FORMAT, _QUALITY = "WEBP", 55
_MOST_MISTAKES = 4000
_MOST_TITLE_CHARS = 300
_MOST_PICTURE_BYTES = 8_000_000  # a third more in the page, which is to stay below 15 MB


@dataclass(frozen=True)
class Figure:
    """One of compare's figures."""

    name: str
    """Of the file below report/."""
    title: str
    how_to_read: str


FIGURES = (
    Figure(
        "compare",
        "Accuracy, and how much of the top 5 is in range",
        "Left: each point is a seed, each bar a mean; further right is better. Right: how many of "
        "an item's five best labels are its own or one of its neighbors; the lighter a bar is on "
        "the whole, the nearer by are the wrong ones.",
    ),
    Figure(
        "front",
        "What is gained and what is paid",
        "Up is more often right, to the right is nearer when wrong. What is filled is on the "
        "front: nothing trained is at least as good in top1, top5, neighbors@5 and severity.",
    ),
    Figure(
        "calibration",
        "Can the confidence be believed?",
        "On the dotted line an answer of 80% is right in 80 of 100 cases. Below it the network is "
        "too sure of itself. The bars say how many answers have that confidence.",
    ),
    Figure(
        "coverage",
        "What may be accepted without a person",
        "For each precision that was asked for: the share of items whose answer is sure enough. "
        "Thresholds were chosen on val; table 4 has the precision that test then reached.",
    ),
    Figure(
        "learning",
        "Learning curves",
        "The mean over seeds after each epoch, on val. A curve that still rises at its end asks "
        "for more epochs; one that falls does no harm, since the best epoch is kept.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written."""

    path: str
    num_bytes: int
    num_mistakes: int
    """Test items that some approach gets wrong."""
    num_shown: int
    """Of them in the gallery."""
    num_pictures: int
    """Of these with a picture."""

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.num_bytes / 1e6:.1f} MB; {self.num_shown:,} of {self.num_mistakes:,} mistakes, "
            f"{self.num_pictures:,} with a picture"
        )


def write_report(workspace: Storage, *, most_mistakes: int = _MOST_MISTAKES) -> Report:
    """Write the page.

    Args:
        workspace: where compare was run.
        most_mistakes: in the gallery; of more they are taken evenly.
    Raises: ReportError without compare's result, or if runs, cache or catalog changed since;
        NeighborsError, CacheIncompleteError.
    """
    plan = read_plan(workspace)
    compared = _read_compared(workspace)
    graph, names = read_graph(workspace, plan), read_labels(workspace, plan)
    paths = names["path"]
    taxonomy = None if paths.null_count else Taxonomy(paths.to_pylist())
    cache = Cache(workspace, plan, allow_partial=True)
    made_from = {"cache_sha256": cache.sha256(), "items_sha256": plan.items_sha256()}
    shown = _shown_runs(workspace, compared, {**made_from, "graph_sha256": graph.sha256()})
    items = read_all_items(workspace, plan)
    keep = _kept(workspace, compared, made_from, plan.num_rows)
    is_train = (items["split"].to_numpy() == "train") & keep
    counts = np.bincount(items["label"].to_numpy()[is_train], minlength=len(names))
    places, num_mistakes = choose_mistakes(shown, most_mistakes)
    thumbnails = read_thumbnails(
        plan.items,
        items.take(pa.array(shown[0].rows[places])),
        pixels=_PIXELS,
        picture_format=_FORMAT,
        quality=_QUALITY,
        what="report: pictures",
    )
    pictures = _within_budget(thumbnails)
    gallery = {
        **mistakes(shown, places, graph, taxonomy),
        "id": items["item_id"].take(pa.array(shown[0].rows[places])).to_pylist(),
        "title": [textwrap.shorten(each.title, _MOST_TITLE_CHARS) for each in thumbnails],
        "problem": [each.problem for each in thumbnails],
        "picture": [data_url(each, _FORMAT) for each in pictures],
    }
    data = {
        "approaches": [{"title": run.title, "run": run.name} for run in shown],
        "categories": categories(shown, names, graph, taxonomy, counts),
        "mistakes": gallery,
        "numTest": len(shown[0].labels),
        "hasTree": taxonomy is not None,
    }
    page = _render(
        compared=compared,
        figures=[(figure, _figure(workspace, figure, compared)) for figure in FIGURES],
        data_tables=_data_tables(workspace, plan, cache, items, made_from),
        data=data,
        num_mistakes=num_mistakes,
    )
    workspace.write(PAGE, page)
    return Report(
        path=workspace.where(PAGE),
        num_bytes=len(page),
        num_mistakes=num_mistakes,
        num_shown=len(places),
        num_pictures=sum(map(bool, pictures)),
    )


def _read_compared(workspace: Storage) -> dict[str, Any]:
    where = workspace.where(COMPARED)
    try:
        compared = json.loads(workspace.read(COMPARED))
        for name in ("tables", "seeds", "runs", "figures", "num_test", "num_seeds"):
            compared[name]
        trained = [each for each in compared["entries"] if each["kind"] == "approach"]
        is_whole = len(trained) == len(compared["seeds"]) > 0
    except FileNotFoundError as error:
        raise ReportError(
            "nothing was compared yet", where=where, fix="run `python cli.py compare`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"compare's result cannot be read, or is of an older version: {error}",
            where=where,
            fix=_RUN_COMPARE,
        ) from error
    if not is_whole:
        raise ReportError(
            f"compare's result has {len(trained)} approaches, and runs of {len(compared['seeds'])}",
            where=where,
            fix=_RUN_COMPARE,
        )
    found: dict[str, Any] = compared
    return found


def _shown_runs(
    workspace: Storage, compared: dict[str, Any], made_from: dict[str, str]
) -> list[ShownRun]:
    """Return the first seed of each approach, checked to be what compare saw."""
    titles = [entry["title"] for entry in compared["entries"] if entry["kind"] == "approach"]
    shown = []
    for title, names in zip(titles, compared["seeds"].values(), strict=True):
        run = run_folder(workspace, names[0])
        record = run.record()
        changed = [name for name, sha in made_from.items() if getattr(record.inputs, name) != sha]
        if plain_json(json.loads(run.read("metrics.json"))) != compared["runs"][run.name]:
            changed.append("metrics")
        if changed:
            raise ReportError(
                f"run {run.name} is not what was compared, or the workspace changed since: "
                + ", ".join(name.removesuffix("_sha256") for name in changed),
                where=run.where(),
                fix=_RUN_COMPARE,
            )
        shown.append(read_shown(run, title))
    return shown


def _kept(
    workspace: Storage, compared: dict[str, Any], made_from: dict[str, str], num_rows: int
) -> np.ndarray:
    """Return which items the compared runs went by."""
    first = next(iter(compared["seeds"].values()))[0]
    inputs = run_folder(workspace, first).record().inputs
    if not inputs.clean_sha256:
        return np.ones(num_rows, bool)
    kept = read_clean(workspace, made_from, num_rows)
    if kept is None or kept.sha256 != inputs.clean_sha256:
        raise ReportError(
            "what clean left out is not what the compared runs went by",
            where=workspace.where(CLEAN_TABLE),
            fix=_RUN_COMPARE,
        )
    return kept.keep


def _within_budget(thumbnails: Sequence[Thumbnail]) -> list[bytes]:
    """Leave pictures out where all of them would be too many bytes, evenly."""
    sizes = np.array([len(each.picture) for each in thumbnails])
    total = int(sizes.sum())
    if total <= _MOST_PICTURE_BYTES:
        return [each.picture for each in thumbnails]
    # The n-th picture goes in where the budget, spread evenly, reaches the next whole one.
    share = _MOST_PICTURE_BYTES / total
    steps = np.floor(np.arange(1, len(sizes) + 1) * share)
    is_in = np.diff(steps, prepend=0) > 0
    logger.info("the page shows %d of %d pictures, to stay small", is_in.sum(), len(sizes))
    return [each.picture if ok else b"" for each, ok in zip(thumbnails, is_in, strict=True)]


def _figure(workspace: Storage, figure: Figure, compared: dict[str, Any]) -> str:
    """Return a figure as SVG whose ids are unlike those of the others."""
    try:
        text = workspace.read(f"report/{figure.name}.svg").decode()
    except FileNotFoundError as error:
        raise ReportError(
            "a figure of compare is missing",
            where=workspace.where(f"report/{figure.name}.svg"),
            fix=_RUN_COMPARE,
        ) from error
    if hashlib.sha256(text.encode()).hexdigest() != compared["figures"][figure.name]:
        raise ReportError(
            "a figure is not the one that was drawn beside compare's tables",
            where=workspace.where(f"report/{figure.name}.svg"),
            fix=_RUN_COMPARE,
        )
    text = re.sub(r'\bid="', f'id="{figure.name}-', text)
    return re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{figure.name}-", text)


def _data_tables(
    workspace: Storage,
    plan: Plan,
    cache: Cache,
    items: pa.Table,
    made_from: dict[str, str],
) -> list[TextTable]:
    """Return what the catalog holds, which rows are bad, and what clean left out."""
    splits = items["split"].to_numpy(zero_copy_only=False)
    rows = cache.read_rows(["image_ok", "title_ok", "error"])
    counted = [(name, splits == name) for name in SPLITS]
    image_ok, title_ok = rows["image_ok"].to_numpy(), rows["title_ok"].to_numpy()
    tables = [
        TextTable(
            title="Items",
            columns=("split", "items", "with a picture", "with a title", "with neither"),
            rows=tuple(
                (
                    name,
                    *(
                        f"{int((is_in & each).sum()):,}"
                        for each in (is_in, image_ok, title_ok, ~image_ok & ~title_ok)
                    ),
                )
                for name, is_in in counted
            ),
            note=f"{plan.num_labels:,} labels; encoder "
            f"{' '.join(filter(None, (plan.encoder.model, plan.encoder.pretrained)))}",
        ),
        _bad_rows(cache),
    ]
    return [*tables, *_cleaned(workspace, items, made_from)]


def _bad_rows(cache: Cache) -> TextTable:
    reasons: dict[str, int] = {}
    for commit in cache.commits.values():
        for reason, count in commit.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    ordered = sorted(reasons.items(), key=lambda each: (-each[1], each[0]))
    return TextTable(
        title="Bad rows by reason",
        columns=("reason", "rows"),
        rows=tuple((reason, f"{count:,}") for reason, count in ordered),
        note="" if reasons else "There are none: every item has what it should.",
    )


def _cleaned(workspace: Storage, items: pa.Table, made_from: dict[str, str]) -> list[TextTable]:
    try:
        if read_clean(workspace, made_from, len(items)) is None:
            return []
    except PipelineError as error:
        logger.warning("the report leaves out what clean found: %s", error.what)
        return []
    table = parquet_table(workspace.read(CLEAN_TABLE))
    is_in = items["split"].is_valid().to_numpy()
    splits = np.array([SPLITS.index(name) for name in items["split"].drop_null().to_pylist()])
    labels = items["label"].to_numpy()[is_in]
    return [reasons_table(table.filter(pa.array(is_in)), labels, splits, None)]


def _render(**values: Any) -> bytes:
    environment = Environment(loader=FileSystemLoader(_PAGES), autoescape=True)
    values["data"] = _script_json(values["data"])
    values["script"] = (_PAGES / "report.js").read_text(encoding="utf-8")
    values["style"] = (_PAGES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(**values).encode()


def _script_json(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
