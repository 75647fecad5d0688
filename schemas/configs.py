"""Read and write frozen dataclasses as JSON, strictly.

Every config and commit goes through here, so that a key nobody knows is an error with the
nearest valid name, not a silently ignored setting. Hashes of configs are taken over the
canonical form: sorted keys, no spaces, ASCII.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from typing import Any, TypeVar

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from schemas.errors import ConfigError

Config = TypeVar("Config")


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def strict(value: object, kind: type) -> object:
        # cattrs would turn "3" into 3 and 1.5 into 1: a wrong type is a wrong file.
        allowed = (int, float) if kind is float else (kind,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {kind.__name__}, found {type(value).__name__} {value!r}")
        return kind(value)

    for kind in (int, float, str, bool):
        converter.register_structure_hook(kind, strict)
    converter.register_structure_hook_factory(
        dataclasses.is_dataclass, lambda cls: make_dict_structure_fn(cls, converter)
    )
    return converter


_CONVERTER = _converter()


def to_dict(config: object) -> dict[str, Any]:
    """Return a dataclass as plain dicts, lists and scalars."""
    plain = _CONVERTER.unstructure(config)
    assert isinstance(plain, dict)
    return json.loads(json.dumps(plain))  # tuples become lists


def to_json(config: object) -> str:
    """Return a dataclass as indented JSON with a final newline."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True) + "\n"


def from_json(kind: type[Config], text: str, *, where: str, fix: str) -> Config:
    """Read a dataclass from JSON.

    Args:
        kind: the dataclass.
        text: the JSON document.
        where: the file it came from, for the error.
        fix: what renews the file, for the error.
    Raises: ConfigError if it is not JSON, lacks a key, has an unknown key or a wrong type.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not valid JSON: {error}", where=where, fix=fix) from error
    if not isinstance(plain, dict):
        found = type(plain).__name__
        raise ConfigError(f"expected a JSON object, found {found}", where=where, fix=fix)
    try:
        return _CONVERTER.structure(plain, kind)
    except ClassValidationError as error:
        names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        problems = cattrs.transform_error(error) + _nearest_names(error, names)
        raise ConfigError("; ".join(problems), where=where, fix=fix) from error


def _nearest_names(error: ClassValidationError, names: list[str]) -> list[str]:
    hints = []
    for inner in error.exceptions:
        if isinstance(inner, ForbiddenExtraKeysError):
            for key in sorted(inner.extra_fields):
                near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
                hints.append(f"{key!r} is unknown, nearest valid name is {near[0]!r}")
    return hints


def plain_json(value: Any) -> Any:
    """Return dicts, lists and scalars with NaN and infinity as null, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(value: object) -> str:
    """Return the sha256 of a JSON-able value's canonical form, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def differing_fields(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """List `name: old -> new` for every leaf that differs between two nested dicts."""
    rows = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            rows += differing_fields(before, after, f"{prefix}{key}.")
        elif before != after:
            rows.append(f"{prefix}{key}: {_short(before)} -> {_short(after)}")
    return rows


def _short(value: object, length: int = 60) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= length else text[: length - 3] + "..."
