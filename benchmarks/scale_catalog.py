"""Make a planned and embedded workspace of any size in which something can be learned.

4,350 labels in a tree of three levels; items are their class's center with noise taken from a pool,
so that 12 million of them (24.6 GB at D = 512) are made as fast as a disk takes them. Same
arguments, same bytes.

N items, C labels, D embedding width, P rows of the pool, n some rows.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from simulated import embedded_rows, make_workspace

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.layout import MODALITIES
from cache.storage import LocalStorage
from cache.writer import ShardWriter, write_labels
from pipeline.neighbors import write_neighbors
from pipeline.progress import Progress
from schemas.plan import Plan

NUM_LABELS = 4350
_POOL = 65_536
_NOISE = 3.0  # length of an item's noise beside a center of length 1


def make_scale_catalog(
    workspace: LocalStorage,
    num_items: int,
    embed_dim: int = 512,
    num_labels: int = NUM_LABELS,
    *,
    is_sorted: bool = False,
) -> Plan:
    """Write plan, items, labels, cache and label graph.

    Args:
        workspace: an empty one.
        num_items: N.
        embed_dim: D.
        num_labels: C.
        is_sorted: items of one label stand together, as in catalogs written category by category.
    """
    rng = np.random.default_rng(0)
    ids = [f"L{label:05d}" for label in range(num_labels)]
    paths = [f"Area {i // 400} > Aisle {i // 20} > Shelf {i}" for i in range(num_labels)]
    labels = pa.table({"label_id": ids, "name": [f"Shelf {i}" for i in ids], "path": paths})
    item_labels = rng.integers(num_labels, size=num_items)
    if is_sorted:
        item_labels.sort()
    plan = make_workspace(workspace, num_items, embed_dim, labels=labels, item_labels=item_labels)
    # A label is near those of its aisle, and so are its items.
    aisles = rng.standard_normal((num_labels // 20 + 1, embed_dim), np.float32)
    centers = aisles[np.arange(num_labels) // 20] + rng.standard_normal(
        (num_labels, embed_dim), np.float32
    )
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    write_labels(workspace, plan, centers, compute_dtype="simulated", seconds=0.0)
    pool = rng.standard_normal((_POOL, embed_dim), np.float32) * (_NOISE / embed_dim**0.5)
    shards = _Shards(workspace, plan, centers, pool, item_labels)
    with (
        Progress(f"simulate {num_items:,} items", num_items) as progress,
        ProcessPoolExecutor(
            mp_context=multiprocessing.get_context("fork"),  # the pool is shared, not copied
            initializer=_inherit,
            initargs=(shards,),
        ) as processes,
    ):
        for num_written in processes.map(_write_shard, range(plan.num_shards)):
            progress.update(num_written)
    write_neighbors(workspace, plan)
    return plan


@dataclass(frozen=True)
class _Shards:
    """What every process knows."""

    workspace: LocalStorage
    plan: Plan
    centers: Float[np.ndarray, "C D"]
    pool: Float[np.ndarray, "P D"]
    item_labels: Int[np.ndarray, " N"]

    def write(self, shard: int) -> int:
        """Write one; return its number of items."""
        with ShardWriter(
            self.workspace, self.plan, shard, compute_dtype="simulated", batch_size=0
        ) as writer:
            for chunk in writer.missing:
                start, stop = writer.chunk_range(chunk)
                chosen = self.centers[self.item_labels[start:stop]]
                views = {
                    name: _views(chosen, self.pool, np.random.default_rng([start, place]))
                    for place, name in enumerate(MODALITIES)
                }
                writer.write(chunk, **views, rows=embedded_rows(start, stop))
            writer.commit()
        start, stop = self.plan.shard_range(shard)
        return stop - start


_inherited: list[_Shards] = []


def _inherit(shards: _Shards) -> None:
    _inherited.append(shards)


def _write_shard(shard: int) -> int:
    return _inherited[0].write(shard)


def _views(
    centers: Float[np.ndarray, "n D"], pool: Float[np.ndarray, "P D"], rng: np.random.Generator
) -> Float[np.ndarray, "n D"]:
    """Return centers with noise, of about unit length; the mix of two pool rows is a new one."""
    mixed = pool[rng.integers(len(pool), size=len(centers))]
    mixed += pool[rng.integers(len(pool), size=len(centers))]
    mixed *= 0.5**0.5
    mixed += centers
    mixed *= 1 / (1 + _NOISE**2) ** 0.5
    return mixed
