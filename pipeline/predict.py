"""Answer for new items with finished runs: one item, or a table of any length.

Takes the runs' folders, the encoder and items that need no label; writes a table in the schema
PREDICTED. Nothing of the workspace is needed. Cost: stage one's for each item, and milliseconds for
the network; memory for a few batches.

B batch.
"""

import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cache.storage import cannot_write
from cache.writer import count_reasons
from pipeline.decode_pool import DecodePool
from pipeline.embed_items import EmbeddedItems, embed_items
from pipeline.embed_shard import EncoderLike
from pipeline.items import PictureFile, RawItem, named_items
from pipeline.locations import local_path
from pipeline.predictions import Inputs
from pipeline.progress import Progress, duration
from pipeline.run_classifier import Answered, RunClassifier
from pipeline.text_table import TextTable
from schemas.errors import CatalogError
from schemas.plan import ItemsSource
from schemas.tables import PREDICTED

logger = logging.getLogger(__name__)

_GROUP_ROWS = 16384
_NOT_GIVEN = "not given"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What came of a table of items."""

    num_items: int
    num_answered: int
    num_abstained: int
    """Below the threshold."""
    errors: dict[str, int]
    """How often each reason for a missing picture or title occurs."""
    seconds: float
    path: str
    """Of the table."""

    def table(self) -> TextTable:
        """Return the counts."""
        num_empty = self.num_items - self.num_answered - self.num_abstained
        rows = [
            ("answered", f"{self.num_answered:,}"),
            ("abstained: below the threshold", f"{self.num_abstained:,}"),
            ("nothing to predict from", f"{num_empty:,}"),
            *((reason, f"{num:,}") for reason, num in self.errors.items()),
        ]
        rate = self.num_items / max(self.seconds, 1e-9)
        return TextTable(
            title=f"{self.num_items:,} items",
            columns=("", "items"),
            rows=tuple(rows),
            note=f"{duration(self.seconds)}, {rate:,.0f} items/s",
        )


def predict_item(
    classifier: RunClassifier, encoder: EncoderLike, *, image: str | None, title: str | None
) -> pa.Table:
    """Answer for one item.

    Args:
        classifier: the runs.
        encoder: the one they were trained with.
        image: local file; None for no picture.
        title: None for no title.
    Returns: one row in the schema PREDICTED.
    Raises: CatalogError if the picture cannot be used.
    """
    item = RawItem(
        title=title,
        title_error=None if title is not None else _NOT_GIVEN,
        image=None if image is None else PictureFile("/", os.path.abspath(image)),
        image_error=None if image is not None else _NOT_GIVEN,
    )
    with _pool(encoder, 0) as pool:
        (found,) = embed_items([(None, item)], encoder, pool)
    if image is not None and classifier.sees_images and not found.image_ok[0]:
        raise CatalogError(
            str(found.errors[0]), where=image, fix="give another picture, or leave --image out"
        )
    return _table(classifier, found, 0)


def predict_items(
    classifier: RunClassifier,
    encoder: EncoderLike,
    source: ItemsSource,
    out: str | Path,
    *,
    batch_size: int = 256,
    num_workers: int = 2,
) -> Predicted:
    """Answer for every item of a table, in order, and write the answers; nothing is left out.

    Args:
        classifier: the runs.
        encoder: the one they were trained with.
        source: the items.
        out: local Parquet file to write; it appears when it is complete.
        batch_size: B.
        num_workers: processes that decode pictures; 0 decodes in this one.
    Raises: CatalogError if the items cannot be read, or `out` is one of their files or no .parquet;
        WorkspaceError if it cannot be written.
    """
    started = time.perf_counter()
    path = local_path(out)
    _check_out(path, source)
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    num_items = sum(file.num_rows for file in source.files)
    with (
        _pool(encoder, num_workers) as pool,
        Progress("predict", num_items) as progress,
        _Writer(path) as writer,
    ):
        row = 0
        for found in embed_items(named_items(source), encoder, pool, batch_size=batch_size):
            table = _table(classifier, found, row)
            writer.write(table)
            row += len(table)
            counts["answered"] += len(table) - table["label_id"].null_count
            counts["abstained"] += sum(table["abstains"].to_pylist())
            errors.update(count_reasons(table["error"].drop_null().to_pylist()))
            progress.update(len(table))
    return Predicted(
        num_items=row,
        num_answered=counts["answered"],
        num_abstained=counts["abstained"],
        errors=dict(errors.most_common(20)),
        seconds=time.perf_counter() - started,
        path=str(path),
    )


def answer_table(found: pa.Table, classifier: RunClassifier) -> TextTable:
    """Return one item's answers for a person to read."""
    (row,) = found.to_pylist()
    labels = {each["label_id"]: each for each in classifier.labels.to_pylist()}
    rows = [
        (f"{100 * probability:.1f} %", labels[label]["path"] or labels[label]["name"], label)
        for label, probability in zip(row["top_label_ids"], row["top_probabilities"], strict=True)
    ]
    note = ""
    if not rows:
        note = f"nothing to predict from: {row['error'] or 'not what these networks look at'}"
    if row["abstains"]:
        note = f"abstains: the first is below the threshold, {100 * classifier.threshold:.1f} %"
    return TextTable(
        title=" and ".join(classifier.runs),
        columns=("probability", "category", "label_id"),
        rows=tuple(rows),
        note=note,
        align="left",
    )


