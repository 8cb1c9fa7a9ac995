"""Object-level authorisation: every operation that names an object, with another tenant's object.

Walks the OpenAPI document, so that a new endpoint cannot be forgotten: a path parameter that is
not known here fails the test.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.api import API, create_app
from app.identity import mint_token
from app.scopes import SCOPES
from tests.api.conftest import Login, make_settings


def make_job(client: FlaskClient, headers: dict[str, str]) -> str:
    answer = client.post("/v1/inference", json={"prompt": "mine"}, headers=headers)
    return str(answer.json["id"])


def make_response(client: FlaskClient, headers: dict[str, str]) -> str:
    body = {"model": "auto", "input": "mine", "background": True}
    return str(client.post("/v1/responses", json=body, headers=headers).json["id"])


def make_batch(client: FlaskClient, headers: dict[str, str]) -> str:
    answer = client.post("/v1/batch", json=[{"prompt": "mine"}], headers=headers)
    return str(answer.json["id"])


def make_file(client: FlaskClient, headers: dict[str, str]) -> str:
    line = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}'
    form = {"file": (io.BytesIO(line), "lines.jsonl"), "purpose": "batch"}
    return str(client.post("/v1/files", data=form, headers=headers).json["id"])


def make_endpoint(client: FlaskClient, headers: dict[str, str]) -> str:
    body = {"url": "http://127.0.0.1:9/hook", "events": ["job.succeeded"]}
    return str(client.post("/v1/webhooks", json=body, headers=headers).json["id"])


# How an object of each kind is made, and an id of the same form that nobody has.
OBJECTS: dict[str, tuple[Callable[[FlaskClient, dict[str, str]], str], str]] = {
    "job_id": (make_job, "job_" + "0" * 32),
    "response_id": (make_response, "resp_" + "0" * 32),
    "batch_id": (make_batch, "batch_" + "0" * 32),
    "file_id": (make_file, "file-" + "0" * 32),
    "endpoint_id": (make_endpoint, "we_" + "0" * 32),
    "webhook_endpoint_id": (make_endpoint, "we_" + "0" * 32),
}
# Parameters that name nothing of a tenant's, or something of the deployment that only its
# operators may see.
NOT_OBJECTS = {"model", "model_id"}
# Administration is by role, not by object: tests/accounts looks at it.
ADMIN = "/v1/admin/"


def operations(api: API) -> list[tuple[str, str, str]]:
    """(method, path, parameter) of every operation that names an object."""
    found = []
    for path, methods in api.api_doc["paths"].items():
        for method, operation in methods.items():
            named = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
            if named and not path.startswith(ADMIN) and named[0] not in NOT_OBJECTS:
                found.append((method, path, named[0]))
    return found


def test_another_tenants_objects_do_not_exist(
    redis_url: str, prefix: str, login: Login, tmp_path: Path
) -> None:
    api = create_app(
        make_settings(
            redis_url,
            prefix,
            files_url=f"file://{tmp_path}",
            webhook_allow_hosts="127.0.0.1",
            rate_limit_requests=10_000,
        )
    )
    client = api.test_client()
    walked = operations(api)
    assert len(walked) >= 6
    for method, path, name in walked:
        assert name in OBJECTS, f"say in this test how a {name} is made: {method} {path}"
        make, nobody = OBJECTS[name]
        owner = login(user="ann", tenant="acme")
        thief = login(user="mal", tenant="mallory", role="admin")
        mine = make(client, owner)

        def call(object_id: str, path=path, name=name, method=method, thief=thief):
            path = path.replace("{" + name + "}", object_id).replace("{delivery_id}", "msg_1")
            body = {} if method in ("post", "patch") else None
            if path.endswith("/test"):
                body = {"event_type": "response.completed"}
            answer = getattr(client, method)(path, headers=thief, json=body)
            body = answer.get_json(silent=True) or {}
            body.pop("request_id", None)
            return answer.status_code, body, object_id

        theirs, nobodys = call(mine), call(nobody)
        assert theirs[0] == nobodys[0] == 404, (method, path, theirs, nobodys)
        assert str(theirs[1]).replace(mine, "") == str(nobodys[1]).replace(nobody, "")
        if name in ("job_id", "response_id"):
            job_id = "job_" + mine.partition("_")[2]
            assert client.get(f"/v1/jobs/{job_id}", headers=owner).json["state"] == "queued"


def test_bodies_that_name_another_tenants_objects(
    redis_url: str, prefix: str, login: Login, tmp_path: Path
) -> None:
    """A response to go on from, a file to read lines from: as if nobody had them."""
    api = create_app(make_settings(redis_url, prefix, files_url=f"file://{tmp_path}"))
    client = api.test_client()
    owner, thief = login(tenant="acme"), login(user="mal", tenant="mallory")

    def told(path: str, body: dict[str, object]) -> tuple[int, str]:
        answer = client.post(path, json=body, headers=thief)
        return answer.status_code, str(answer.json)

    for path, body, name, make, nobody in (
        ("/v1/responses", {"model": "auto", "input": "x"}, "previous_response_id",
         make_response, "resp_" + "0" * 32),
        ("/v1/batch", {}, "input_file_id", make_file, "file-" + "0" * 32),
        ("/v1/batches", {"endpoint": "/v1/chat/completions", "completion_window": "24h"},
         "input_file_id", make_file, "file-" + "0" * 32),
    ):  # fmt: skip
        mine = make(client, owner)
        theirs = told(path, {**body, name: mine})
        nobodys = told(path, {**body, name: nobody})
        assert theirs[0] == nobodys[0] in (400, 404), (path, theirs)
        without_ids = [re.sub(r"req_[0-9a-f]+", "", text) for _, text in (theirs, nobodys)]
        assert without_ids[0].replace(mine, "") == without_ids[1].replace(nobody, "")


def test_administrators_of_another_tenant(
    redis_url: str, prefix: str, login: Login, tmp_path: Path
) -> None:
    """Every operation below /v1/admin that names a tenant."""
    database = f"sqlite:///{tmp_path}/accounts.db"
    api = create_app(make_settings(redis_url, prefix, database_url=database))
    client = api.test_client()
    settings = api.extensions["inferenceflow"].settings
    with api.app_context():
        token = mint_token(
            settings, user="root", tenant="platform", role="admin",
            expires=timedelta(hours=1), scopes=SCOPES,
        )  # fmt: skip
    root = {"Authorization": f"Bearer {token}"}
    made = client.post("/v1/admin/tenants", json={"name": "acme"}, headers=root)
    assert made.status_code == 201
    thief = login(user="mal", tenant="mallory", role="admin")
    walked = 0
    for path, methods in api.api_doc["paths"].items():
        if not path.startswith(ADMIN) or "{tenant}" not in path:
            continue
        for method in methods:
            walked += 1
            told = []
            for tenant in ("acme", "nobody"):
                where = path.replace("{tenant}", tenant).replace("{user}", "ann")
                where = where.replace("{client_id}", "client_1")
                body = None if method in ("get", "delete") else {}
                if path.endswith("/users") and body is not None:
                    body = {"name": "eve"}
                if path.endswith("/clients") and body is not None:
                    body = {"user": "eve"}
                answer = getattr(client, method)(where, headers=thief, json=body)
                shown = re.sub(r"req_[0-9a-f]+", "", str(answer.get_json(silent=True)))
                told.append((answer.status_code, shown.replace(tenant, "")))
            assert told[0] == told[1], (method, path)
            assert told[0][0] in (403, 404), (method, path, told)
    assert walked >= 10


@pytest.mark.parametrize("path", ["/v1/jobs"])
def test_lists_hold_only_ones_own(client: FlaskClient, login: Login, path: str) -> None:
    make_job(client, login(tenant="acme"))
    assert client.get(path, headers=login(tenant="mallory")).json["data"] == []
