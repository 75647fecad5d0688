"""Curated neighbors: a file of edges that a person stands for, in place of or beside the computed.

Takes CSV or Parquet with label_id, neighbor_id and optionally similarity; writes nothing. The
paper's advice for taxonomies whose distances are disputed.

C labels, E edges, K computed neighbors, W neighbors of the label that ends up with the most.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64

from cache.layout import arrow_file
from pipeline.locations import absolute, file_name, read_file, reading
from schemas.errors import NeighborsError
from schemas.graph import NeighborGraph

logger = logging.getLogger(__name__)

MODES = ("replace", "add")
DECIMALS = 6
"""To which similarities are rounded, so that no device and no detour through text shows in them."""
_IDS = ("label_id", "neighbor_id")
_TYPES = {"label_id": pa.string(), "neighbor_id": pa.string(), "similarity": pa.float64()}


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Directed: label[e] has the neighbor neighbor[e]."""

    label: Int64[np.ndarray, " E"]
    """Labels that have neighbors here, in file order."""
    neighbor: Int64[np.ndarray, " E"]
    """Other labels; no edge occurs twice."""
    similarity: Float64[np.ndarray, " E"]
    """Rounded, in [-1, 1]; NaN where the file leaves it to the embeddings."""
    sha256: str
    """Of the file."""

    def with_similarity(self, computed: Float64[np.ndarray, " E"]) -> "Edges":
        """Return the edges with what the file leaves open taken from `computed`."""
        is_open = np.isnan(self.similarity)
        return replace(self, similarity=np.where(is_open, computed, self.similarity))


def read_edges(path: str | Path, label_ids: pa.ChunkedArray) -> Edges:
    """Read and check a file of edges.

    Args:
        path: a .parquet file, or a CSV; local or a URL that fsspec knows.
        label_ids: of all labels in order.
    Raises: CatalogError if the file cannot be read; NeighborsError if columns are missing, it has
        no edges, unknown labels, self-edges, an edge twice, or similarities that are no cosines.
    """
    place = absolute(path)
    data = read_file(place, "--edges")
    table = _table(place, data)
    ids = {name: table[name] for name in _IDS}
    ends = {name: pc.index_in(column, value_set=label_ids) for name, column in ids.items()}
    unknown = [
        repr(value)
        for name in _IDS
        for value in pc.unique(ids[name].filter(pc.is_null(ends[name]))).to_pylist()
    ]
    _refuse(list(dict.fromkeys(unknown)), "label ids that no label has", place, _MEND_UNKNOWN)
    label, neighbor = (ends[name].to_numpy().astype(np.int64) for name in _IDS)
    similarity = table["similarity"].to_numpy().round(DECIMALS)

    def shown(is_bad: np.ndarray) -> list[str]:
        bad = pa.array(np.flatnonzero(is_bad))
        pairs = zip(*(ids[name].take(bad).to_pylist() for name in _IDS), strict=True)
        return [f"{one!r} -> {other!r}" for one, other in pairs]

    _refuse(shown(label == neighbor), "labels that neighbor themselves", place, "drop these rows")
    _, first, inverse = np.unique(
        label * len(label_ids) + neighbor, return_index=True, return_inverse=True
    )
    is_again = first[inverse] != np.arange(len(label))
    _refuse(shown(is_again), "edges that stand there before", place, "keep one row of each")
    is_given = table["similarity"].is_valid().to_numpy()
    is_wrong = is_given & ~(np.abs(similarity) <= 1.0)
    _refuse(shown(is_wrong), "similarities that are not in [-1, 1]", place, _MEND_SIMILARITY)
    sha256 = hashlib.sha256(data).hexdigest()
    return Edges(label=label, neighbor=neighbor, similarity=similarity, sha256=sha256)


_MEND_UNKNOWN = "correct these ids, or plan with labels that have them"
_MEND_SIMILARITY = "write cosines, or leave the cells empty to have them computed"


def _table(place: str, data: bytes) -> pa.Table:
    """Return the three columns; similarity is null where nobody gives it."""
    with reading(place):
        if file_name(place).endswith(".parquet"):
            table = pq.read_table(arrow_file(data))
        else:
            options = pa.csv.ConvertOptions(column_types=_TYPES, null_values=[""])
            table = pa.csv.read_csv(arrow_file(data), convert_options=options)
    missing = [name for name in _IDS if name not in table.column_names]
    if missing:
        raise NeighborsError(
            f"missing columns: {', '.join(missing)}; found: {', '.join(table.column_names)}",
            where=place,
            fix="name the columns label_id, neighbor_id and, if there are any, similarity; in CSV "
            "separate them with commas",
        )
    if not len(table):
        raise NeighborsError(
            "there are no edges in it",
            where=place,
            fix="write one row an edge, or leave --edges out for the computed neighbors",
        )
    unused = [name for name in table.column_names if name not in _TYPES]
    if unused:
        logger.warning("%s: columns that are not used: %s", place, ", ".join(unused))
    with reading(place):
        if "similarity" not in table.column_names:
            table = table.append_column("similarity", pa.nulls(len(table), pa.float64()))
        return pa.table({name: table[name].cast(kind) for name, kind in _TYPES.items()})


def _refuse(bad: list[str], what: str, place: str, fix: str) -> None:
    if bad:
        raise NeighborsError(f"{len(bad)} {what}: {', '.join(bad[:3])}", where=place, fix=fix)


def curate(graph: NeighborGraph, edges: Edges, mode: str) -> NeighborGraph:
    """Bring curated edges into a graph.

    Rows are ordered as computed ones: similarity falling, label rising. Where rows differ in
    length, the shorter end with neighbor -1 and similarity NaN.

    Args:
        graph: computed.
        edges: with every similarity.
        mode: `replace` gives the labels that the edges name just these neighbors; `add` joins them
            to the computed ones, and where both have an edge, the curated similarity counts.
    Raises: NeighborsError if there is no such mode.
    """
    if mode not in MODES:
        raise NeighborsError(
            f"unknown mode {mode!r}", where="--edges-mode", fix=f"use one of: {', '.join(MODES)}"
        )
    num_labels = graph.num_labels
    label, place = np.nonzero(graph.neighbors >= 0)
    neighbor = graph.neighbors[label, place]
    if mode == "replace":
        is_kept = ~np.isin(label, edges.label)
    else:
        curated = edges.label * num_labels + edges.neighbor
        is_kept = ~np.isin(label * num_labels + neighbor, curated)
    computed = graph.similarities[label, place].astype(np.float64).round(DECIMALS)
    label = np.concatenate([label[is_kept], edges.label])
    neighbor = np.concatenate([neighbor[is_kept], edges.neighbor])
    similarity = np.concatenate([computed[is_kept], edges.similarity])
    order = np.lexsort((neighbor, -similarity, label))
    label, neighbor, similarity = label[order], neighbor[order], similarity[order]
    counts = np.bincount(label, minlength=num_labels)
    rank = np.arange(len(label)) - np.repeat(np.cumsum(counts) - counts, counts)
    neighbors = np.full((num_labels, counts.max()), -1, np.int64)
    similarities = np.full(neighbors.shape, np.nan)
    neighbors[label, rank], similarities[label, rank] = neighbor, similarity
    return NeighborGraph(neighbors, similarities)
