"""The one dict that knows approaches by name."""

import math

import numpy as np
import pytest

from pipeline.runs import run_name
from pipeline.targets.options import TargetOptions
from pipeline.targets.registry import APPROACHES, PAPER_APPROACHES, build, get_approach
from schemas.errors import TargetError
from schemas.graph import NeighborGraph
from schemas.run import FitConfig

GRAPH = NeighborGraph(
    np.array([[1, 2], [2, 0], [1, 0], [0, 1]]),
    np.array([[0.6, 0.4], [0.5, 0.5], [0.9, 0.1], [0.5, 0.0]]),
)
# Row 0 of each at alpha 0.1, affinity.
FIRST_ROWS = {
    "1": [1, 0, 0, 0],
    "1b": [1, 0, 0, 0],
    "2": [0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3],
    "3": [0.9, 0.05, 0.05, 0],
    "4": [0.5, 0.3, 0.2, 0],
    "5": [0.5, 0.3, 0.2, 0],
    "taxonomy": [1 / (1 + 3 * math.exp(-10)), *[1 / (math.exp(10) + 3)] * 3],
    "online": [0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3],
    "codes": [1, 0, 0, 0],
    "codes-shuffled": [1, 0, 0, 0],
}


def test_the_names_are_the_papers_and_the_control() -> None:
    """`fit --approach 5` and the tables of `compare` are addressed by these names."""
    assert set(APPROACHES) == set(FIRST_ROWS)
    assert PAPER_APPROACHES == ("1", "2", "3", "4", "5")


@pytest.mark.parametrize("name", FIRST_ROWS)
def test_a_name_builds_the_papers_representation(name: str) -> None:
    """Two swapped lines would put every result in the wrong row of the table."""
    approach = get_approach(name)
    dense = approach.build(GRAPH, TargetOptions(weighting="affinity"), list("abcd")).dense()
    np.testing.assert_allclose(dense[0], FIRST_ROWS[name], atol=1e-7)
    np.testing.assert_array_equal(build(name, GRAPH, paths=list("abcd")).dense(), dense)


def test_only_the_baseline_and_codes_train_without_kl() -> None:
    """The control 1b exists so that a gain from the KL term alone is visible."""
    without = [name for name, approach in APPROACHES.items() if not approach.has_kl]
    assert without == ["1", "codes", "codes-shuffled"]


def test_only_the_control_of_codes_shuffles_them() -> None:
    """It is all that tells the two apart."""
    assert [name for name, each in APPROACHES.items() if each.has_codes] == [
        "codes",
        "codes-shuffled",
    ]
    assert [name for name, each in APPROACHES.items() if each.is_shuffled] == ["codes-shuffled"]


def test_only_approach_5_hardens() -> None:
    """It is all that tells 5 from 4."""
    assert [name for name, approach in APPROACHES.items() if approach.is_hardened] == ["5"]


def test_only_online_smoothing_learns_its_targets() -> None:
    """All others are fixed before the first step."""
    assert [name for name, approach in APPROACHES.items() if approach.is_online] == ["online"]


def test_titles_and_run_names_tell_approaches_apart() -> None:
    """Two approaches with one name would write their runs to one folder."""
    assert len({approach.title for approach in APPROACHES.values()}) == len(APPROACHES)
    assert len({run_name(FitConfig(approach=name)) for name in APPROACHES}) == len(APPROACHES)


def test_a_tag_names_only_existing_options() -> None:
    """It is filled in when a run is named, minutes after the command was typed."""
    for approach in APPROACHES.values():
        words = [part.format(**vars(FitConfig(approach="1"))) for part in approach.tag]
        assert all(words)


@pytest.mark.parametrize("name", ["6", "", "one-hot", "1B"])
def test_an_unknown_approach_is_refused_with_the_valid_names(name: str) -> None:
    """A KeyError would not say what to type instead."""
    with pytest.raises(TargetError, match=repr(name)) as caught:
        get_approach(name)
    assert caught.value.where == "--approach"
    assert all(known in caught.value.fix for known in APPROACHES)
