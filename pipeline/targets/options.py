"""What shapes a label representation; saved with every run."""

from dataclasses import dataclass

from schemas.errors import TargetError

WEIGHTINGS = ("affinity", "controlled", "softmax")
TEMPERATURES = (1e-4, 1e4)
SCHEDULES = ("linear", "geometric", "odds")


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """Options of all approaches; each uses those that its formula names."""

    alpha: float = 0.1
    """Smoothing mass off the true class, in [0, 1); the paper's value."""
    weighting: str = "affinity"
    """How similarities become weights: `affinity`, `controlled` or `softmax`."""
    temperature: float | None = None
    """Of the softmax weighting; None: solved from true_share."""
    true_share: float = 0.5
    """Mean weight of the true class that `temperature` None is solved for, in (0, 1)."""
    beta: float = 10.0
    """Of the taxonomy representation: how fast weights fall with the distance, above 0."""
    schedule: str = "odds"
    """How targets harden: `linear`, `geometric` or `odds`."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name, valid in (("weighting", WEIGHTINGS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in valid:
                raise TargetError(
                    f"unknown {name} {getattr(self, name)!r}",
                    where=f"--{name}",
                    fix=f"use one of: {', '.join(valid)}",
                )
        if not self.beta > 0:
            raise TargetError(
                f"beta is {self.beta}, expected a number above 0",
                where="--beta",
                fix="use 4 (soft) to 30 (nearly one-hot)",
            )
        low, high = TEMPERATURES
        if self.temperature is not None and not low <= self.temperature <= high:
            raise TargetError(
                f"temperature is {self.temperature}, expected {low:g} to {high:g}",
                where="--temperature",
                fix="use a number in this range, or leave it out to have it solved",
            )
