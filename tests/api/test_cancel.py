"""Cancelling a job in each of its states."""

from __future__ import annotations

import pytest

from tasks.inference import Priority
from tasks.jobs import JobState
from tests.stack import eventually
from workers.cancellations import CancelListener
from workers.lease import LeaseKeeper


@pytest.fixture
def ledger(api):
    return api.extensions["inferenceflow"].ledger


def submit(client, login) -> str:
    return client.post("/v1/inference", json={"prompt": "x"}, headers=login()).json["id"]


def cancel(client, login, job_id, **who):
    return client.post(f"/v1/jobs/{job_id}/cancel", headers=login(**who))


def test_a_deferred_job_never_runs_again(client, login, ledger) -> None:
    job_id = submit(client, login)
    ledger.defer(ledger.claim(Priority.NORMAL, "worker", 10), 0, counts=True)
    assert cancel(client, login, job_id).json["state"] == "cancelled"
    ledger.sweep()
    assert ledger.claim(Priority.NORMAL, "worker", 10) is None


def test_a_running_job_is_ended_and_its_worker_told(client, login, ledger, api) -> None:
    job_id = submit(client, login)
    leases = LeaseKeeper(ledger, 30)
    channel = ledger.key("worker", "host:1")
    listener = CancelListener(api.extensions["inferenceflow"].job_redis, channel, leases.lose)
    listener.start()
    redis = api.extensions["inferenceflow"].job_redis
    eventually(
        lambda: redis.pubsub_numsub(channel)[0][1] == 1, seconds=5, what="the worker listens"
    )
    job = ledger.claim(Priority.NORMAL, "host:1", 30)
    with leases.holding(job) as lease:
        assert not lease.lost
        assert cancel(client, login, job_id).status_code == 200
        # Long before the lease would be renewed.
        eventually(lambda: lease.lost, seconds=5, what="the lease lost")
    leases.lose(job_id)  # it is not held any more: nothing to do
    assert not ledger.finish(job, JobState.SUCCEEDED, result=b"{}")
    shown = client.get(f"/v1/jobs/{job_id}", headers=login()).json
    assert shown["state"] == "cancelled"
    assert shown["result"] is None
    assert shown["error"]["type"] == "cancelled"


def test_an_ended_job_cannot_be_cancelled(client, login, ledger) -> None:
    job_id = submit(client, login)
    ledger.finish(ledger.claim(Priority.NORMAL, "worker", 10), JobState.SUCCEEDED, result=b"{}")
    answer = cancel(client, login, job_id)
    assert answer.status_code == 409
    assert answer.json["type"].endswith(":job-ended")
    assert client.get(f"/v1/jobs/{job_id}", headers=login()).json["state"] == "succeeded"


def test_another_tenant_cannot_cancel(client, login, ledger) -> None:
    job_id = submit(client, login)
    assert cancel(client, login, job_id, tenant="other").status_code == 404
    assert client.get(f"/v1/jobs/{job_id}", headers=login()).json["state"] == "queued"
