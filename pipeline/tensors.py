"""What fit reads: the cached embeddings as tensors, with labels and splits.

Both modalities stay in half precision: 24.6 GB at 12M items and D = 512.

N items, D embedding width.
"""

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float16, Int64, Shaped
from torch import Tensor

from cache.reader import Cache, read_all_items, read_labels
from cache.storage import Storage
from pipeline.label_graph import read_graph
from pipeline.splits import TEST, TRAIN, VAL
from pipeline.taxonomy import Taxonomy
from schemas.configs import digest
from schemas.errors import CacheCorruptError, FitError
from schemas.graph import NeighborGraph
from schemas.plan import Plan
from schemas.run import FitInputs
from schemas.tables import SPLITS


class FitData:
    """A catalog ready to train on; the embeddings are read by `load`, or some rows at a time.

    Whether a run is finished, or its options wrong, shows before gigabytes are read.
    """

    def __init__(
        self, workspace: Storage, plan: Plan, device: torch.device, *, allow_partial: bool = False
    ) -> None:
        """Read items, rows and label graph, and check that they belong together.

        Args:
            workspace: where the plan, the cache and the label graph are.
            plan: the workspace's plan.
            device: where the tensors are to live.
            allow_partial: take unfinished shards as items without embeddings.
        Raises: CacheIncompleteError, CacheCorruptError, NeighborsError; FitError without train,
            val or test items.
        """
        self.device = device
        self.embed_dim = plan.encoder.embed_dim
        self.graph: NeighborGraph = read_graph(workspace, plan)
        self._cache = Cache(workspace, plan, allow_partial=allow_partial)
        items = read_all_items(workspace, plan)
        rows = self._cache.read_rows(["row", "item_id", "image_ok", "title_ok"])
        if items["item_id"] != rows["item_id"] or items["row"] != rows["row"]:
            raise CacheCorruptError(
                "item ids of the plan and of the cache differ",
                where=workspace.where("cache/rows"),
                fix="run `python cli.py embed --all --redo`",
            )
        image_ok, title_ok = rows["image_ok"].to_numpy(), rows["title_ok"].to_numpy()
        codes = pc.index_in(items["split"], value_set=pa.array(SPLITS)).to_numpy()
        self.image_ok: Bool[Tensor, " N"] = self._tensor(image_ok)
        self.title_ok: Bool[Tensor, " N"] = self._tensor(title_ok)
        self.labels: Int64[Tensor, " N"] = self._tensor(items["label"].to_numpy().astype(np.int64))
        # Train rows are those with at least one modality; a held-out row without is an error.
        self.train = self._rows(TRAIN, (codes == TRAIN) & (image_ok | title_ok), workspace)
        self.val = self._rows(VAL, codes == VAL, workspace)
        self.test = self._rows(TEST, codes == TEST, workspace)
        self._labels = read_labels(workspace, plan)
        self.item_ids: pa.ChunkedArray = items["item_id"]
        self.inputs = FitInputs(
            cache_sha256=self._cache.sha256(),
            items_sha256=digest(list(plan.items_tables)),
            graph_sha256=self.graph.sha256(),
        )

    @property
    def num_classes(self) -> int:
        """C."""
        return self.graph.num_labels

    @cached_property
    def paths(self) -> list[str] | None:
        """Paths of the labels; None if one of them has none."""
        paths = self._labels["path"]
        return None if paths.null_count else paths.to_pylist()

    @cached_property
    def taxonomy(self) -> Taxonomy | None:
        """The tree above the labels; None without paths."""
        return None if self.paths is None else Taxonomy(self.paths)

    @cached_property
    def train_counts(self) -> Int64[np.ndarray, " C"]:
        """Train items of each class."""
        labels = self.labels[self.train].cpu().numpy()
        return np.bincount(labels, minlength=self.num_classes)

    @cached_property
    def image_emb(self) -> Float16[Tensor, "N D"]:
        """Image embeddings, NaN where there is none."""
        return torch.from_numpy(self._cache.read("image")).to(self.device)

    @cached_property
    def title_emb(self) -> Float16[Tensor, "N D"]:
        """Title embeddings, NaN where there is none."""
        return torch.from_numpy(self._cache.read("title")).to(self.device)

    def load(self) -> None:
        """Read both modalities whole, every checksum compared."""
        _ = self.image_emb, self.title_emb

    def embeddings(self, name: str, rows: Int64[Tensor, " B"]) -> Float16[Tensor, "B D"]:
        """Return some rows of a modality: of the whole where it was read, else read singly.

        Single rows pass no checksum (`verify` does that); a row without an embedding is NaN.

        Args:
            name: `image` or `title`.
            rows: which.
        """
        if f"{name}_emb" in self.__dict__:
            whole: Tensor = getattr(self, f"{name}_emb")
            return whole[rows]
        wanted = rows.cpu().numpy()
        is_ok = (self.image_ok if name == "image" else self.title_ok)[rows].cpu().numpy()
        found = np.full((len(rows), self.embed_dim), np.nan, np.float16)
        found[is_ok] = self._cache.read_random(name, wanted[is_ok])
        return torch.from_numpy(found).to(self.device)

    def _tensor(self, array: Shaped[np.ndarray, " N"]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _rows(
        self, split: int, is_in: Bool[np.ndarray, " N"], workspace: Storage
    ) -> Int64[Tensor, " n"]:
        rows = np.flatnonzero(is_in)
        if not len(rows):
            raise FitError(
                f"there are no {SPLITS[split]} items",
                where=workspace.where("items"),
                fix="plan a larger catalog, or leave its column `split` out",
            )
        return self._tensor(rows)
