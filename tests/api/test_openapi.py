"""The API against its own OpenAPI document: no server errors, and only what it documents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS

from tests.stack import real_stack

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "30"))  # for each operation


@pytest.mark.slow
@pytest.mark.xdist_group("stack")
@pytest.mark.timeout(600)
def test_the_api_keeps_to_its_document(tmp_path: Path) -> None:
    with real_stack(
        tmp_path, RATE_LIMIT_REQUESTS="1000000000", MAX_WAIT_SECONDS="1", MAX_BODY_BYTES="100000"
    ) as stack:
        headers = {"Authorization": f"Bearer {stack.token(role='admin')}"}
        schema = schemathesis.openapi.from_url(f"{stack.url}/openapi.json")
        check_all(schema, headers)


def check_all(schema: schemathesis.BaseSchema, headers: dict[str, str]) -> None:
    # A token is always sent here: tests/api/test_refusals.py looks at those that are wrong.
    # Some rules no schema can tell: the last message is the user's, a model must exist.
    unfit = CHECKS.get_by_names(["ignored_auth", "positive_data_acceptance"])
    tried = []
    for operation in schema.get_all_operations():
        one = operation.ok()
        tried.append(one.label)

        @given(case=one.as_strategy())
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        def keeps_to_it(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, excluded_checks=unfit)

        keeps_to_it()
    assert len(tried) >= 10
