"""Embed a sample of the catalog anew and compare it with embeddings made elsewhere.

So that the cache cannot lie about who made it. Reads 64 items at most, writes nothing.

N items of the plan, n some rows.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from jaxtyping import Int, UInt8

from cache.reader import read_items
from cache.storage import Storage
from pipeline.embed_shard import EncoderLike
from pipeline.embedding_files import Source
from pipeline.embedding_rows import OK, gather, to_float32
from pipeline.items import PictureFile, RawItem, check_unchanged, read_places
from pipeline.pictures import PictureError, load
from schemas.errors import SpecMismatchError
from schemas.plan import Plan

logger = logging.getLogger(__name__)

MIN_COSINE = 0.99
_SAMPLE_PLACES, _SAMPLE_RUN = 8, 8


def check_sample(
    workspace: Storage,
    plan: Plan,
    source: Source,
    positions: Int[np.ndarray, " N"],
    get_encoder: Callable[[], EncoderLike],
) -> None:
    """Embed a sample with the plan's encoder and compare.

    Raises: SpecMismatchError if the median cosine is below MIN_COSINE; SourceChangedError if the
        catalog is no longer the planned one.
    """
    rows = _sample_rows(positions)
    items = _read_sample(workspace, plan, rows)
    contents: dict[str, list[Any]] = {
        "title": [item.title for item in items] if source.title else [],
        "image": [_pixels(item, plan) for item in items] if source.image else [],
    }
    for name, found in contents.items():
        places = [place for place, content in enumerate(found) if content is not None]
        there, codes = gather(
            getattr(source, name), positions[rows[places]], plan.encoder.embed_dim
        )
        places = [place for place, code in zip(places, codes, strict=True) if code == OK]
        if not places:
            if getattr(source, name) is not None:
                logger.warning("no %s could be compared: the import is taken on trust", name)
            continue
        chosen = [found[place] for place in places]
        if name == "title":
            ours = get_encoder().encode_texts(chosen, len(chosen))
        else:
            ours = np.concatenate(list(get_encoder().encode_images([np.stack(chosen)])))
        cosine = float(np.median(np.einsum("nd,nd->n", ours, to_float32(there[codes == OK]))))
        what = (
            f"{len(chosen)} {name}s: median cosine {cosine:.4f} to what the encoder makes of them"
        )
        if not cosine >= MIN_COSINE:
            raise SpecMismatchError(
                f"{what}, expected at least {MIN_COSINE}",
                where=source.where,
                fix="plan with the encoder that made them, look whether the ids are in the order "
                "of the rows, or pass --trust",
            )
        logger.info("%s", what)


def _sample_rows(positions: Int[np.ndarray, " N"]) -> Int[np.ndarray, " n"]:
    """Return rows of the plan that are in the source: a few places, a few neighbors each."""
    matched = np.flatnonzero(positions >= 0)
    first = np.linspace(0, max(len(matched) - _SAMPLE_RUN, 0), _SAMPLE_PLACES).astype(np.int64)
    places = np.unique(first[:, None] + np.arange(_SAMPLE_RUN))
    return matched[places[places < len(matched)]]


def _read_sample(workspace: Storage, plan: Plan, rows: Int[np.ndarray, " n"]) -> list[RawItem]:
    tables = []
    for shard in np.unique(rows // plan.shard_rows).tolist():
        start, stop = plan.shard_range(shard)
        local = rows[(rows >= start) & (rows < stop)] - start
        tables.append(read_items(workspace, plan, shard).take(pa.array(local)))
    items = pa.concat_tables(tables)
    files, places = items["source_file"].to_numpy(), items["source_row"].to_numpy()
    check_unchanged(plan.items, np.unique(files).tolist())
    return list(read_places(plan.items, files, places))


def _pixels(item: RawItem, plan: Plan) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decode a picture as embed does; None if it cannot be read."""
    if item.image is None:
        return None
    try:
        data = item.image.read() if isinstance(item.image, PictureFile) else item.image
        return load(data, plan.encoder.preprocess, is_scaled=plan.encoder.decode == "scaled")
    except (OSError, PictureError):
        return None
