"""Files: on a local folder and on S3 (moto's server), through the store and over HTTP."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
import redis
from flask.testing import FlaskClient
from moto.server import ThreadedMotoServer

from app.api import API, create_app
from app.identity import mint_token
from tasks.files import FileStore, FileTooLargeError, StoredFile, UnknownFileError, pieces
from tests.api.conftest import make_settings

DAY = 86_400


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket on an S3 server of its own."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        assert host
        boto3.client("s3").create_bucket(Bucket="files")
        yield "s3://files/here"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def store(
    request: pytest.FixtureRequest, redis_client: redis.Redis, prefix: str, tmp_path: Path
) -> FileStore:
    if request.param == "s3":
        return FileStore(redis_client, prefix, request.getfixturevalue("bucket"))
    return FileStore(redis_client, prefix, f"file://{tmp_path}/files")


def put(store: FileStore, content: bytes, tenant: str = "acme", keep: int = DAY) -> StoredFile:
    with store.writing(tenant, filename="a.jsonl", purpose="batch", keep_seconds=keep) as new:
        for start in range(0, len(content), 1000):
            new.sink.write(content[start : start + 1000])
    return new.record


def test_what_is_written_can_be_read(store: FileStore) -> None:
    content = secrets.token_bytes(300_000)
    file = put(store, content)
    assert (file.size, file.tenant, file.listed) == (300_000, "acme", True)
    assert b"".join(store.chunks(file)) == content
    with store.open(file, offset=123_456) as stream:
        assert stream.read(100) == content[123_456:123_556]
    assert store.get(file.id, "acme") == file


def test_another_tenant_finds_nothing(store: FileStore) -> None:
    file = put(store, b"x")
    for call in (store.get, store.delete):
        with pytest.raises(UnknownFileError):
            call(file.id, "globex")
    assert store.page("globex") == []
    assert store.get(file.id, "acme")


def test_deleted_is_deleted(store: FileStore) -> None:
    file = put(store, b"x")
    store.delete(file.id, "acme")
    with pytest.raises(UnknownFileError):
        store.get(file.id, "acme")
    with pytest.raises(UnknownFileError):
        list(store.chunks(file))
    assert store.page("acme") == []


def test_a_failed_upload_leaves_nothing(
    store: FileStore, redis_client: redis.Redis, prefix: str
) -> None:
    def fail() -> None:
        with store.writing("acme", filename="a", purpose="batch", keep_seconds=0) as new:
            new.sink.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(redis_client.scan_iter(f"{prefix}*")) == []


def test_pages_newest_first(store: FileStore) -> None:
    files = [put(store, b"x", keep=0) for _ in range(5)]
    ids = sorted((file.id for file in store.page("acme")), key=[f.id for f in files].index)
    assert ids == [file.id for file in files]
    first = store.page("acme", limit=2)
    rest = store.page("acme", after=first[-1].id, limit=10)
    assert {file.id for file in first + rest} == {file.id for file in files}
    assert len(first + rest) == 5
    assert store.page("acme", purpose="user_data") == []


def test_expired_files_are_gone_and_get_purged(
    store: FileStore, redis_client: redis.Redis, prefix: str
) -> None:
    kept, file = put(store, b"x"), put(store, b"y")
    # As if its time were over.
    redis_client.hset(f"{prefix}file:{file.id}", "expires_at", 1)
    redis_client.zadd(f"{prefix}files:expiring", {f"acme/{file.id}": 1})
    with pytest.raises(UnknownFileError):
        store.get(file.id, "acme")
    assert [one.id for one in store.page("acme")] == [kept.id]
    assert store.purge_expired() == 1
    assert store.purge_expired() == 0
    assert not redis_client.exists(f"{prefix}file:{file.id}")
    with pytest.raises(UnknownFileError):
        list(store.chunks(file))


def test_what_a_dead_process_left_is_purged(
    tmp_path: Path, redis_client: redis.Redis, prefix: str
) -> None:
    store = FileStore(redis_client, prefix, f"file://{tmp_path}/files")
    begun = store.writing("acme", filename="a", purpose="batch", keep_seconds=0)
    new = begun.__enter__()
    new.sink.write(b"half")  # and then the process is killed
    assert list((tmp_path / "files" / "acme").iterdir())
    redis_client.zadd(f"{prefix}files:expiring", {f"acme/{new.id}": 1})
    assert store.purge_expired() == 1
    assert not list((tmp_path / "files" / "acme").iterdir())
    with pytest.raises(GeneratorExit):
        begun.gen.throw(GeneratorExit)  # type: ignore[attr-defined]


def test_pieces_are_bounded() -> None:
    assert b"".join(pieces(io.BytesIO(b"x" * 700_000), 700_000)) == b"x" * 700_000
    with pytest.raises(FileTooLargeError):
        list(pieces(io.BytesIO(b"x" * 700_001), 700_000))


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> API:
    """The API with small limits."""
    folder = tmp_path_factory.mktemp("files")
    settings = make_settings(
        redis_url,
        f"test:{secrets.token_hex(6)}:",
        files_url=f"file://{folder}/files",
        database_url=f"sqlite:///{folder}/accounts.db",
        batch_max_bytes=5_000,
        batch_max_lines=10,
    )
    return create_app(settings)


@pytest.fixture
def web(api: API) -> tuple[FlaskClient, dict[str, str]]:
    """A client of the API, and the headers of Ann of a tenant that has nothing yet."""
    settings = api.extensions["inferenceflow"].settings
    tenant = f"acme-{secrets.token_hex(6)}"
    with api.app_context():
        token = mint_token(settings, user="ann", tenant=tenant, expires=timedelta(hours=1))
    return api.test_client(), {"Authorization": f"Bearer {token}"}


Web = tuple[FlaskClient, dict[str, str]]


def upload(web: Web, content: bytes, **form: str) -> dict[str, object]:
    client, headers = web
    answer = client.post(
        "/v1/files", headers=headers, data={"file": (io.BytesIO(content), "in.jsonl"), **form}
    )
    return {**answer.get_json(force=True), "status": answer.status_code}


def test_files_over_http(web: Web) -> None:
    client, headers = web
    file = upload(web, b"hello\n", purpose="batch")
    assert (file["status"], file["object"], file["bytes"], file["filename"]) == (
        200, "file", 6, "in.jsonl",
    )  # fmt: skip
    one = f"/v1/files/{file['id']}"
    assert client.get(f"{one}/content", headers=headers).data == b"hello\n"
    (listed,) = client.get("/v1/files", headers=headers).get_json(force=True)["data"]
    assert listed["id"] == file["id"]
    assert client.delete(one, headers=headers).status_code == 200
    assert client.get(one, headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({}, "purpose"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "5000"}, "expires_after[anchor]"),
        (
            {
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "9",
            },
            "expires_after[seconds]",
        ),
    ],
)
def test_refused_uploads(web: Web, form: dict[str, str], field: str) -> None:
    answer = upload(web, b"x", **form)
    assert answer["status"] == 400
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["param"] == field


def test_too_large_and_too_many(web: Web) -> None:
    client, headers = web
    assert upload(web, b"x" * 5_001, purpose="batch")["status"] == 413
    jsonl = {**headers, "Content-Type": "application/jsonl"}
    line = b'{"prompt": "hi"}\n'
    large = client.post("/v1/batch", data=b'{"prompt": "' + b"x" * 5_000, headers=jsonl)
    assert large.status_code == 413
    many = client.post("/v1/batch", data=line * 11, headers=jsonl)
    assert (many.status_code, many.get_json(force=True)["type"].rpartition(":")[2]) == (
        413, "batch-too-large",
    )  # fmt: skip
    assert client.get("/v1/files", headers=headers).get_json(force=True)["data"] == []


@pytest.mark.parametrize(
    ("query", "data", "content_type", "status", "kind"),
    [
        ("", b"", "application/jsonl", 422, "empty-batch"),
        ("", b"[]", "application/json", 422, "empty-batch"),
        ("", b"[1", "application/json", 400, "malformed-json"),
        ("", b'{"a": 1}', "application/json", 422, "invalid-request"),
        ("", b"{}", "application/json", 422, "invalid-request"),
        ("", b"{", "application/json", 400, "malformed-json"),
        ("", b"x", "image/png", 415, "unsupported-media-type"),
        ("completion_window=4m", b'{"prompt":"a"}', "application/jsonl", 422, "invalid-request"),
        ("completion_window=8d", b'{"prompt":"a"}', "application/jsonl", 422, "invalid-request"),
        ("metadata=x", b'{"prompt":"a"}', "application/jsonl", 422, "invalid-request"),
        ("colour=red", b'{"prompt":"a"}', "application/jsonl", 422, "invalid-request"),
        ("priority=urgent", b'{"prompt":"a"}', "application/jsonl", 422, "invalid-request"),
        (
            "webhook_url=https://10.0.0.1/", b'{"prompt":"a"}', "application/jsonl", 422,
            "invalid-request",
        ),
        ("", b'{"input_file_id": "file-1"}', "application/json", 404, "unknown-file"),
        ("", b'{"requests": [{}]}', "application/json", 422, "invalid-lines"),
        ("", b"\xff\xfe", "application/jsonl", 422, "invalid-lines"),
    ],
)  # fmt: skip
def test_refused_batches(
    web: Web, query: str, data: bytes, content_type: str, status: int, kind: str
) -> None:
    client, headers = web
    answer = client.post(
        f"/v1/batch?{query}", data=data, headers={**headers, "Content-Type": content_type}
    )
    problem = answer.get_json(force=True)
    assert (answer.status_code, problem["type"].rpartition(":")[2]) == (status, kind), problem
    assert client.get("/v1/batch", headers=headers).get_json(force=True)["data"] == []


def test_a_token_that_only_reads_gets_no_secret(web: Web) -> None:
    client, headers = web
    settings = client.application.extensions["inferenceflow"].settings
    path = "/v1/webhooks/default-secret"
    assert client.get(path, headers=headers).status_code == 200
    with client.application.app_context():
        token = mint_token(
            settings,
            user="bob",
            tenant="acme",
            expires=timedelta(hours=1),
            scopes=["jobs:read"],
        )
    assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 403
