"""The approaches by name: (target builder, whether KL joins the focal loss, whether it hardens).

The only place that knows approaches by name. A new approach is a new line here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.label_graph import LabelGraph
from pipeline.targets.neighbor_smoothing import neighbor_smoothing
from pipeline.targets.one_hot import one_hot
from pipeline.targets.options import TargetOptions
from pipeline.targets.similarity_smoothing import similarity_smoothing
from pipeline.targets.table import TargetTable
from pipeline.targets.uniform_smoothing import uniform_smoothing
from schemas.errors import TargetError


@dataclass(frozen=True, kw_only=True)
class Approach:
    """One way to train on labels."""

    title: str
    """For tables."""
    build: Callable[[LabelGraph, TargetOptions], TargetTable]
    """Its label representation."""
    has_kl: bool = True
    """KL to the targets is added to the focal loss."""
    is_hardened: bool = False
    """Targets harden over the run."""
    tag: tuple[str, ...] = ()
    """What names a run: words, or `{field}` of FitConfig."""
    uses: tuple[str, ...] = ()
    """Fields of TargetOptions that its formula names."""


APPROACHES = {
    "1": Approach(title="one-hot (baseline)", build=one_hot, has_kl=False, tag=("onehot",)),
    "1b": Approach(title="one-hot with KL (control)", build=one_hot, tag=("onehot", "kl")),
    "2": Approach(
        title="uniform smoothing", build=uniform_smoothing, tag=("uniform",), uses=("alpha",)
    ),
    "3": Approach(
        title="neighbor smoothing", build=neighbor_smoothing, tag=("neighbor",), uses=("alpha",)
    ),
    "4": Approach(
        title="similarity smoothing",
        build=similarity_smoothing,
        tag=("{weighting}",),
        uses=("weighting",),
    ),
    "5": Approach(
        title="similarity smoothing + curriculum",
        build=similarity_smoothing,
        is_hardened=True,
        tag=("{weighting}", "{schedule}"),
        uses=("weighting", "schedule"),
    ),
}

PAPER_APPROACHES = ("1", "2", "3", "4", "5")


_WEIGHTING_USES = {"controlled": ("alpha",), "softmax": ("temperature",)}


def used_options(name: str, weighting: str) -> tuple[str, ...]:
    """Return which options of FitConfig shape an approach's targets and their part in the loss."""
    approach = get_approach(name)
    uses = approach.uses + (("kl_weight",) if approach.has_kl else ())
    return uses + (_WEIGHTING_USES.get(weighting, ()) if "weighting" in uses else ())


def get_approach(name: str) -> Approach:
    """Return the approach called `name`.

    Raises: TargetError that lists the names.
    """
    if name not in APPROACHES:
        raise TargetError(
            f"unknown approach {name!r}",
            where="--approach",
            fix=f"use one of: {', '.join(APPROACHES)}",
        )
    return APPROACHES[name]
