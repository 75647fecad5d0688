"""What fit reads: the cached embeddings as tensors, with labels and splits.

Both modalities stay in half precision: 24.6 GB at 12M items and D = 512.

N items, D embedding width.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float16, Int, Int64
from torch import Tensor

from cache.reader import Cache, read_items
from pipeline.label_graph import LabelGraph, read_graph
from pipeline.splits import TEST, TRAIN, VAL
from schemas.errors import CacheCorruptError, FitError
from schemas.plan import Plan
from schemas.run import FitInputs
from schemas.tables import SPLITS


@dataclass(frozen=True, kw_only=True)
class FitData:
    """A catalog ready to train on."""

    image_emb: Float16[Tensor, "N D"]
    title_emb: Float16[Tensor, "N D"]
    image_ok: Bool[Tensor, " N"]
    title_ok: Bool[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    train: Int64[Tensor, " n"]
    """Rows to train on: those with at least one modality."""
    val: Int64[Tensor, " n"]
    test: Int64[Tensor, " n"]
    item_ids: np.ndarray
    graph: LabelGraph
    inputs: FitInputs

    @property
    def num_classes(self) -> int:
        """C."""
        return self.graph.num_labels


def read_fit_data(
    workspace: Path, plan: Plan, device: torch.device, *, allow_partial: bool = False
) -> FitData:
    """Read cache, items and label graph, and check that they belong together.

    Raises: CacheIncompleteError, CacheCorruptError, NeighborsError; FitError without train, val
        or test items.
    """
    graph = read_graph(workspace, plan)
    cache = Cache(workspace, plan, allow_partial=allow_partial)
    items, rows = read_items(workspace, plan), cache.read_rows()
    if items["item_id"] != rows["item_id"] or items["row"] != rows["row"]:
        raise CacheCorruptError(
            "item ids of the plan and of the cache differ",
            where=str(workspace / "cache" / "rows"),
            fix="delete the folder cache/commits and run `python cli.py embed --all`",
        )
    image_ok = rows["image_ok"].to_numpy()
    title_ok = rows["title_ok"].to_numpy()
    labels = items["label"].to_numpy()
    codes = np.array([SPLITS.index(name) for name in items["split"].to_pylist()], np.int8)
    train = np.flatnonzero((codes == TRAIN) & (image_ok | title_ok))
    held_out = {split: np.flatnonzero(codes == split) for split in (VAL, TEST)}
    for name, split_rows in (("train", train), *((SPLITS[s], held_out[s]) for s in held_out)):
        if not len(split_rows):
            raise FitError(
                f"there are no {name} items",
                where=str(workspace / "items"),
                fix="plan a larger catalog, or leave its column `split` out",
            )

    def on_device(array: Int[np.ndarray, " n"]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(device)

    return FitData(
        image_emb=torch.from_numpy(cache.read("image")).to(device),
        title_emb=torch.from_numpy(cache.read("title")).to(device),
        image_ok=on_device(image_ok),
        title_ok=on_device(title_ok),
        labels=on_device(labels.astype(np.int64)),
        train=on_device(train),
        val=on_device(held_out[VAL]),
        test=on_device(held_out[TEST]),
        item_ids=items["item_id"].to_numpy(),
        graph=graph,
        inputs=FitInputs(
            cache_sha256=cache.sha256(),
            items_sha256=_items_sha256(items["item_id"].to_pylist(), labels, codes),
            graph_sha256=graph.sha256(),
        ),
    )


def _items_sha256(
    item_ids: list[str], labels: Int[np.ndarray, " N"], codes: Int[np.ndarray, " N"]
) -> str:
    digest = hashlib.sha256("\0".join(item_ids).encode())
    digest.update(labels.astype("<i4").tobytes())
    digest.update(codes.tobytes())
    return digest.hexdigest()
