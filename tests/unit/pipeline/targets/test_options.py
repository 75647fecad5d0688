"""What TargetOptions refuses."""

import dataclasses
import math

import pytest

from pipeline.targets.options import SCHEDULES, WEIGHTINGS, TargetOptions
from schemas.errors import TargetError


@pytest.mark.parametrize(("name", "valid"), [("weighting", WEIGHTINGS), ("schedule", SCHEDULES)])
def test_an_unknown_name_is_refused_with_the_valid_ones(name: str, valid: tuple[str, ...]) -> None:
    """The code below it falls through to the last branch, so a typo must not get there."""
    for known in valid:
        assert getattr(TargetOptions(**{name: known}), name) == known
    with pytest.raises(TargetError, match="'typo'") as caught:
        TargetOptions(**{name: "typo"})
    assert caught.value.where == f"--{name}"
    assert all(known in caught.value.fix for known in valid)


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan, math.inf])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature: float) -> None:
    """0 would be taken for "solve it"; infinity makes NaN of rows with fewer neighbors."""
    with pytest.raises(TargetError, match=str(temperature)) as caught:
        TargetOptions(temperature=temperature)
    assert caught.value.where == "--temperature"
    assert caught.value.fix


def test_options_cannot_change_after_the_check() -> None:
    """They are saved with every run; a later change would make the record a lie."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        TargetOptions().alpha = 2.0  # type: ignore[misc]


def test_the_defaults_are_the_papers() -> None:
    """The paper has alpha 0.1; comparisons rely on it."""
    options = TargetOptions()
    assert options.alpha == 0.1
    assert options.temperature is None
