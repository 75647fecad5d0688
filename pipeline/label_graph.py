"""The label graph as an artifact: each label's nearest labels, with cosines.

`neighbors.py` builds it; everything after reads it here, without faiss. One row an edge, so a label
with fewer neighbors than others has fewer rows; the metadata says how wide the graph is, what it
was made from, and its hash, because a table that lost rows would still read as a graph.

C labels, K neighbors.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from cache.layout import parquet_bytes, parquet_table
from cache.storage import Storage
from pipeline.label_inputs import label_inputs
from schemas.errors import NeighborsError
from schemas.graph import NeighborGraph
from schemas.plan import Plan
from schemas.tables import NEIGHBORS

_METADATA_KEY = b"shelfwise"
GRAPH = "neighbors.parquet"
FROM, EDGES, EDGES_MODE = "from_sha256", "edges_sha256", "edges_mode"
_UNREADABLE = (pa.ArrowException, LookupError, TypeError, ValueError, OSError)


def write_graph(
    workspace: Storage, plan: Plan, graph: NeighborGraph, files: Mapping[str, str] | None = None
) -> None:
    """Write neighbors.parquet with the hashes of what it was made from.

    Args:
        workspace: where to.
        plan: the workspace's plan.
        graph: what to write.
        files: FROM and EDGES with the sha256 of such files, EDGES_MODE; what was not used is left
            out. With FROM the graph does not depend on the cache's label embeddings.
    """
    files = files or {}
    label, place = np.nonzero(graph.neighbors >= 0)
    table = pa.table(
        {
            "label": label,
            "rank": place + 1,
            "neighbor": graph.neighbors[label, place],
            "similarity": graph.similarities[label, place],
        }
    ).cast(NEIGHBORS)
    record = {
        # The file may be gone; its rows were matched to these labels.
        "made_from": {**label_inputs(workspace, plan, has_embeddings=FROM not in files), **files},
        "shape": graph.neighbors.shape,
        "graph_sha256": graph.sha256(),
    }
    metadata = {_METADATA_KEY: json.dumps(record, sort_keys=True).encode()}
    workspace.write(GRAPH, parquet_bytes(table.replace_schema_metadata(metadata)))


def read_graph(workspace: Storage, plan: Plan) -> NeighborGraph:
    """Read the label graph.

    Raises: NeighborsError if it is missing, damaged, not ours, or made from other labels or other
        label embeddings; a graph from a file of embeddings depends on the labels only.
    """
    where = workspace.where(GRAPH)
    try:
        table, record = _open(workspace.read(GRAPH))
    except FileNotFoundError as error:
        raise NeighborsError("there is no label graph yet", where=where, fix=_renew({})) from error
    except _UNREADABLE as error:
        raise NeighborsError(f"cannot be read: {error}", where=where, fix=_renew({})) from error
    made_from = record["made_from"]
    expected = label_inputs(workspace, plan, has_embeddings=FROM not in made_from)
    differing = [name for name in expected if made_from.get(name) != expected[name]]
    if differing:
        raise NeighborsError(
            f"the label graph is stale: {', '.join(differing)} changed since it was made",
            where=where,
            fix=_renew(made_from),
        )
    try:
        return _graph(table, record)
    except (*_UNREADABLE, NeighborsError) as error:
        fix = _renew(made_from)
        raise NeighborsError(f"cannot be read: {error}", where=where, fix=fix) from error


def _open(data: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """Return the table and the record in its metadata."""
    table = parquet_table(data)
    record = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    lacking = [name for name in ("made_from", "shape", "graph_sha256") if name not in record]
    if lacking or not isinstance(record["made_from"], dict):
        raise ValueError(f"its metadata do not say {', '.join(lacking) or 'what it was made from'}")
    return table, record


def _graph(table: pa.Table, record: dict[str, Any]) -> NeighborGraph:
    """Put the edges of a table into their places."""
    columns = table.select(NEIGHBORS.names).cast(NEIGHBORS)
    places = columns["label"].to_numpy(), columns["rank"].to_numpy() - 1
    shape = tuple(record["shape"])
    neighbors, similarities = np.full(shape, -1, np.int64), np.full(shape, np.nan, np.float32)
    neighbors[places] = columns["neighbor"].to_numpy()
    similarities[places] = columns["similarity"].to_numpy()
    graph = NeighborGraph(neighbors, similarities)
    if graph.sha256() != record["graph_sha256"]:
        raise ValueError("rows are missing or were changed since it was written")
    return graph


def _renew(made_from: Mapping[str, str]) -> str:
    """Name the command that makes the graph again."""
    command = "python cli.py neighbors"
    if FROM in made_from:
        command += " --from FILE"
    if EDGES in made_from:
        command += f" --edges FILE --edges-mode {made_from.get(EDGES_MODE)}"
    return f"run `{command}`"
