"""The nodes of a Ray cluster: how many workers each can hold, and what it did."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pipeline.text_table import TextTable


@dataclass(kw_only=True, eq=False)
class Node:
    """A node of the cluster, and what it did."""

    key: str
    """By which Ray knows it."""
    name: str
    num_cores: int
    """Of each worker."""
    num_seats: int
    """Workers that it can hold."""
    is_alive: bool = True
    num_lost: int = 0
    """Workers that died there, one after another, before they were ready."""
    num_shards: int = 0
    num_items: int = 0
    began: float | None = None
    """When its first worker took a task, by this process's clock."""
    ended: float = 0.0
    """When its last task ended."""
    rates: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=31))
    """Of the last looks: when, and items so far."""

    def rate(self) -> float:
        """Return items/s of late."""
        if len(self.rates) < 2:
            return 0.0
        (first, before), (last, now) = self.rates[0], self.rates[-1]
        return (now - before) / (last - first)


@dataclass(frozen=True, kw_only=True)
class RayReport:
    """Which node did what."""

    nodes: tuple[Node, ...]
    seconds: float

    def table(self) -> TextTable:
        """Return one row a node that did anything."""
        rows = [
            (
                node.name,
                f"{node.num_seats}",
                f"{node.num_shards}",
                f"{node.num_items:,}",
                f"{node.num_items / (node.ended - node.began):,.0f}",
            )
            for node in self.nodes
            if node.began is not None and node.ended > node.began
        ]
        total = sum(node.num_items for node in self.nodes)
        note = "nothing was open"
        if total:
            rate = total / self.seconds
            note = f"{total:,} items in {self.seconds:.1f} s, {rate:,.0f} items/s"
        return TextTable(
            title="Nodes",
            columns=("node", "workers", "shards", "items", "items/s"),
            rows=tuple(rows),
            note=note,
        )


def divided(found: dict[str, Any], gpus: float) -> Node:
    """Divide a node among workers."""
    cores = int(found["Resources"].get("CPU", 0))
    num_seats = int(found["Resources"].get("GPU", 0) / gpus + 1e-9) if gpus else min(cores, 1)
    return Node(
        key=found["NodeID"],
        name=f"{found['NodeManagerHostname']}/{found['NodeID'][:6]}",
        num_cores=cores // max(num_seats, 1),
        num_seats=num_seats,
    )
