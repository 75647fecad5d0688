"""What the service knows: runs and encoder to answer with, labels and their neighbors to show.

Items go the same way as in `predict`: `embed_items`, then `RunClassifier.answer`.

P answers kept of an item.
"""

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from cache.reader import read_labels, read_plan
from cache.storage import Storage
from pipeline.decode_pool import DecodePool, JpegDecoder
from pipeline.embed_items import EmbeddedItems, embed_items
from pipeline.embed_shard import EncoderLike
from pipeline.items import RawItem
from pipeline.label_graph import read_graph
from pipeline.predictions import Inputs
from pipeline.run_classifier import RunClassifier
from schemas.errors import PipelineError

Lane = Callable[[list[RawItem]], "list[Said]"]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What was found out about one item."""

    labels: list[int]
    """P of them, best first; empty if there was nothing to predict from."""
    probabilities: list[float]
    accepted: bool
    """Whether the first reaches the threshold."""
    image_ok: bool
    """Whether there is an embedding of the picture."""
    error: str | None
    """What is missing, as `predict` says it."""


class Model:
    """Answers batches of items; a context manager."""

    def __init__(self, classifier: RunClassifier, encoder: EncoderLike) -> None:
        """Name the runs, and the encoder that they were trained with."""
        self.classifier = classifier
        # One thread computes: OpenMP gives each caller threads of its own, and two sets of them
        # would take turns on the same cores.
        self._computing = ThreadPoolExecutor(1, "compute")
        self._encoder = _InOneThread(encoder, self._computing)
        self._pools = contextlib.ExitStack()

    def lanes(self, num_lanes: int, *, num_workers: int) -> list[Lane]:
        """Return functions that answer a batch each, at the same time, and have done so once.

        Args:
            num_lanes: how many.
            num_workers: processes that decode pictures, shared by all; 0 decodes in this one.
        """
        lanes: list[Lane] = []
        for _ in range(num_lanes):
            pool = DecodePool(
                self._encoder.spec.preprocess,
                is_scaled=self._encoder.spec.decode == "scaled",
                num_workers=-(-num_workers // num_lanes),
                jpegs=self._encoder.jpegs,
            )
            lanes.append(functools.partial(self._answer, self._pools.enter_context(pool)))
        for lane in lanes:
            lane([_warm_up_item()])
        return lanes

    def close(self) -> None:
        """Stop the processes that decode; the lanes must have ended."""
        self._pools.close()
        self._computing.shutdown()

    def _answer(self, pool: DecodePool, items: list[RawItem]) -> list[Said]:
        named = [(None, item) for item in items]
        (found,) = embed_items(named, self._encoder, pool, batch_size=len(named))
        return self._computing.submit(self._classify, found).result()

    def _classify(self, found: EmbeddedItems) -> list[Said]:
        arrays = (found.image_emb, found.title_emb, found.image_ok, found.title_ok)
        answered = self.classifier.answer(Inputs(*map(torch.from_numpy, arrays)))
        rows = zip(
            answered.top_labels.tolist(),
            answered.top_probabilities.tolist(),
            answered.predicted.tolist(),
            answered.accepted.tolist(),
            found.image_ok.tolist(),
            found.errors,
            strict=True,
        )
        return [
            Said(
                labels=labels if predicted else [],
                probabilities=probabilities if predicted else [],
                accepted=accepted,
                image_ok=image_ok,
                error=error,
            )
            for labels, probabilities, predicted, accepted, image_ok, error in rows
        ]


class _InOneThread:
    """An encoder that several threads call, and one runs."""

    def __init__(self, encoder: EncoderLike, thread: ThreadPoolExecutor) -> None:
        self.spec, self.compute_dtype = encoder.spec, encoder.compute_dtype
        self.jpegs: JpegDecoder | None = None
        if encoder.jpegs is not None:
            self.jpegs = _OneAtATime(encoder.jpegs)
        self._encoder, self._thread = encoder, thread

    def encode_images(
        self, batches: Iterable[UInt8[np.ndarray, "B H W 3"]]
    ) -> Iterator[Float32[np.ndarray, "B D"]]:
        ready = list(batches)
        yield from self._thread.submit(lambda: list(self._encoder.encode_images(ready))).result()

    def encode_texts(self, texts: Sequence[str], batch_size: int) -> Float32[np.ndarray, "n D"]:
        return self._thread.submit(self._encoder.encode_texts, texts, batch_size).result()


class _OneAtATime:
    """A device's decoder that several lanes share."""

    def __init__(self, jpegs: JpegDecoder) -> None:
        self._jpegs, self._lock = jpegs, threading.Lock()

    def takes(self, picture: bytes) -> bool:
        return self._jpegs.takes(picture)

    def decode(self, pictures: list[bytes]) -> UInt8[np.ndarray, "B H W 3"]:
        with self._lock:
            return self._jpegs.decode(pictures)


def _warm_up_item() -> RawItem:
    """Return an item with which workers start and libraries allocate, before a client waits."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(buffer, "PNG")
    return RawItem(title="warm-up", title_error=None, image=buffer.getvalue(), image_error=None)


class Shelves:
    """The labels as clients see them, with their neighbors where a label graph is there."""

    def __init__(self, classifier: RunClassifier, workspace: Storage) -> None:
        """Read the graph of the workspace, if it has one that fits."""
        names = ("label_id", "name", "path")
        self.labels: list[dict[str, Any]] = classifier.labels.select(names).to_pylist()
        self.row_of = {each["label_id"]: row for row, each in enumerate(self.labels)}
        self._searched = ["\n".join(filter(None, each.values())).casefold() for each in self.labels]
        self.no_neighbors: str | None = None
        """Why nobody knows the neighbors; None if they are known."""
        self._neighbors: dict[str, list[tuple[str, float | None]]] = {}
        try:
            self._neighbors = _read_neighbors(workspace)
        except PipelineError as error:
            self.no_neighbors = error.what

    def found(self, search: str) -> list[dict[str, Any]]:
        """Return the labels whose id, name or path has a text in it, whatever its case."""
        text = search.casefold()
        return [
            each
            for each, searched in zip(self.labels, self._searched, strict=True)
            if text in searched
        ]

    def neighbors(self, label_id: str) -> list[dict[str, Any]]:
        """Return a label's nearest labels, nearest first, as far as the runs know them."""
        return [
            {**self.labels[self.row_of[other]], "similarity": similarity}
            for other, similarity in self._neighbors.get(label_id, [])
            if other in self.row_of
        ]


def _read_neighbors(workspace: Storage) -> dict[str, list[tuple[str, float | None]]]:
    """Return each label's neighbors by label_id: a plan may number labels otherwise than a run."""
    plan = read_plan(workspace)
    ids = read_labels(workspace, plan)["label_id"].to_pylist()
    graph = read_graph(workspace, plan)
    return {
        label_id: [
            (ids[other], None if np.isnan(similarity) else round(float(similarity), 6))
            for other, similarity in zip(neighbors, similarities, strict=True)
            if other >= 0
        ]
        for label_id, neighbors, similarities in zip(
            ids, graph.neighbors, graph.similarities, strict=True
        )
    }
