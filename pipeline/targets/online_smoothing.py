"""Control: class similarities that the network itself shows while it trains; no names needed.

B items, C classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.losses import DenseTensors
from pipeline.targets.options import TargetOptions
from pipeline.targets.uniform_smoothing import uniform_smoothing
from schemas.graph import NeighborGraph
from schemas.targets import DenseTargets, check_dense


def online_smoothing(
    graph: NeighborGraph, options: TargetOptions, paths: Sequence[str] | None = None
) -> DenseTargets:
    """Start as uniform smoothing (approach 2); `OnlineTargets` takes over after the first epoch.

    Args:
        graph: only its number of labels counts.
        options: alpha, in [0, 1).
        paths: not used.
    Raises: TargetError if alpha is out of range, or above 20,000 classes.
    Source: Zhang et al., "Delving deep into label smoothing", IEEE TIP 2021 (online label
        smoothing).
    """
    check_dense(graph.num_labels)
    return DenseTargets(uniform_smoothing(graph, options, paths).dense().astype(np.float32))


class OnlineTargets:
    """Sums an epoch's predictions into the next epoch's targets."""

    def __init__(self, start: Float[Tensor, "C C"]) -> None:
        """Begin with the targets of the first epoch."""
        self.matrix = start.clone()
        self.sums = torch.zeros_like(start)
        self.counts = torch.zeros(len(start), device=start.device)

    @torch.no_grad()
    def add(self, logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> None:
        """Note the softmax of those items whose highest logit is the true class."""
        is_right = logits.argmax(dim=1) == labels
        chosen = labels[is_right]
        self.sums.index_add_(0, chosen, logits[is_right].to(self.sums.dtype).softmax(dim=1))
        self.counts.index_add_(0, chosen, torch.ones_like(chosen, dtype=self.counts.dtype))

    @torch.no_grad()
    def next_epoch(self) -> DenseTensors:
        """Return the mean prediction of each class; one without a right item keeps its row."""
        seen = self.counts > 0
        rows = self.sums[seen]
        # By their own sum, not the count: float32 sums of thousands of rows drift from 1.
        self.matrix[seen] = rows / rows.sum(dim=1, keepdim=True)
        self.sums.zero_()
        self.counts.zero_()
        return self._targets()

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {"matrix": self.matrix, "sums": self.sums, "counts": self.counts}

    def load(self, state: dict[str, Tensor], *, is_first: bool = True) -> DenseTensors:
        """Go on from a checkpoint; return the targets of the epoch under way.

        Args:
            state: as kept.
            is_first: False for the other processes of a run: the first has the sums of all.
        """
        for name, each in self.state().items():
            each.copy_(state[name])
        if not is_first:
            self.sums.zero_()
            self.counts.zero_()
        return self._targets()

    def _targets(self) -> DenseTensors:
        negative_entropy = torch.special.xlogy(self.matrix, self.matrix).sum(dim=1)
        return DenseTensors(self.matrix, negative_entropy)
