"""What `clean` looks for, and what it may find."""

import math
from dataclasses import dataclass

from schemas.errors import ConfigError

EXACT, NEAR, MISMATCH, LABEL = "exact duplicate", "near duplicate", "mismatch", "label"
REASONS = (EXACT, NEAR, MISMATCH, LABEL)


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Options of `clean`."""

    min_cosine: float = 0.45
    """How alike the other modality of near duplicates is: cosine after whitening."""
    mismatch_quantile: float = 0.01
    """Share of the items that are left out for an image-title cosine low for their category."""
    min_image_title_cosine: float | None = None
    """One least image-title cosine for all categories, in place of the quantile."""
    check_pictures: bool = False
    """Rank items by how much their picture looks like another category's."""
    check_labels: bool = False
    """Rank items by how little a cross-validated network believes their label."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        problems = []
        if not 0 < self.min_cosine <= 1:
            problems.append(f"min_cosine={self.min_cosine} (expected 0 < min_cosine <= 1)")
        if not 0 <= self.mismatch_quantile < 1:
            problems.append(f"mismatch_quantile={self.mismatch_quantile} (expected 0 to below 1)")
        least = self.min_image_title_cosine
        if least is not None and not (math.isfinite(least) and -1 <= least <= 1):
            problems.append(f"min_image_title_cosine={least} (expected -1 to 1)")
        if problems:
            raise ConfigError(
                f"values out of range: {'; '.join(problems)}",
                where="clean options",
                fix="see `python cli.py clean --help`",
            )
