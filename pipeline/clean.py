"""Find what should not be trained or measured on: duplicates, pictures of something else.

Reads the cache, the items and, where pictures repeat, the catalog's titles; changes none of them.
Writes clean.parquet, which fit uses from then on, and report/clean.html, in which a person judges
the thresholds by eye. Cost at 1M items and D = 512: minutes on 2 cores and 4 GB; see docs/clean.md.

    duplicates   exact and near ones (duplicates.py); one of each group stays
    mismatch     image-title cosines that are low for their category, or below one threshold
    label        with --check-labels: how little a cross-validated network believes an item's
                 label (label_quality.py); reported, never left out
    pictures     with --check-pictures: how much an item's picture looks like another category's
                 (picture_margins.py); reported, never left out

Source: Yang 2022, section 4: duplicates and items with inconsistent titles and images were removed
before training.

N items, n some items, D embedding width.
"""

import logging
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float16, Float64, Int64

from cache.layout import MODALITIES, parquet_bytes
from cache.reader import Cache, read_all_items, read_labels
from cache.storage import Storage
from pipeline.clean_report import (
    categories_table,
    labels_section,
    margins_table,
    pictures_section,
    quality_table,
    reasons_table,
    sections,
)
from pipeline.clean_table import CLEAN_TABLE, write_clean
from pipeline.contact_sheet import contact_sheet
from pipeline.device import pick_device
from pipeline.duplicates import (
    NearDuplicates,
    Pairs,
    exact_pairs,
    groups_of,
    kept_of_groups,
)
from pipeline.items import check_unchanged, scan
from pipeline.picture_margins import PictureMargins, picture_margins
from pipeline.tensors import FitData
from pipeline.text_table import TextTable
from schemas.clean import EXACT, LABEL, MISMATCH, NEAR, CleanConfig
from schemas.errors import CleanError, PipelineError
from schemas.plan import Plan
from schemas.tables import SPLITS

if TYPE_CHECKING:
    from pipeline.label_quality import LabelQuality

logger = logging.getLogger(__name__)

_REPORT, _LABELS, _PICTURES = (
    "report/clean.html",
    "report/labels.parquet",
    "report/pictures.parquet",
)
_MOST_SHARING = 10  # items, of a picture or title that still says which product it is
_FEWEST = 10
_SMALL = 20  # items: a category of so many is half believed


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What clean found."""

    table: pa.Table
    """In the schema CLEAN."""
    tables: tuple[TextTable, ...]
    """Counts by reason and by category."""
    recall: tuple[int, int] | None
    """Of a sample's near duplicates, how many were found, of how many; None: search was exact."""
    files: tuple[str, ...]
    """What was written."""


def clean(workspace: Storage, plan: Plan, config: CleanConfig, *, device: str = "auto") -> Cleaning:
    """Look at the whole catalog and write clean.parquet.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        config: thresholds.
        device: where networks are trained to check labels.
    Raises: CacheIncompleteError, CacheCorruptError; as fit, if labels are checked.
    """
    cache = Cache(workspace, plan)
    catalog = _Catalog(workspace, plan, cache)
    data = None
    if config.check_labels:  # what is missing for it shows before hours of search
        data = FitData(workspace, plan, pick_device(device), clean=False)
    found = _find(cache, plan, catalog, config)
    quality = None
    if data is not None:
        quality = _label_quality(data, found.keep)
        rows = quality.rows[quality.suspicious()]
        found.reason[rows] = LABEL
        found.score[rows] = quality.quality[quality.suspicious()]
    table = pa.table(
        {
            "row": catalog.items["row"],
            "item_id": catalog.items["item_id"],
            "keep": found.keep,
            "reason": pa.array(found.reason, pa.string()),
            "group": pa.array(found.group, mask=found.group < 0),
            "score": pa.array(found.score, mask=np.isnan(found.score)),
        }
    )
    made_from = {
        "cache_sha256": cache.sha256(),
        "items_sha256": plan.items_sha256(),
    }
    names = read_labels(workspace, plan)
    live = table.filter(pa.array(catalog.is_live))
    labels, splits = catalog.labels[catalog.is_live], catalog.splits[catalog.is_live]
    tables = (
        reasons_table(live, labels, splits, found.recall),
        categories_table(live, labels, names),
    )
    chosen = sections(table, catalog.labels, found.exact, found.near, config)
    lists: dict[str, pa.Table | None] = {_LABELS: None, _PICTURES: None}
    if config.check_pictures:
        margins = _picture_margins(cache, catalog)
        chosen.append(pictures_section(margins, catalog.labels, names))
        lists[_PICTURES] = margins_table(margins, catalog.items)
    if quality is not None:
        chosen.append(labels_section(quality, names))
        lists[_LABELS] = quality_table(quality, catalog.items)
    files = [CLEAN_TABLE, _REPORT]
    for name, rows in lists.items():
        if rows is not None:
            workspace.write(name, parquet_bytes(rows))
            files.append(name)
        else:
            workspace.remove(name)  # of an earlier call
    page = contact_sheet(plan, catalog.items, names, found.keep, tables, chosen)
    workspace.write(_REPORT, page)
    write_clean(workspace, table, config, made_from)  # last: from here on fit goes by it
    written = tuple(map(workspace.where, files))
    return Cleaning(table=table, tables=tables, recall=found.recall, files=written)


