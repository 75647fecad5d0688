"""How the service of `serve` listens, batches and protects itself."""

from dataclasses import dataclass

from schemas.errors import ConfigError

MAX_ITEMS = 64
"""Of one request."""
MAX_TOP = 20
"""Labels that a request may ask for with each item."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """One running service."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every one of this machine."""
    port: int = 8080
    """0 takes a free one."""
    batch_size: int = 64
    """Most items that are embedded together."""
    num_workers: int = 2
    """Processes that decode pictures."""
    num_lanes: int | None = None
    """Batches under way: with 2, one is decoded while another is embedded. None: 2 where a GPU
    embeds, else 1, as batches of half the size cost more there than decoding ahead gains."""
    batch_wait_seconds: float = 0.002
    """How long a batch waits for one more item where nothing is under way; at most five times."""
    max_body_bytes: int = 10_000_000
    """Of one request."""
    max_bytes_under_way: int = 256_000_000
    """Of all requests' bodies together."""
    max_waiting: int = 512
    """Items in the queue."""
    body_seconds: float = 20.0
    """Within which a request's body has to arrive."""
    deadline_seconds: float = 60.0
    """Within which a request is answered or refused."""
    grace_seconds: float = 20.0
    """Within which the service stops when it is told to."""

    def __post_init__(self) -> None:
        """Check the numbers; the address is checked where it is used."""
        positive = ("batch_size", "max_body_bytes", "body_seconds", "deadline_seconds")
        least = dict.fromkeys(positive, 1e-9) | {
            "max_waiting": MAX_ITEMS,  # else a whole request would never fit
            "max_bytes_under_way": self.max_body_bytes,
        }
        rest = ("num_workers", "batch_wait_seconds", "grace_seconds", "port")
        problems = [
            f"{name}={getattr(self, name)} (at least {number:g})"
            for name, number in (least | dict.fromkeys(rest, 0)).items()
            if not getattr(self, name) >= number
        ]
        if self.num_lanes is not None and self.num_lanes < 1:
            problems.append(f"num_lanes={self.num_lanes} (at least 1)")
        if self.port > 65535:
            problems.append(f"port={self.port} (at most 65535)")
        if problems:
            raise ConfigError(
                f"values out of range: {'; '.join(problems)}",
                where="serve options",
                fix="see `python cli.py serve --help`",
            )
