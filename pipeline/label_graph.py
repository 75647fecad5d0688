"""The label graph as an artifact: each label's nearest labels, with cosines.

`neighbors.py` builds it; everything after reads it here, without faiss.

C labels, K neighbors.
"""

import json

import numpy as np
import pyarrow as pa

from cache.layout import parquet_bytes, parquet_table
from cache.reader import labels_state
from cache.storage import Storage
from schemas.errors import NeighborsError
from schemas.graph import NeighborGraph
from schemas.plan import Plan
from schemas.tables import NEIGHBORS

_METADATA_KEY = b"shelfwise"
GRAPH = "neighbors.parquet"
_RENEW = "run `python cli.py neighbors`"


def _inputs(workspace: Storage, plan: Plan) -> dict[str, object]:
    """Return what the graph depends on, to tell a stale one."""
    commit = labels_state(workspace, plan)
    return {
        "spec_id": commit.spec_id,
        "labels_sha256": commit.labels_sha256,
        "label_text": commit.label_text,
        "label_emb_crc32c": commit.crc32c,
    }


def write_graph(workspace: Storage, plan: Plan, graph: NeighborGraph) -> None:
    """Write neighbors.parquet with the hashes of what it was made from."""
    num_labels, k = graph.neighbors.shape
    table = pa.table(
        {
            "label": np.repeat(np.arange(num_labels), k),
            "rank": np.tile(np.arange(1, k + 1), num_labels),
            "neighbor": graph.neighbors.ravel(),
            "similarity": graph.similarities.ravel(),
        }
    ).cast(NEIGHBORS)
    inputs = json.dumps(_inputs(workspace, plan), sort_keys=True)
    table = table.replace_schema_metadata({_METADATA_KEY: inputs.encode()})
    workspace.write(GRAPH, parquet_bytes(table))


def read_graph(workspace: Storage, plan: Plan) -> NeighborGraph:
    """Read the label graph.

    Raises: NeighborsError if it is missing, unreadable, or made from other label embeddings.
    """
    where = workspace.where(GRAPH)
    try:
        table = parquet_table(workspace.read(GRAPH))
        found = json.loads(table.schema.metadata[_METADATA_KEY])
        num_labels = plan.num_labels
        neighbors = table["neighbor"].to_numpy().astype(np.int64).reshape(num_labels, -1)
        similarity = table["similarity"].to_numpy().reshape(num_labels, -1)
    except FileNotFoundError as error:
        raise NeighborsError("there is no label graph yet", where=where, fix=_RENEW) from error
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise NeighborsError(f"cannot be read: {error}", where=where, fix=_RENEW) from error
    expected = _inputs(workspace, plan)
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise NeighborsError(
            f"the label graph is stale: {', '.join(differing)} changed since it was made",
            where=where,
            fix=_RENEW,
        )
    return NeighborGraph(neighbors, similarity)
