"""Build the label graph: for each label, the K others with the most similar embeddings.

Takes cache/label.zarr or a file of label embeddings, and curated edges if there are any; writes
neighbors.parquet. The result does not depend on device, threads or batch: FAISS only proposes
candidates, which are ranked by float64 cosines rounded to 1e-6, equal ones by label number. Cost:
half a second at 4,719 labels of D = 384; three minutes and 1 GB at 100,000 of D = 512.

C labels, D embedding width, K neighbors. Source: Yang 2022, top 20 nearest neighbors by cosine.
"""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from cache.reader import read_label_emb, read_labels
from cache.storage import Storage
from pipeline.edges import DECIMALS, curate, read_edges
from pipeline.label_embeddings import read_label_embeddings
from pipeline.label_graph import EDGES, EDGES_MODE, FROM, read_graph, write_graph
from pipeline.labels import find_label
from pipeline.progress import Progress
from pipeline.search import ExactIndex
from pipeline.text_table import TextTable
from schemas.errors import NeighborsError
from schemas.graph import NeighborGraph
from schemas.plan import Plan

logger = logging.getLogger(__name__)

_SEARCH_ROWS = 4096  # labels asked at once: enough for FAISS to multiply matrices
_BLOCK_NUMBERS = 2**20  # candidates of a search, or entries of their embeddings: 8 MB
_MARGIN = 8  # candidates beyond K, so that ties at the border rarely need a second search
_FLOAT32_SLACK = 4e-6  # float32 error of a cosine plus one rounding step


def write_neighbors(
    workspace: Storage,
    plan: Plan,
    *,
    k: int = 20,
    source: str | Path | None = None,
    edges: str | Path | None = None,
    edges_mode: str = "replace",
) -> NeighborGraph:
    """Build and write the label graph.

    Args:
        workspace: where the plan is.
        plan: the workspace's plan.
        k: computed neighbors a label.
        source: file of label embeddings made elsewhere, as in `read_label_embeddings`; None for
            the cache's.
        edges: file of curated neighbors, as in `read_edges`.
        edges_mode: `replace` or `add`, as in `curate`.
    Raises: CacheIncompleteError if the label embeddings are missing or stale; NeighborsError if
        k is below 1, an embedding is not finite or an edge is wrong; CatalogError and
        EmbeddingFilesError if a file cannot be read or does not fit the labels.
    """
    files: dict[str, str] = {}
    label_ids = read_labels(workspace, plan)["label_id"]
    curated = None if edges is None else read_edges(edges, label_ids)
    if source is None:
        label_emb = read_label_emb(workspace, plan)
    else:
        label_emb, files[FROM] = read_label_embeddings(source, label_ids)
    graph = build_graph(label_emb, k)
    if curated is not None:
        files |= {EDGES: curated.sha256, EDGES_MODE: edges_mode}
        cosines = edge_cosines(label_emb, curated.label, curated.neighbor)
        graph = curate(graph, curated.with_similarity(cosines), edges_mode)
    write_graph(workspace, plan, graph, files)
    return graph


