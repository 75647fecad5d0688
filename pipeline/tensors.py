"""What fit reads: the cached embeddings as tensors, with labels and splits.

Both modalities stay in half precision: 24.6 GB at 12M items and D = 512.

N items, D embedding width.
"""

import copy
import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float16, Int64, Shaped
from torch import Tensor

from cache.layout import ITEM_DTYPE, MODALITIES
from cache.reader import Cache, read_all_items, read_labels
from cache.storage import Storage
from pipeline.clean_table import CLEAN_TABLE, read_clean
from pipeline.device import Upload
from pipeline.label_codes import read_codes
from pipeline.label_graph import read_graph
from pipeline.progress import Progress
from pipeline.ranks import ALONE, Ranks
from pipeline.residency import DEVICE, STREAM, choose_residency
from pipeline.splits import TEST, TRAIN, VAL
from pipeline.taxonomy import Taxonomy
from schemas.codes import LabelCodes
from schemas.errors import CacheCorruptError, FitError
from schemas.graph import NeighborGraph
from schemas.plan import Plan
from schemas.run import FitInputs
from schemas.tables import SPLITS

# Rows read in one piece when they do not fit memory: 16 kB at D = 512. Of larger blocks a catalog
# that is sorted by category has so few a label that windows differ in their labels (docs/fit.md).
_BLOCK_ROWS = 16
_LEFT_OUT = -1  # in no split


class Batch(NamedTuple):
    """Some rows and what the cache has of them."""

    rows: Int64[Tensor, " B"]
    image_emb: Float16[Tensor, "B D"]
    title_emb: Float16[Tensor, "B D"]