class _Found(NamedTuple):
    """What goes, and why."""

    exact: Pairs
    near: Pairs
    recall: tuple[int, int] | None
    group: Int64[np.ndarray, " N"]
    keep: Bool[np.ndarray, " N"]
    reason: np.ndarray
    score: Float[np.ndarray, " N"]


def _find(cache: Cache, plan: Plan, catalog: "_Catalog", config: CleanConfig) -> _Found:
    exact = exact_pairs(_content_keys(plan, catalog))
    is_copy = np.zeros(len(catalog.labels), bool)
    is_copy[exact.other] = True
    counts_in = catalog.is_live & ~is_copy
    rows = np.flatnonzero(counts_in & catalog.has_both)
    tells = {name: _tells(catalog.rows, counts_in, name)[rows] for name in MODALITIES}
    near, recall = _near_pairs(cache, rows, tells, config)
    cosine = np.where(catalog.is_live, catalog.rows["image_title_cosine"].to_numpy(), np.nan)
    is_mismatch = mismatches(cosine, catalog.labels, config)
    group = groups_of(len(catalog.labels), exact, near)
    stays = catalog.is_live & (group < 0)
    stays[kept_of_groups(group, catalog.labels, catalog.splits, ~is_mismatch)] = True
    reason, score = _reasons(group, stays, exact, near)
    reason[is_mismatch & stays] = MISMATCH
    score[is_mismatch & stays] = cosine[is_mismatch & stays]
    return _Found(exact, near, recall, group, stays & ~is_mismatch, reason, score)


def _label_quality(data: FitData, keep: Bool[np.ndarray, " N"]) -> "LabelQuality":
    from pipeline.label_quality import NUM_FOLDS, label_quality  # loads pandas

    is_ok = (data.image_ok | data.title_ok).cpu().numpy()
    rows = np.flatnonzero(keep & is_ok)
    if len(rows) < 2 * NUM_FOLDS:
        raise CleanError(
            f"{len(rows)} items stay: too few to judge labels by {NUM_FOLDS} networks",
            where="--check-labels",
            fix="leave it out",
        )
    return label_quality(data, rows)


def _picture_margins(cache: Cache, catalog: "_Catalog") -> PictureMargins:
    # Duplicates too: pictures of one product show where a strange one belongs.
    rows = np.flatnonzero(catalog.is_live & catalog.rows["image_ok"].to_numpy())
    if len(rows) < _FEWEST:
        raise CleanError(
            f"{len(rows)} pictures: too few to compare",
            where="--check-pictures",
            fix="leave it out",
        )

    def read(wanted: Int64[np.ndarray, " n"]) -> Float16[np.ndarray, "n D"]:
        return cache.read_random("image", wanted)

    return picture_margins(read, rows, catalog.labels[rows])