def _pool(encoder: EncoderLike, num_workers: int) -> DecodePool:
    return DecodePool(
        encoder.spec.preprocess,
        is_scaled=encoder.spec.decode == "scaled",
        num_workers=num_workers,
        jpegs=encoder.jpegs,
    )


def _check_out(path: Path, source: ItemsSource) -> None:
    if path.suffix != ".parquet" or path.is_dir():
        what = "is a folder" if path.is_dir() else "does not end with .parquet"
        raise CatalogError(
            f"{path.name!r} {what}", where="--out", fix="name a file that ends with .parquet"
        )
    if str(path.resolve()) in {os.path.realpath(file.path) for file in source.files}:
        raise CatalogError(
            "the answers would replace the items", where=str(path), fix="name another --out"
        )


def _table(classifier: RunClassifier, found: EmbeddedItems, first_row: int) -> pa.Table:
    """Return the answers for embedded items in the schema PREDICTED."""
    arrays = (found.image_emb, found.title_emb, found.image_ok, found.title_ok)
    answered = classifier.answer(Inputs(*map(torch.from_numpy, arrays)))
    num_items = len(found.item_ids)
    ids = classifier.labels["label_id"].combine_chunks()
    best = pa.array(answered.top_labels[:, 0], mask=~answered.accepted)
    columns = {
        "row": range(first_row, first_row + num_items),
        "item_id": pa.array(found.item_ids, pa.string()),
        **{name: classifier.labels[name].take(best) for name in ("label_id", "name", "path")},
        "probability": pa.array(answered.top_probabilities[:, 0], mask=~answered.predicted),
        "abstains": answered.predicted & ~answered.accepted,
        "error": pa.array(found.errors, pa.string()),
        **_lists(answered, ids),
    }
    return pa.table(columns).cast(PREDICTED)


def _lists(answered: Answered, ids: pa.Array) -> dict[str, pa.Array]:
    """Return the best labels of each item; nothing of one that was not predicted."""
    num_top = answered.top_labels.shape[1]
    kept = answered.predicted
    borders = pa.array([0, *(num_top * kept.cumsum()).tolist()], pa.int32())
    labels = ids.take(pa.array(answered.top_labels[kept].ravel()))
    probabilities = pa.array(answered.top_probabilities[kept].ravel())
    return {
        "top_label_ids": pa.ListArray.from_arrays(borders, labels),
        "top_probabilities": pa.ListArray.from_arrays(borders, probabilities),
    }


class _Writer:
    """A Parquet file that appears when it is complete; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._waiting: list[pa.Table] = []
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Writer":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pq.ParquetWriter(self._temporary, PREDICTED, compression="zstd")
        except OSError as error:
            raise self._cannot(error) from error
        return self

    def write(self, table: pa.Table) -> None:
        """Add rows; they are written some thousands at a time."""
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= _GROUP_ROWS:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._file is not None
        try:
            if kind is None:
                self._flush()
            self._file.close()
            if kind is None:
                self._temporary.replace(self._path)
        except OSError as error:
            raise self._cannot(error) from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        assert self._file is not None
        if self._waiting:
            try:
                self._file.write_table(pa.concat_tables(self._waiting))
            except OSError as error:
                raise self._cannot(error) from error
            self._waiting = []

    def _cannot(self, error: OSError) -> Exception:
        return cannot_write(str(self._path), error.strerror or str(error))
