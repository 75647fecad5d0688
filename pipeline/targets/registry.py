"""The approaches by name: (target builder, whether KL joins the focal loss, whether it hardens).

The only place that knows approaches by name. A new approach is a new line here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.targets.neighbor_smoothing import neighbor_smoothing
from pipeline.targets.one_hot import one_hot
from pipeline.targets.online_smoothing import online_smoothing
from pipeline.targets.options import TargetOptions
from pipeline.targets.similarity_smoothing import similarity_smoothing
from pipeline.targets.taxonomy_smoothing import taxonomy_smoothing
from pipeline.targets.uniform_smoothing import uniform_smoothing
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.targets import Targets


@dataclass(frozen=True, kw_only=True)
class Approach:
    """One way to train on labels."""

    title: str
    """For tables."""
    build: Callable[[NeighborGraph, TargetOptions, Sequence[str] | None], Targets]
    """Its label representation, from graph, options and the labels' paths."""
    has_kl: bool = True
    """KL to the targets is added to the focal loss."""
    is_hardened: bool = False
    """Targets harden over the run."""
    is_online: bool = False
    """Targets are made anew each epoch from what the network says."""
    has_codes: bool = False
    """The network says the bits of the labels' codes; what these say of classes decides."""
    is_shuffled: bool = False
    """Labels have each other's codes."""
    tag: tuple[str, ...] = ()
    """What names a run: words, or `{field}` of FitConfig."""
    uses: tuple[str, ...] = ()
    """Fields of FitConfig that its formula names."""


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
    "taxonomy": Approach(
        title="taxonomy smoothing (control)",
        build=taxonomy_smoothing,
        tag=("beta{beta:g}",),
        uses=("beta",),
    ),
    "online": Approach(
        title="online smoothing (control)",
        build=online_smoothing,
        is_online=True,
        tag=("smoothing",),
        uses=("alpha",),
    ),
    "codes": Approach(
        title="binary codes",
        build=one_hot,
        has_kl=False,
        has_codes=True,
        tag=("{codes}", "{code_head}", "{code_loss}"),
        uses=("codes", "code_head", "code_loss"),
    ),
    "codes-shuffled": Approach(
        title="binary codes of other labels (control)",
        build=one_hot,
        has_kl=False,
        has_codes=True,
        is_shuffled=True,
        tag=("{codes}", "{code_head}", "{code_loss}"),
        uses=("codes", "code_head", "code_loss"),
    ),
}

PAPER_APPROACHES = ("1", "2", "3", "4", "5")
BASELINE = "1"
# What the paper advises to use together with the run of best top1.
PARTNER = "4"


_WEIGHTING_USES = {"controlled": ("alpha",), "softmax": ("temperature",)}


def used_options(name: str, weighting: str, code_loss: str = "classes") -> tuple[str, ...]:
    """Return which options of FitConfig shape an approach's targets and its loss."""
    approach = get_approach(name)
    learns_bits = approach.has_codes and code_loss == "bits"
    uses = approach.uses + (("kl_weight",) if approach.has_kl else ())
    uses += () if learns_bits else ("gamma",)
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


def build(
    name: str,
    graph: NeighborGraph,
    *,
    alpha: float = 0.1,
    weighting: str = "affinity",
    temperature: float | None = 0.05,
    beta: float = 10.0,
    paths: Sequence[str] | None = None,
) -> Targets:
    """Build the label representation of an approach; of 5, its start.

    Args:
        name: `1`, `1b`, `2`, `3`, `4`, `5`, `taxonomy` or `online`; of `codes` and
            `codes-shuffled`, the targets of a class head beside them.
        graph: the label graph.
        alpha: mass off the true class, where the formula has one.
        weighting: of approaches 4 and 5.
        temperature: of the softmax weighting; None has it solved.
        beta: of `taxonomy`.
        paths: of the labels, for `taxonomy`.
    Raises: TargetError if a name is unknown or a number out of range.
    """
    options = TargetOptions(alpha=alpha, weighting=weighting, temperature=temperature, beta=beta)
    return get_approach(name).build(graph, options, paths)
