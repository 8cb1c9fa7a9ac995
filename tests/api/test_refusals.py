"""What is refused, and that each refusal says what to do without repeating the input."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from flask.testing import FlaskClient

from app.api import API, create_app
from tests.api.conftest import Login, make_settings
from tests.conftest import running_redis

SECRET = "a-secret-that-only-the-tests-sign-with"


@pytest.fixture(scope="module")
def api(redis_url: str) -> API:
    """One for all: what is refused leaves nothing behind."""
    return create_app(make_settings(redis_url, f"test:{secrets.token_hex(6)}:"))


def kind(answer) -> str:
    assert answer.content_type == "application/problem+json"
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]
    assert answer.json["status"] == answer.status_code
    return str(answer.json["type"].removeprefix("urn:inferenceflow:problem:"))


class TestTokens:
    """Every way in which a token can be wrong."""

    def test_missing(self, client: FlaskClient) -> None:
        answer = client.get("/v1/jobs")
        assert (answer.status_code, kind(answer)) == (401, "token-missing")
        assert "Bearer" in answer.headers["WWW-Authenticate"]

    def test_expired(self, client, login) -> None:
        answer = client.get("/v1/jobs", headers=login(expires=timedelta(seconds=-1)))
        assert (answer.status_code, kind(answer)) == (401, "token-expired")

    @pytest.mark.parametrize(
        "token",
        [
            "garbage",
            "a.b.c",
            jwt.encode({"sub": "ann", "tenant": "acme"}, "another-secret-of-32-bytes-length!"),
            jwt.encode({"sub": "ann", "tenant": "acme", "role": "user"}, None, algorithm="none"),
            jwt.encode(
                {"sub": "ann", "tenant": "acme", "role": "user"}, SECRET * 2, algorithm="HS512"
            ),
        ],
        ids=["garbage", "not base64", "another key", "alg none", "another algorithm"],
    )
    def test_invalid(self, client, token) -> None:
        answer = client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, kind(answer)) == (401, "token-invalid")
        assert token not in answer.text

    @pytest.mark.parametrize("field", ["tenant", "role", "sub"])
    @pytest.mark.parametrize("value", [None, "", "a b", "x" * 65, "../etc", 7])
    def test_claims(self, client: FlaskClient, field: str, value: object) -> None:
        claims = {"sub": "ann", "tenant": "acme", "role": "user", "jti": "1", "type": "access"}
        token = jwt.encode({**claims, field: value}, SECRET)
        answer = client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, kind(answer)) == (401, "token-invalid")

    def test_a_retired_key_still_verifies(self, redis_url: str, prefix: str, login: Login) -> None:
        changes = {
            "jwt_previous_keys": SECRET,
            "jwt_secret_key": "the-new-signing-key-of-32-bytes-or-so",
        }
        settings = make_settings(redis_url, prefix).model_copy(update={})
        assert settings.jwt_secret_key is not None
        rotated = type(settings)(_env_file=None, redis_url=redis_url, key_prefix=prefix, **changes)
        answer = create_app(rotated).test_client().get("/v1/jobs", headers=login())
        assert answer.status_code == 200


@pytest.mark.parametrize("method", ["get", "post"])
def test_another_tenants_job_is_unknown(client, login, method) -> None:
    job_id = client.post("/v1/inference", json={"prompt": "hi"}, headers=login()).json["id"]
    path = f"/v1/jobs/{job_id}" + ("/cancel" if method == "post" else "")
    theirs = getattr(client, method)(path, headers=login(tenant="mallory"))
    nobodys = getattr(client, method)(
        path.replace(job_id, "job_" + "0" * 32), headers=login(tenant="mallory")
    )
    assert (theirs.status_code, kind(theirs)) == (404, "unknown-job")
    for answer in (theirs, nobodys):
        answer.json.pop("request_id")
    assert theirs.json["detail"] == nobodys.json["detail"]
    assert client.get(f"/v1/jobs/{job_id}", headers=login()).json["state"] == "queued"


@pytest.mark.parametrize(
    ("body", "status", "problem", "says"),
    [
        ('{"prompt":', 400, "malformed-json", "EOF"),
        ("[1]", 400, "malformed-json", "object"),
        ('{"prompt":"secret words","temperature":NaN}', 422, "invalid-request", "temperature"),
        ('{"prompt":"secret words","max_tokens":1e999}', 422, "invalid-request", "max_tokens"),
        ('{"prompt":"secret words\\u0000"}', 422, "invalid-request", "null character"),
        ('{"prompt":"secret words","colour":1}', 422, "invalid-request", "colour"),
        ('{"prompt":""}', 422, "invalid-request", "prompt"),
        ("{}", 422, "invalid-request", "prompt"),
        (
            '{"prompt":"x","messages":[{"role":"user","content":"y"}]}',
            422,
            "invalid-request",
            "one",
        ),
        ('{"messages":[{"role":"assistant","content":"y"}]}', 422, "invalid-request", "last"),
        ('{"prompt":"x","priority":"urgent"}', 422, "invalid-request", "priority"),
        ('{"prompt":"x","model_preference":"gpt-99"}', 422, "unknown-model", "/v1/models"),
        ('{"prompt":"x","model_preference":"gpt4"}', 422, "unknown-model", "gpt-4"),
        ('{"prompt":' + "[" * 100_000, 400, "malformed-json", "recursion"),
        (b'{"prompt":"\xff"}', 400, "malformed-json", "UTF-8"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_bodies(client, login, body, status, problem, says) -> None:
    headers = {**login(), "Content-Type": "application/json"}
    answer = client.post("/v1/inference", data=body, headers=headers)
    assert (answer.status_code, kind(answer)) == (status, problem), answer.text
    assert says in answer.json["detail"]
    assert "secret words" not in answer.text


def test_ten_megabytes(client: FlaskClient, login: Login) -> None:
    answer = client.post("/v1/inference", json={"prompt": "x" * 10_000_000}, headers=login())
    assert (answer.status_code, kind(answer)) == (413, "request-entity-too-large")
    assert "4000000 bytes" in answer.json["detail"]


def test_another_media_type(client: FlaskClient, login: Login) -> None:
    answer = client.post("/v1/inference", data="prompt=hi", headers=login())
    assert (answer.status_code, kind(answer)) == (415, "unsupported-media-type")


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon", "601"])
def test_bad_wait(client, login, wait) -> None:
    answer = client.get(f"/v1/jobs/x?wait={wait}", headers=login())
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


@pytest.mark.parametrize("cursor", ["x", "%%%", "OmpvYl8=", "\u00e4"])
def test_bad_cursor(client, login, cursor) -> None:
    answer = client.get("/v1/jobs", query_string={"cursor": cursor}, headers=login())
    assert (answer.status_code, kind(answer)) == (400, "bad-cursor")


def test_unknown_paths_and_methods(client: FlaskClient, login: Login) -> None:
    nowhere = client.get("/v1/nowhere", headers=login())
    assert (nowhere.status_code, kind(nowhere)) == (404, "not-found")
    put = client.put("/v1/jobs", headers=login())
    assert (put.status_code, kind(put)) == (405, "method-not-allowed")
    assert "GET" in put.headers["Allow"]


def test_rate_limit(redis_url: str, prefix: str, login: Login) -> None:
    api = create_app(make_settings(redis_url, prefix, rate_limit_requests=3))
    client = api.test_client()
    answers = [
        client.post("/v1/inference", json={"prompt": "hi"}, headers=login()) for _ in range(4)
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert answers[0].headers["X-RateLimit-Remaining"] == "2"
    assert answers[0].headers["RateLimit"].startswith('"requests";r=2;t=')
    assert kind(answers[3]) == "rate-limited"
    assert 1 <= int(answers[3].headers["Retry-After"]) <= 61
    # Another user has a limit of its own, and reading is not submitting.
    other = client.post("/v1/inference", json={"prompt": "hi"}, headers=login(user="bob"))
    assert other.status_code == 202
    assert client.get("/v1/jobs", headers=login()).status_code == 200


def test_refused_submissions_count_too(redis_url: str, prefix: str, login: Login) -> None:
    client = create_app(make_settings(redis_url, prefix, rate_limit_requests=2)).test_client()
    headers = login()
    bad = [client.post("/v1/inference", json={"prompt": 7}, headers=headers) for _ in range(3)]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in bad] == ["1", "0", "0"]
    good = client.post("/v1/inference", json={"prompt": "hi"}, headers=headers)
    assert (good.status_code, kind(good)) == (429, "rate-limited")
    # Another process, which has not seen the client refused, asks Redis and refuses as well.
    other = create_app(make_settings(redis_url, prefix, rate_limit_requests=2)).test_client()
    assert other.post("/v1/inference", json={"prompt": "hi"}, headers=headers).status_code == 429


def test_queue_full(redis_url: str, prefix: str, login: Login) -> None:
    api = create_app(make_settings(redis_url, prefix, max_queue_depth=2, max_tenant_queue_depth=1))
    client = api.test_client()

    def submit(tenant: str):
        return client.post("/v1/inference", json={"prompt": "hi"}, headers=login(tenant=tenant))

    assert submit("acme").status_code == 202
    mine = submit("acme")
    assert (mine.status_code, kind(mine)) == (429, "queue-full")
    assert submit("blue").status_code == 202
    everybodys = submit("coyote")
    assert (everybodys.status_code, kind(everybodys)) == (503, "queue-full")
    assert "Retry-After" in everybodys.headers


@pytest.mark.slow
def test_redis_stopped_during_a_poll(tmp_path: Path, prefix: str, login: Login, api: API) -> None:
    import threading

    headers = login()
    answers = []
    with running_redis(tmp_path) as url:
        own = create_app(make_settings(url, prefix))
        client = own.test_client()
        job_id = client.post("/v1/inference", json={"prompt": "hi"}, headers=headers).json["id"]

        def poll() -> None:
            answers.append(own.test_client().get(f"/v1/jobs/{job_id}?wait=30", headers=headers))

        thread = threading.Thread(target=poll)
        thread.start()
        hub = own.extensions["inferenceflow"].hub
        redis = own.extensions["inferenceflow"].job_redis
        while not redis.pubsub_channels(hub.channel):
            pass
    thread.join(timeout=20)
    (answer,) = answers
    assert (answer.status_code, kind(answer)) == (503, "storage-unavailable")
    assert answer.headers["Retry-After"] == "2"
    assert client.get("/v1/health/ready").status_code == 503
    assert client.get("/v1/health").json["status"] == "unavailable"
    assert client.get("/v1/health/live").status_code == 200
    hub.stop()


@pytest.mark.parametrize(
    ("size", "closes"), [(1_000, None), (70_000, "close"), (2_000_000, "close")]
)
def test_a_refusal_that_left_a_large_body_unread_says_that_the_connection_ends(
    client: FlaskClient, size: int, closes: str | None
):
    answer = client.post("/v1/inference", data=b"x" * size, content_type="application/json")
    assert answer.status_code == 401
    assert answer.headers.get("Connection") == closes


def test_so_does_one_to_a_body_of_unknown_length(client: FlaskClient):
    answer = client.post("/v1/inference", headers={"Transfer-Encoding": "chunked"})
    assert answer.status_code == 401
    assert answer.headers["Connection"] == "close"