def build_graph(label_embeddings: Float[np.ndarray, "C D"], k: int) -> NeighborGraph:
    """Return each label's k nearest others, ties broken by the lower label.

    Args:
        label_embeddings: unit length is not required.
        k: neighbors a label; C - 1 where there are fewer, with a warning.
    Raises: NeighborsError if k is below 1, there are fewer than 2 labels, or an embedding is zero
        or not finite.
    """
    num_labels = len(label_embeddings)
    if num_labels < 2:
        raise NeighborsError(
            f"there are {num_labels} labels, expected 2 or more",
            where="label embeddings",
            fix="plan with the labels that items are to be told apart by",
        )
    if k < 1:
        raise NeighborsError(f"k is {k}, expected 1 or more", where="--k", fix="use --k 20")
    if k > num_labels - 1:
        logger.warning(
            "only %d labels: k shrinks from %d to %d, and all labels are neighbors of one another; "
            "for neighbors@5 to tell answers apart, give a smaller --k",
            num_labels,
            k,
            num_labels - 1,
        )
        k = num_labels - 1
    unit = _unit_rows(label_embeddings)
    index = ExactIndex(unit.astype(np.float32))
    neighbors = np.empty((num_labels, k), np.int64)
    similarities = np.empty((num_labels, k), np.float64)
    pending = np.arange(num_labels)
    num_candidates = min(k + 1 + _MARGIN, num_labels)
    with Progress("neighbors", num_labels, unit="label") as progress:
        while len(pending):
            undecided = []
            block_rows = max(1, min(_SEARCH_ROWS, _BLOCK_NUMBERS // num_candidates))
            for start in range(0, len(pending), block_rows):
                rows = pending[start : start + block_rows]
                found = _rank(unit, index, rows, k, num_candidates)
                neighbors[rows], similarities[rows], is_decided = found
                undecided.append(rows[~is_decided])
                progress.update(int(is_decided.sum()))
            pending = np.concatenate(undecided)
            num_candidates = min(4 * num_candidates, num_labels)
    return NeighborGraph(neighbors, similarities)


def edge_cosines(
    label_embeddings: Float[np.ndarray, "C D"],
    label: Int64[np.ndarray, " E"],
    neighbor: Int64[np.ndarray, " E"],
) -> Float64[np.ndarray, " E"]:
    """Return the cosines of pairs of labels, rounded as those of computed neighbors."""
    return _cosines(_unit_rows(label_embeddings), label, neighbor[:, None])[:, 0]


def _unit_rows(label_embeddings: Float[np.ndarray, "C D"]) -> Float64[np.ndarray, "C D"]:
    """Return the embeddings in float64 and at unit length.

    Raises: NeighborsError if one is zero or not finite.
    """
    unit = np.empty(label_embeddings.shape, np.float64)
    bad: list[int] = []
    for start in range(0, len(unit), _SEARCH_ROWS):
        block = label_embeddings[start : start + _SEARCH_ROWS].astype(np.float64)
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        is_bad = ~(np.isfinite(norms) & (norms > 0))[:, 0]
        bad += (start + np.flatnonzero(is_bad)).tolist()
        np.divide(block, norms, out=unit[start : start + _SEARCH_ROWS], where=~is_bad[:, None])
    if bad:
        raise NeighborsError(
            f"{len(bad)} label embeddings are zero or not finite, the first of label {bad[0]}",
            where="label embeddings",
            fix="run `python cli.py embed --labels`",
        )
    return unit


def _rank(
    unit: Float64[np.ndarray, "C D"],
    index: ExactIndex,
    rows: Int64[np.ndarray, " B"],
    k: int,
    num_candidates: int,
) -> tuple[Int64[np.ndarray, "B K"], Float64[np.ndarray, "B K"], Bool[np.ndarray, " B"]]:
    """Rank candidates of some labels; the last result says where no other label could come in."""
    proposed, candidates = index.top_k(unit[rows].astype(np.float32), num_candidates)
    exact = _cosines(unit, rows, candidates)
    exact[candidates == rows[:, None]] = -np.inf  # a label is not its own neighbor
    order = np.lexsort((candidates, -exact), axis=1)[:, :k]
    ranked = np.take_along_axis(exact, order, axis=1)
    is_decided = proposed[:, -1] < ranked[:, -1] - _FLOAT32_SLACK
    if num_candidates == len(unit):
        is_decided[:] = True
    return np.take_along_axis(candidates, order, axis=1), ranked, is_decided


def _cosines(
    unit: Float64[np.ndarray, "C D"],
    rows: Int64[np.ndarray, " B"],
    others: Int64[np.ndarray, "B S"],
) -> Float64[np.ndarray, "B S"]:
    """Return the rounded cosines of labels to some others each, a piece at a time."""
    (num_rows, num_others), dim = others.shape, unit.shape[1]
    cosines = np.empty((num_rows, num_others))
    piece_rows = max(1, _BLOCK_NUMBERS // (num_others * dim))
    # One buffer for all pieces: fresh pages would cost more than the products.
    gathered = np.empty((min(piece_rows, num_rows) * num_others, dim))
    for start in range(0, num_rows, piece_rows):
        piece = slice(start, start + piece_rows)
        flat = others[piece].ravel()
        emb = np.take(unit, flat, axis=0, out=gathered[: len(flat)], mode="clip")
        emb = emb.reshape(-1, num_others, dim)
        np.einsum("bd,bsd->bs", unit[rows[piece]], emb, out=cosines[piece])
    return cosines.round(DECIMALS)


def neighbors_table(workspace: Storage, plan: Plan, text: str) -> TextTable:
    """Return a label's neighbors with their similarities, nearest first.

    Args:
        workspace: where the plan and the label graph are.
        plan: the workspace's plan.
        text: a label's name, path or label_id.
    Raises: LabelNotFoundError, NeighborsError.
    """
    graph, labels = read_graph(workspace, plan), read_labels(workspace, plan)
    label = find_label(labels, text)
    names, paths = labels["name"].to_pylist(), labels["path"].to_pylist()
    rows = tuple(
        (str(rank), f"{similarity:.4f}", names[neighbor], paths[neighbor] or "")
        for rank, (neighbor, similarity) in enumerate(
            zip(graph.neighbors[label], graph.similarities[label], strict=True), start=1
        )
        if neighbor >= 0
    )
    return TextTable(
        title=f"Nearest labels of {paths[label] or names[label]}",
        columns=("rank", "similarity", "name", "path"),
        rows=rows,
        align="left",
    )
