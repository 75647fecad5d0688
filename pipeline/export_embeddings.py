"""Write the cache as .npy and Parquet files for others, in clip-retrieval's layout.

One set of files a shard: img_emb/img_emb_00000.npy, text_emb/text_emb_00000.npy and
metadata/metadata_00000.parquet, whose column `row` is the item's place in the plan; label_emb.npy
and labels.parquet beside them. autofaiss, embedding-reader and `import --from` read that. A row
without an embedding is NaN, and image_ok or title_ok says so. Cost at 12M items and D = 512: one
checked read of the cache, one write of 24.6 GB, a shard of one modality in memory.

N items, C labels, D embedding width, S rows of a shard.
"""

import io
import logging
import os
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from cache.layout import parquet_bytes
from cache.reader import PLAN, Cache, read_items, read_label_emb, read_labels, read_retired
from cache.storage import LocalStorage, Storage
from pipeline.locations import is_url
from pipeline.progress import Progress
from schemas.errors import CacheIncompleteError, EmbeddingFilesError
from schemas.plan import Plan

logger = logging.getLogger(__name__)

FOLDERS = {"image": "img_emb", "title": "text_emb"}
METADATA = "metadata"
_OURS = re.compile(r"(img_emb|text_emb|metadata)_\d+\.(npy|parquet)|label_emb\.npy|labels\.parquet")


def export_embeddings(
    workspace: Storage,
    plan: Plan,
    folder: str,
    *,
    dtype: str = "float16",
    allow_partial: bool = False,
    force: bool = False,
) -> None:
    """Write every shard's embeddings and rows but for retired items, then the labels.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        folder: local; made if absent.
        dtype: `float16`, as the cache has them, or `float32`.
        allow_partial: write unfinished shards as NaN, and go on without label embeddings.
        force: write into a folder that is not empty; an earlier export there is deleted.
    Raises: EmbeddingFilesError if the folder is not empty or a URL; CacheIncompleteError,
        CacheCorruptError, WorkspaceError if it cannot be written.
    """
    started = time.perf_counter()
    cache = Cache(workspace, plan, allow_partial=allow_partial)
    label_emb = _label_emb(workspace, plan, allow_partial=allow_partial)
    labels = read_labels(workspace, plan)
    _clear(folder, force=force)
    out = LocalStorage(Path(folder))
    rows = cache.read_rows(("image_ok", "title_ok", "error"))
    is_live = np.ones(plan.num_rows, bool)
    is_live[read_retired(workspace, plan)] = False
    num_bytes = num_rows = 0
    with Progress("export", plan.num_items) as progress:
        for shard in range(plan.num_shards):
            start, stop = plan.shard_range(shard)
            is_here = np.zeros(plan.num_rows, bool)
            is_here[start:stop] = is_live[start:stop]
            num_bytes += _export_matrices(cache, shard, is_here, out, dtype)
            mask = pa.array(is_live[start:stop])
            metadata = _metadata(read_items(workspace, plan, shard).filter(mask), labels)
            of_shard = rows.slice(start, stop - start).filter(mask)
            for column in rows.column_names:
                metadata = metadata.append_column(column, of_shard[column])
            out.write(f"{METADATA}/{METADATA}_{shard:05d}.parquet", parquet_bytes(metadata))
            num_rows += len(metadata)
            progress.update(stop - start)
    if label_emb is not None:
        _write_npy(out, "label_emb.npy", label_emb)
    out.write("labels.parquet", parquet_bytes(labels))
    seconds = time.perf_counter() - started
    logger.info(
        "export: %s rows of %d shards in %.1f s, %.0f rows/s, %.0f MB/s, to %s",
        f"{num_rows:,}",
        plan.num_shards,
        seconds,
        num_rows / seconds,
        num_bytes / 1e6 / seconds,
        out.location,
    )


def _export_matrices(
    cache: Cache, shard: int, is_here: Bool[np.ndarray, " N"], out: Storage, dtype: str
) -> int:
    """Write a shard's two .npy files; return how many bytes of embeddings they hold."""
    num_bytes = 0
    for name, below in FOLDERS.items():
        matrix = cache.read(name, rows=is_here, dtype=dtype)
        _write_npy(out, f"{below}/{below}_{shard:05d}.npy", matrix)
        num_bytes += matrix.nbytes
    return num_bytes


def _write_npy(out: Storage, name: str, matrix: Float[np.ndarray, "S D"]) -> None:
    """Write a C-contiguous matrix as np.save does, whole or not at all."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(matrix))
    out.write(name, header.getvalue(), matrix.data.cast("B") if matrix.size else b"")


def _label_emb(
    workspace: Storage, plan: Plan, *, allow_partial: bool
) -> Float[np.ndarray, "C D"] | None:
    try:
        return read_label_emb(workspace, plan)
    except CacheIncompleteError as error:
        if not allow_partial:
            raise
        logger.warning("%s: exported without them", error.what)
        return None


def _clear(folder: str, *, force: bool) -> None:
    """Make sure that the export will be all there is; files that are not its own stay."""
    if is_url(folder):
        raise EmbeddingFilesError(
            "embeddings are exported to a local folder only",
            where=folder,
            fix="export to a local --out, then copy it",
        )
    if not os.path.isdir(folder) or not os.listdir(folder):
        return
    is_workspace = (Path(folder) / PLAN).exists()  # it has a labels.parquet of its own
    if is_workspace or not force:
        mend = "" if is_workspace else ", or pass --force to replace an earlier export there"
        raise EmbeddingFilesError(
            "the folder is a workspace" if is_workspace else "the folder is not empty",
            where=os.path.abspath(folder),
            fix=f"name another --out{mend}",
        )
    for below in ("", METADATA, *FOLDERS.values()):
        place = Path(folder) / below
        for path in place.iterdir() if place.is_dir() else ():
            if _OURS.fullmatch(path.name):
                path.unlink()


def _metadata(items: pa.Table, labels: pa.Table) -> pa.Table:
    """Return what the plan says of a shard's items."""
    label = items["label"].to_numpy()
    of_item = pa.array(label, mask=label < 0)  # whose label was removed
    return pa.table(
        {
            "row": items["row"],
            "item_id": items["item_id"],
            "label_id": labels["label_id"].take(of_item),
            "label_name": labels["name"].take(of_item),
            "split": items["split"],
        }
    )