class FitData:
    """A catalog ready to train on; the embeddings are read by `load`, or some rows at a time.

    Whether a run is finished, or its options wrong, shows before gigabytes are read.
    """

    def __init__(
        self,
        workspace: Storage,
        plan: Plan,
        device: torch.device,
        *,
        allow_partial: bool = False,
        clean: bool = True,
    ) -> None:
        """Read items, rows and label graph, and check that they belong together.

        Args:
            workspace: where the plan, the cache and the label graph are.
            plan: the workspace's plan.
            device: where the tensors are to live.
            allow_partial: take unfinished shards as items without embeddings.
            clean: leave out what clean.parquet says, where there is one.
        Raises: CacheIncompleteError, CacheCorruptError, NeighborsError, CleanError; FitError
            without train, val or test items.
        """
        self.device = device
        self.encoder = plan.encoder
        self._workspace, self._plan = workspace, plan
        self._codes: dict[str, LabelCodes] = {}
        self.graph: NeighborGraph = read_graph(workspace, plan)
        self.cache = Cache(workspace, plan, allow_partial=allow_partial)
        items = read_all_items(workspace, plan)
        rows = self.cache.read_rows(["row", "item_id", "image_ok", "title_ok"])
        if items["item_id"] != rows["item_id"] or items["row"] != rows["row"]:
            raise CacheCorruptError(
                "item ids of the plan and of the cache differ",
                where=workspace.where("cache/rows"),
                fix="run `python cli.py embed --all --redo`",
            )
        image_ok, title_ok = rows["image_ok"].to_numpy(), rows["title_ok"].to_numpy()
        codes = pc.index_in(items["split"], value_set=pa.array(SPLITS))
        codes = codes.fill_null(_LEFT_OUT).to_numpy()
        made_from = {
            "cache_sha256": self.cache.sha256(),
            "items_sha256": plan.items_sha256(),
        }
        kept = read_clean(workspace, made_from, len(codes)) if clean else None
        self._is_cleaned = kept is not None
        if kept is not None:
            codes = np.where(kept.keep, codes, _LEFT_OUT)
        self.image_ok: Bool[Tensor, " N"] = self._tensor(image_ok)
        self.title_ok: Bool[Tensor, " N"] = self._tensor(title_ok)
        self.labels: Int64[Tensor, " N"] = self._tensor(items["label"].to_numpy().astype(np.int64))
        # Train rows are those with at least one modality; a held-out row without is an error.
        self.train = self._rows(TRAIN, (codes == TRAIN) & (image_ok | title_ok), workspace)
        self.val = self._rows(VAL, codes == VAL, workspace)
        self.test = self._rows(TEST, codes == TEST, workspace)
        self.residency: str | None = None
        """Where the embeddings are; None until `load`."""
        self.block_rows = math.gcd(plan.chunk_rows, _BLOCK_ROWS)
        self.whole: dict[str, Float16[Tensor, "n D"]] = {}
        self._places: Int64[Tensor, " N"] | None = None
        self.label_table = read_labels(workspace, plan)
        self.item_ids: pa.ChunkedArray = items["item_id"]
        self.inputs = FitInputs(
            **made_from,
            graph_sha256=self.graph.sha256(),
            clean_sha256="" if kept is None else kept.sha256,
        )

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.encoder.embed_dim

    @property
    def num_classes(self) -> int:
        """C."""
        return self.graph.num_labels

    @cached_property
    def paths(self) -> list[str] | None:
        """Paths of the labels; None if one of them has none."""
        paths = self.label_table["path"]
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

    def codes(self, name: str) -> LabelCodes:
        """Return codes of the labels, read once. Raises: CodesError."""
        if name not in self._codes:
            self._codes[name] = read_codes(self._workspace, self._plan, name)
        return self._codes[name]

    def with_rows(
        self, *, train: Int64[Tensor, " n"], val: Int64[Tensor, " v"], test: Int64[Tensor, " t"]
    ) -> "FitData":
        """Return the same items and embeddings, divided in another way."""
        found = copy.copy(self)
        found.train, found.val, found.test = train, val, test
        found.__dict__.pop("train_counts", None)  # computed from the train rows
        return found

    def load(self, residency: str = "auto", ranks: Ranks = ALONE) -> None:
        """Read what this process holds of both modalities, every checksum compared.

        Args:
            residency: `device`, `host`, `stream` (held-out items are kept), or `auto`.
            ranks: this process among those of the run; the first holds the held-out items too.
        Raises: FitError if they do not fit; CacheCorruptError.
        """
        if self.residency is not None:
            if residency not in ("auto", self.residency, *[DEVICE] * (self.device.type == "cpu")):
                raise FitError(
                    f"the embeddings were loaded to {self.residency} already",
                    where=f"--residency {residency}",
                    fix="make another FitData for it",
                )
            return
        is_held = np.zeros(len(self.labels), bool)
        if ranks.is_first:
            is_held[torch.cat([self.val, self.test]).cpu().numpy()] = True
        is_train = np.zeros(len(self.labels), bool)
        is_train[self.own_train(ranks).cpu().numpy()] = True
        num_rows = int((is_held | is_train).sum())
        num_bytes = num_rows * self.embed_dim * len(MODALITIES) * ITEM_DTYPE.itemsize
        chosen = choose_residency(residency, num_bytes, self.device, ranks)
        if chosen == STREAM:
            shards = list(self.cache.commits)[ranks.rank :: ranks.size]
            num_rows = len(MODALITIES) * len(self.labels) // ranks.size
            with Progress("check the cache", num_rows, is_shown=ranks.is_first) as progress:
                self.cache.check(shards, done=progress.update)
            # Evaluated after every epoch: at 12M items their pages are cold by then.
            rows = np.flatnonzero(is_held)
            found = self.batch(self._tensor(rows))
            self.whole = {"image": found.image_emb, "title": found.title_emb}
        else:
            is_held |= is_train
            every = None if is_held.all() else is_held
            for name in MODALITIES:
                if chosen == DEVICE:
                    shape = (num_rows, self.embed_dim)
                    self.whole[name] = torch.empty(shape, dtype=torch.float16, device=self.device)
                    upload = Upload(self.whole[name], self._plan.chunk_rows)
                    self.cache.read_parts(name, upload.take, rows=every)
                else:
                    self.whole[name] = torch.from_numpy(self.cache.read(name, rows=every))
        if not is_held.all():
            # A row that is not held is out of range, not another item's.
            self._places = self._tensor(np.where(is_held, np.cumsum(is_held) - 1, len(is_held)))
        self.residency = chosen

    def own_train(self, ranks: Ranks) -> Int64[Tensor, " n"]:
        """Return the train rows that a process holds."""
        return self.train[ranks.owns(self.train, self.block_rows)]

    def batch(self, rows: Int64[Tensor, " B"]) -> Batch:
        """Return some rows' embeddings: of the whole where it was read, else read singly.

        Single rows pass no checksum (`verify` does that); a row without an embedding is NaN.
        """
        return Batch(rows, *(self.embeddings(name, rows) for name in MODALITIES))

    def embeddings(self, name: str, rows: Int64[Tensor, " B"]) -> Float16[Tensor, "B D"]:
        """Return some rows of one modality, as `batch` does.

        Args:
            name: `image` or `title`.
            rows: which.
        """
        whole = self.whole.get(name)
        if whole is not None:
            places = rows if self._places is None else self._places[rows]
            if self.residency != STREAM or bool((places < len(whole)).all()):
                return whole.index_select(0, places.to(whole.device)).to(self.device)
        wanted = rows.cpu().numpy()
        is_ok = (self.image_ok if name == "image" else self.title_ok)[rows].cpu().numpy()
        found = np.full((len(rows), self.embed_dim), np.nan, np.float16)
        found[is_ok] = self.cache.read_random(name, wanted[is_ok])
        return torch.from_numpy(found).to(self.device)

    def _tensor(self, array: Shaped[np.ndarray, " N"]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _rows(
        self, split: int, is_in: Bool[np.ndarray, " N"], workspace: Storage
    ) -> Int64[Tensor, " n"]:
        rows = np.flatnonzero(is_in)
        if not len(rows) and self._is_cleaned:
            raise FitError(
                f"there are no {SPLITS[split]} items, or clean left all of them out",
                where=workspace.where(CLEAN_TABLE),
                fix="run `python cli.py clean` with milder thresholds, or add --no-clean",
            )
        if not len(rows):
            raise FitError(
                f"there are no {SPLITS[split]} items",
                where=workspace.where("items"),
                fix="plan a larger catalog, or leave its column `split` out",
            )
        return self._tensor(rows)
