"""Label representations: one file each, one function each, all made of the label graph."""

from pipeline.targets.curriculum import harden
from pipeline.targets.registry import build

__all__ = ["build", "harden"]
