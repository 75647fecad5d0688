"""Every public error says where and how to fix it, and appears in a test."""

import inspect
from pathlib import Path

import pytest

from schemas import errors
from schemas.errors import PipelineError, PlanNotFoundError

TESTS = Path(__file__).parents[2]
ALL = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, PipelineError) and cls is not PipelineError
]


def test_where_and_fix_cannot_be_left_out() -> None:
    """An error without them sends a user searching."""
    with pytest.raises(TypeError):
        PipelineError("broken")  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", ALL)
def test_the_message_has_all_three_parts(cls: type[PipelineError]) -> None:
    """OSError and KeyError print themselves in their own way: ours has to win."""
    error = cls("it broke", where="here", fix="mend it")
    assert str(error) == "it broke\n  where: here\n  fix:   mend it"


@pytest.mark.parametrize("cls", ALL)
def test_an_error_is_also_a_built_in(cls: type[PipelineError]) -> None:
    """Library users catch FileNotFoundError or ValueError without knowing ours."""
    assert len(cls.__bases__) == 2


def test_a_missing_plan_is_a_missing_file() -> None:
    """The example of STYLE.md section 5."""
    assert issubclass(PlanNotFoundError, FileNotFoundError)


@pytest.mark.parametrize("cls", ALL)
def test_a_test_raises_it(cls: type[PipelineError]) -> None:
    """An error nobody provokes has a message nobody read."""
    texts = [path.read_text() for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    assert any(cls.__name__ in text for text in texts)
