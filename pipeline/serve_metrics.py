"""What the service counts, in Prometheus' text form, in a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one service."""

    def __init__(
        self, *, num_waiting: Callable[[], float], bytes_under_way: Callable[[], float]
    ) -> None:
        """Make the counters.

        Args:
            num_waiting: says how many items are in the queue.
            bytes_under_way: says how many bytes of bodies are reserved.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "shelfwise_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "shelfwise_request_seconds",
            "From a request's headers to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "shelfwise_batch_items",
            "Items that are embedded together.",
            buckets=_BATCHES,
            registry=self._registry,
        )
        waiting = Gauge("shelfwise_queue_items", "Items that wait.", registry=self._registry)
        waiting.set_function(num_waiting)
        under_way = Gauge(
            "shelfwise_bytes_under_way", "Bytes of request bodies.", registry=self._registry
        )
        under_way.set_function(bytes_under_way)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Note an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_batch(self, num_items: int) -> None:
        """Note a batch; any thread may."""
        self._batches.observe(num_items)

    def text(self) -> bytes:
        """Return all of it."""
        return generate_latest(self._registry)