class _Catalog:
    """What clean looks at, but for the embeddings."""

    def __init__(self, workspace: Storage, plan: Plan, cache: Cache) -> None:
        self.items = read_all_items(workspace, plan)
        self.rows = cache.read_rows(
            ["image_ok", "title_ok", "image_sha256", "title_sha256", "image_title_cosine"]
        )
        self.labels: Int64[np.ndarray, " N"] = self.items["label"].to_numpy().astype(np.int64)
        splits = pc.index_in(self.items["split"], value_set=pa.array(SPLITS))
        self.splits: Int64[np.ndarray, " N"] = splits.fill_null(-1).to_numpy().astype(np.int64)
        self.is_live: Bool[np.ndarray, " N"] = self.splits >= 0
        self.has_both: Bool[np.ndarray, " N"] = (
            self.rows["image_ok"].to_numpy() & self.rows["title_ok"].to_numpy()
        )


def mismatches(
    cosine: Float[np.ndarray, " N"], labels: Int64[np.ndarray, " N"], config: CleanConfig
) -> Bool[np.ndarray, " N"]:
    """Return the items whose picture and title are least alike for their category.

    The floor(quantile * n) of lowest standing among n items that have both; or all whose cosine is
    below one threshold. Others are none.

    Args:
        cosine: of image and title embedding, as cached; NaN without picture or title.
        labels: class ids.
        config: quantile or threshold.
    """
    if config.min_image_title_cosine is not None:
        return cosine < config.min_image_title_cosine
    standing = standings(cosine, labels)
    # NaN comes last. A hair more: 0.07 * 100 is below 7 in float64.
    order = np.argsort(standing, kind="stable")
    num = int(config.mismatch_quantile * (~np.isnan(standing)).sum() + 1e-9)
    found = np.zeros(len(labels), bool)
    found[order[:num]] = True
    return found


