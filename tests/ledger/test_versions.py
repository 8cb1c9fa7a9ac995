"""Records of other versions: read where they can be, and left alone where they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
import redis

from tasks.inference import InferenceResponse, Priority, Usage
from tasks.jobs import JobState, NewerRecordError
from tasks.ledger import Ledger, Limits, Reserve, new_job_id
from tasks.messages import run_message
from tests.ledger.test_ledger import lease_runs_out, new_job

RECORDS = Path(__file__).parent / "records"
READABLE = ["older_minor", "present", "newer_minor"]


def recorded(name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((RECORDS / f"{name}.json").read_text())
    return found


def accepted_by(ledger: Ledger, client: redis.Redis, name: str, seconds: int = 600) -> str:
    """As if an API of that version had accepted a job just now."""
    job_id = new_job_id()
    at, micros = client.time()
    given = {
        "@ID@": job_id,
        "@MS@": str(at * 1000),
        "@US@": str(at * 1_000_000 + micros),
        "@DEADLINE@": str((at + seconds) * 1000),
    }
    record = {key: given.get(value, value) for key, value in recorded(name).items()}
    client.hset(ledger.key("job", job_id), mapping=record)
    client.hincrby(ledger.key("open"), "acme", 1)
    client.zadd(ledger.key("due"), {job_id: 1})
    ledger.sweep()  # it is due: made ready, with a message
    return job_id


@pytest.mark.parametrize("name", READABLE)
def test_a_minor_version_up_or_down_is_read(
    ledger: Ledger, redis_client: redis.Redis, name: str
) -> None:
    job_id = accepted_by(ledger, redis_client, name)
    job = ledger.claim(Priority.NORMAL, "w", 10)
    assert job is not None
    assert job.id == job_id
    request = job.parsed_request()
    assert (request.prompt, request.cache.mode) == ("recorded", "off")
    assert ledger.finish(job, JobState.SUCCEEDED, result=b'"done"')
    assert ledger.read(job_id, "acme").job.view()["state"] == "succeeded"


def test_the_present_record_is_what_is_written(ledger: Ledger, redis_client: redis.Redis) -> None:
    """A field that comes or goes is noticed here: keep the record of before as an older one."""
    job = new_job(
        reserve=Reserve(1000, 300), traceparent="00-0-0-01", surface=b"{}", fingerprint="f" * 64
    )
    snapshot, _ = ledger.submit(job.__class__(**{**job.__dict__, "reserve": None}), limits=Limits())
    written = redis_client.hkeys(ledger.key("job", snapshot.job.id))
    fields = set(recorded("present")) - {"reserve_nano", "reserve_tokens"}
    assert {name.decode() for name in written} == fields


def test_an_answer_with_fields_of_a_newer_worker_is_read() -> None:
    answer = InferenceResponse(
        response="yes", provider="p", model="m", finish_reason="stop", latency=1.0,
        tokens_used=2, usage=Usage(input_tokens=1, output_tokens=1), cost=0.1, cache_hit=False,
        request_id="r", created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    newer = answer.model_dump(mode="json")
    newer["reasoning"] = "because"
    newer["usage"]["reasoning_tokens"] = 5
    assert InferenceResponse.from_stored(orjson.dumps(newer)) == answer


def test_a_newer_major_version_waits_for_a_worker_that_knows_it(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    job_id = accepted_by(ledger, redis_client, "newer_major")
    for _ in range(5):  # more often than it may be tried
        assert ledger.claim(Priority.NORMAL, "old", 10) is None
        record = redis_client.hgetall(ledger.key("job", job_id))
        assert (record[b"state"], record[b"attempt"]) == (b"queued", b"0")
        lease_runs_out(ledger, redis_client, job_id)
        assert ledger.sweep().woken == 1
    with pytest.raises(NewerRecordError):
        ledger.read(job_id, "acme")
    # It keeps nothing else from running.
    other = accepted_by(ledger, redis_client, "present")
    claimed = [ledger.claim(Priority.NORMAL, "old", 10) for _ in range(2)]
    assert [job.id for job in claimed if job] == [other]


def test_a_newer_major_version_that_nobody_knows_ends_by_its_deadline(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    job_id = accepted_by(ledger, redis_client, "newer_major")
    assert ledger.claim(Priority.NORMAL, "old", 10) is None
    redis_client.hset(ledger.key("job", job_id), "deadline_at", 1)
    lease_runs_out(ledger, redis_client, job_id)
    assert ledger.sweep().expired == 1
    assert redis_client.hget(ledger.key("job", job_id), "state") == b"expired"


def test_a_message_of_any_version_is_a_hint_alone() -> None:
    """A worker of any version reads the lane from where the message came, and nothing else."""
    recorded_message = json.loads((RECORDS / "message.json").read_text())
    now = orjson.loads(run_message())
    for message in (recorded_message, now):
        assert message["headers"]["task"] == "inference.run"
        assert message["properties"]["delivery_info"]["routing_key"] == "inference.@LANE@"
    assert now["body"] == recorded_message["body"]
