"""The API against its own OpenAPI document: no server errors, and only what it documents.

SCHEMATHESIS_EXAMPLES is the number of requests for each operation (default 30, which is more than
2,000 for the whole document). Those that were sent are counted in build/schemathesis.json.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup

from app.api import API
from tests.stack import ROOT, real_stack

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "30"))  # for each operation
COUNTED = ROOT / "build" / "schemathesis.json"


@pytest.mark.slow
@pytest.mark.timeout(600 + 20 * EXAMPLES)
def test_the_api_keeps_to_its_document(tmp_path: Path) -> None:
    with real_stack(
        tmp_path,
        RATE_LIMIT_REQUESTS="1000000000",
        MAX_WAIT_SECONDS="1",
        MAX_BODY_BYTES="100000",
        OPENAI_WAIT_SECONDS="2",
    ) as stack:
        headers = {"Authorization": f"Bearer {stack.token(role='admin')}"}
        schema = schemathesis.openapi.from_url(f"{stack.url}/openapi.json")
        check_all(schema, headers)


def check_all(schema: schemathesis.BaseSchema, headers: dict[str, str]) -> None:
    # A token is always sent here: tests/api/test_refusals.py looks at those that are wrong.
    # Some rules no schema can tell: the last message is the user's, a model must exist.
    unfit = CHECKS.get_by_names(["ignored_auth", "positive_data_acceptance"])
    sent: Counter[str] = Counter()
    answers: Counter[int] = Counter()

    def keeps_to_it(case: schemathesis.Case) -> None:
        response = case.call(headers=headers)
        sent[case.operation.label] += 1
        answers[response.status_code] += 1
        case.validate_response(response, headers=headers, excluded_checks=unfit)

    how = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    faults: list[str] = []
    for operation in schema.get_all_operations():
        try:
            how(given(case=operation.ok().as_strategy())(keeps_to_it))()
        except (FailureGroup, BaseExceptionGroup) as error:  # all of them are told, at the end
            faults.append(f"{operation.ok().label}: {error} {getattr(error, '__notes__', '')}")
    COUNTED.parent.mkdir(exist_ok=True)
    report = {"requests": sent.total(), "operations": len(sent), "answers": answers}
    COUNTED.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    assert len(sent) >= 60
    assert not faults, "\n".join(faults)


def test_every_answer_is_named(api: API) -> None:
    """None hides behind `default`, and what follows from the way of every request is there."""
    for path, operations in api.api_doc["paths"].items():
        for method, operation in operations.items():
            found = set(operation["responses"])
            assert "default" not in found, path
            if "security" in operation and path != "/v1/metrics":
                assert found >= {"401", "403", "429", "503"}, (method, path)
            if "requestBody" in operation:
                assert found >= {"400", "413", "415"}, (method, path)


@pytest.mark.parametrize("path", ["/v1/inference", "/v1/chat/completions", "/v1/responses"])
def test_where_money_is_spent_a_budget_can_refuse(client: FlaskClient, path: str) -> None:
    document = client.get("/openapi.json").json
    assert "402" in document["paths"][path]["post"]["responses"]