def standings(
    cosine: Float[np.ndarray, " N"], labels: Int64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Return (cosine - median) / spread, both of the item's category; NaN stays NaN.

    Cosines differ by category more than by mistake. The spread is the median absolute deviation,
    drawn towards that of all items where a category is small.

    Args:
        cosine: of image and title embedding.
        labels: class ids.
    """
    found = np.full(len(labels), np.nan)
    rows = np.flatnonzero(~np.isnan(cosine))
    if not len(rows):
        return found
    values, category = cosine[rows].astype(np.float64), labels[rows]
    off = values - _medians(values, category)
    counts = np.bincount(category)[category]
    spread = counts * _medians(np.abs(off), category) + _SMALL * np.median(np.abs(off))
    found[rows] = off / np.maximum(spread / (counts + _SMALL), 1e-12)
    return found


def _medians(
    values: Float64[np.ndarray, " n"], category: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return for each item the median of its category."""
    order = np.lexsort((values, category))
    counts = np.bincount(category)
    first = np.cumsum(counts) - counts
    low, high = first + (counts - 1) // 2, first + counts // 2
    ranked = np.append(values[order], np.nan)  # one past the end for empty categories
    return ((ranked[low] + ranked[high]) / 2)[category]


def _near_pairs(
    cache: Cache,
    rows: Int64[np.ndarray, " n"],
    tells: dict[str, Bool[np.ndarray, " n"]],
    config: CleanConfig,
) -> tuple[Pairs, tuple[int, int] | None]:
    if len(rows) < 2:
        empty = np.empty(0, np.int64)
        return Pairs(empty, empty, np.empty(0, np.float32)), None

    def read(name: str, wanted: Int64[np.ndarray, " n"]) -> Float16[np.ndarray, "n D"]:
        return cache.read_random(name, wanted)

    search = NearDuplicates(read, rows, config.min_cosine, tells)
    pairs = search.pairs()
    return pairs, None if search.is_exact else search.recall()


def _tells(rows: pa.Table, counts_in: Bool[np.ndarray, " N"], name: str) -> Bool[np.ndarray, " N"]:
    """Return the items whose picture or title is not shared by many, such as "no picture yet".

    Args:
        rows: with the contents' hashes.
        counts_in: items to count.
        name: `image` or `title`.
    """
    content = _numbers(rows[f"{name}_sha256"])
    counts = np.bincount(content[(content >= 0) & counts_in], minlength=content.max(initial=0) + 1)
    is_shared = (content >= 0) & (counts[content] > _MOST_SHARING)
    if is_shared.any():
        logger.info(
            "%s items share %s %ss with more than %d others each: these make no near duplicates",
            f"{int(is_shared.sum()):,}",
            f"{int((counts > _MOST_SHARING).sum()):,}",
            "picture" if name == "image" else name,
            _MOST_SHARING - 1,
        )
    return ~is_shared


def _numbers(column: pa.ChunkedArray) -> Int64[np.ndarray, " N"]:
    """Return a number for each text, the same for the same; -1 for null."""
    indices = column.combine_chunks().dictionary_encode().indices
    return indices.fill_null(-1).to_numpy().astype(np.int64)


def _content_keys(plan: Plan, catalog: _Catalog) -> Int64[np.ndarray, " N"]:
    """Return a number for each item, the same for the same content; -1 where nobody shares it."""
    keys = np.full(len(catalog.labels), -1, np.int64)
    picture = _numbers(catalog.rows["image_sha256"])
    has_title = catalog.rows["title_sha256"].is_valid().to_numpy()
    counts = np.bincount(picture[picture >= 0], minlength=1)
    rows = np.flatnonzero(catalog.is_live & (picture >= 0) & has_title)
    rows = rows[counts[picture[rows]] > 1]
    if len(rows):
        titles = pa.array(_titles(plan, catalog, rows)).dictionary_encode().indices.to_numpy()
        keys[rows] = picture[rows] * (titles.max() + 1) + titles
    return keys


def _titles(plan: Plan, catalog: _Catalog, rows: Int64[np.ndarray, " n"]) -> list[str]:
    """Return normalized titles of some rows, in order; hashes if the catalog is out of reach."""
    try:
        check_unchanged(plan.items)
        return _scanned_titles(plan, catalog.items, rows)
    except (PipelineError, OSError) as error:
        logger.warning("titles are compared as they were when embedded: %s", error)
        return catalog.rows["title_sha256"].take(pa.array(rows)).to_pylist()


def _scanned_titles(plan: Plan, items: pa.Table, rows: Int64[np.ndarray, " n"]) -> list[str]:
    """Read titles out of the catalog; rows rise, and so do the places of its items."""
    wanted = items.select(["source_file", "source_row"]).take(pa.array(rows))
    file, place = (wanted[name].to_numpy() for name in ("source_file", "source_row"))
    found: list[str] = []
    start = current = 0
    for number, batch in scan(plan.items):
        if number != current:
            current, start = number, 0
        inside = (file == number) & (place >= start) & (place < start + len(batch))
        titles = batch["title"].take(pa.array(place[inside] - start)).to_pylist()
        found += [normalized(title.decode("utf-8", "replace")) for title in titles]
        start += len(batch)
    return found


def normalized(title: str) -> str:
    """Return a title without what feeds write in different ways: case, spaces, Unicode forms."""
    return " ".join(unicodedata.normalize("NFKC", title).casefold().split())


def _reasons(
    group: Int64[np.ndarray, " N"], stays: Bool[np.ndarray, " N"], exact: Pairs, near: Pairs
) -> tuple[np.ndarray, Float[np.ndarray, " N"]]:
    """Return why each item of a group goes, and the cosine of its closest duplicate."""
    reason = np.full(len(group), None, object)
    score = np.full(len(group), np.nan, np.float32)
    for pairs in (near, exact):
        for end in (pairs.one, pairs.other):
            np.fmax.at(score, end, pairs.score)
    # Of the same content as the one that stays, or as one that goes as a near duplicate of it.
    content = np.arange(len(group))
    content[exact.other] = exact.one
    has_copy = np.zeros(len(group), bool)
    has_copy[np.concatenate([exact.one, exact.other])] = True
    order = np.lexsort((np.arange(len(group)), ~stays, content))
    first = np.unique(content[order], return_index=True)[1]
    is_copy = has_copy.copy()
    is_copy[order[first]] = False
    goes = (group >= 0) & ~stays
    reason[goes] = NEAR
    reason[goes & is_copy] = EXACT
    score[~goes] = np.nan
    return reason, score
