"""Strict JSON for dataclasses."""

from dataclasses import dataclass

import pytest

from schemas.configs import differing_fields, digest, from_json, to_dict, to_json
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    learning_rate: float
    inner: Inner
    sizes: tuple[int, ...] = ()
    note: str | None = None


CONFIG = Outer(learning_rate=0.5, inner=Inner(width=3), sizes=(1, 2))


def read(text: str) -> Outer:
    return from_json(Outer, text, where="config.json", fix="write it again")


def test_a_config_survives_the_round_trip() -> None:
    """What a run wrote is what a later run compares itself with."""
    assert read(to_json(CONFIG)) == CONFIG


def test_an_unknown_key_fails_with_the_nearest_name() -> None:
    """A misspelled setting must not be ignored silently."""
    text = '{"learning_rat": 0.1, "learning_rate": 0.5, "inner": {"width": 3}}'
    with pytest.raises(ConfigError, match="nearest valid name is 'learning_rate'") as caught:
        read(text)
    assert caught.value.where == "config.json"
    assert caught.value.fix == "write it again"


@pytest.mark.parametrize(
    "text",
    [
        "{not json",
        '{"inner": {"width": 3}}',
        '{"learning_rate": "0.5", "inner": {"width": 3}}',
        '{"learning_rate": 0.5, "inner": {"width": 3.5}}',
        '{"learning_rate": 0.5, "inner": {"width": true}}',
        '{"learning_rate": 0.5, "inner": {"width": 3, "depth": 1}}',
        "[]",
        "null",
    ],
)
def test_what_does_not_fit_is_refused(text: str) -> None:
    """Missing keys, wrong types, unknown nested keys: each would change a run unseen."""
    with pytest.raises(ConfigError):
        read(text)


def test_whole_numbers_are_accepted_as_floats() -> None:
    """JSON writers turn 1.0 into 1."""
    assert read('{"learning_rate": 1, "inner": {"width": 3}}').learning_rate == 1.0


def test_the_digest_ignores_key_order_only() -> None:
    """Hashes decide what is stale: they depend on content, not on a writer's habits."""
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})


def test_differing_fields_are_named_with_their_path() -> None:
    """The error that refuses a plan lists exactly what differs."""
    other = to_dict(Outer(learning_rate=0.5, inner=Inner(width=4), sizes=(1, 2)))
    assert differing_fields(to_dict(CONFIG), other) == ["inner.width: 3 -> 4"]
    assert differing_fields(to_dict(CONFIG), to_dict(CONFIG)) == []
