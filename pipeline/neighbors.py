"""Build the label graph: for each label, the K others with the most similar embeddings.

Takes cache/label.zarr, writes neighbors.parquet. The result does not depend on device, threads or
batch: FAISS only proposes candidates, which are ranked by float64 cosines rounded to 1e-6, equal
ones by label number. Cost: under a second at 4,350 labels.

C labels, D embedding width, K neighbors. Source: Yang 2022, top 20 nearest neighbors by cosine.
"""

import logging

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from cache.reader import read_label_emb, read_labels
from cache.storage import Storage
from pipeline.label_graph import read_graph, write_graph
from pipeline.labels import find_label
from pipeline.search import top_k
from pipeline.text_table import TextTable
from schemas.errors import NeighborsError
from schemas.graph import NeighborGraph
from schemas.plan import Plan

logger = logging.getLogger(__name__)

DECIMALS = 6
_BLOCK_NUMBERS = 2**24  # of a block's candidate embeddings, 8 bytes each
_MARGIN = 8  # candidates beyond K, so that ties at the border rarely need a second search
_FLOAT32_SLACK = 4e-6  # float32 error of a cosine plus one rounding step


def write_neighbors(workspace: Storage, plan: Plan, *, k: int = 20) -> NeighborGraph:
    """Build and write the label graph.

    Raises: CacheIncompleteError if the label embeddings are missing or stale; NeighborsError if
        k is below 1 or an embedding is not finite.
    """
    graph = build_graph(read_label_emb(workspace, plan), k)
    write_graph(workspace, plan, graph)
    return graph


def build_graph(label_embeddings: Float[np.ndarray, "C D"], k: int) -> NeighborGraph:
    """Return each label's k nearest others, ties broken by the lower label.

    Args:
        label_embeddings: unit length is not required.
        k: neighbors a label; C - 1 where there are fewer, with a warning.
    Raises: NeighborsError if k is below 1, or an embedding is zero or not finite.
    """
    num_labels = len(label_embeddings)
    if k < 1:
        raise NeighborsError(f"k is {k}, expected 1 or more", where="--k", fix="use --k 20")
    if k > num_labels - 1:
        logger.warning("only %d labels: k shrinks from %d to %d", num_labels, k, num_labels - 1)
        k = num_labels - 1
    unit = label_embeddings.astype(np.float64)
    norms = np.linalg.norm(unit, axis=1, keepdims=True)
    if bad := np.flatnonzero(~(np.isfinite(norms) & (norms > 0))).tolist():
        raise NeighborsError(
            f"{len(bad)} label embeddings are zero or not finite, the first of label {bad[0]}",
            where="label embeddings",
            fix="run `python cli.py embed --labels`",
        )
    unit /= norms
    neighbors = np.empty((num_labels, k), np.int64)
    similarity = np.empty((num_labels, k), np.float64)
    pending = np.arange(num_labels)
    num_candidates = min(k + 1 + _MARGIN, num_labels)
    while len(pending):
        undecided = []
        block_rows = max(1, _BLOCK_NUMBERS // (num_candidates * unit.shape[1]))
        for start in range(0, len(pending), block_rows):
            rows = pending[start : start + block_rows]
            neighbors[rows], similarity[rows], decided = _rank(unit, rows, k, num_candidates)
            undecided.append(rows[~decided])
        pending = np.concatenate(undecided)
        num_candidates = min(4 * num_candidates, num_labels)
    return NeighborGraph(neighbors, similarity)


def _rank(
    unit: Float64[np.ndarray, "C D"], rows: Int64[np.ndarray, " B"], k: int, num_candidates: int
) -> tuple[Int64[np.ndarray, "B K"], Float64[np.ndarray, "B K"], Bool[np.ndarray, " B"]]:
    """Rank candidates of some labels; the last result says where no other label could come in."""
    single = unit.astype(np.float32)
    proposed, candidates = top_k(single[rows], single, num_candidates)
    exact = np.einsum("bd,bkd->bk", unit[rows], unit[candidates]).round(DECIMALS)
    exact[candidates == rows[:, None]] = -np.inf  # a label is not its own neighbor
    order = np.lexsort((candidates, -exact), axis=1)[:, :k]
    ranked = np.take_along_axis(exact, order, axis=1)
    decided = proposed[:, -1] < ranked[:, -1] - _FLOAT32_SLACK
    if num_candidates == len(unit):
        decided[:] = True
    return np.take_along_axis(candidates, order, axis=1), ranked, decided


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
    )
    return TextTable(
        title=f"Nearest labels of {paths[label] or names[label]}",
        columns=("rank", "similarity", "name", "path"),
        rows=rows,
        align="left",
    )
