"""Requests that a machine makes up from /openapi.json, good and bad, against the service."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving import Served, make_shop, served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Served]:
    with served(make_shop(tmp_path_factory.mktemp("shop"), small_model)) as found:
        yield found


def test_no_request_that_can_be_made_up_breaks_the_service(service: Served) -> None:
    """No 5xx, and every answer is one that the description names, in the form it names."""
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    seen: Counter[str] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        strategies = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

        @settings(
            max_examples=60 if operation.method == "post" else 15,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of(strategies))
        def ask(case: schemathesis.Case) -> None:
            response = case.call()
            seen[f"{case.method} {case.operation.path} {response.status_code}"] += 1
            case.validate_response(response, checks=CHECKS)

        ask()
    paths = {name.split()[1] for name in seen}
    assert {"/v1/predict", "/v1/labels", "/v1/labels/{label_id}/neighbors"} <= paths
    assert seen["POST /v1/predict 200"], seen
    assert seen["POST /v1/predict 422"], seen
