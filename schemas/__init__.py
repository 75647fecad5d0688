"""What data looks like. The label graph and targets are at hand here, loaded when asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.graph import NeighborGraph
    from schemas.targets import TargetTable

__all__ = ["NeighborGraph", "TargetTable"]


def __getattr__(name: str) -> Any:
    # Not imported above: `cli.py --help` needs schemas.errors and no NumPy.
    if name == "NeighborGraph":
        from schemas.graph import NeighborGraph

        return NeighborGraph
    if name == "TargetTable":
        from schemas.targets import TargetTable

        return TargetTable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
