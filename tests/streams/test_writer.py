"""What a worker's runs put into their streams."""

from __future__ import annotations

import orjson
import pytest
import redis

from tasks.jobs import Job, JobState
from tasks.ledger import Ledger
from tasks.redis_client import connect
from tasks.streams import JobStreams
from tests.stack import eventually
from tests.streams.conftest import Start
from workers.lease import Lease
from workers.stream import StreamKeeper


@pytest.fixture
def keeper(streams: JobStreams) -> StreamKeeper:
    return StreamKeeper(streams)


def lease_of(job: Job) -> Lease:
    return Lease(job, 30)


def result(text: str) -> bytes:
    return orjson.dumps({"response": text})


def shown(streams: JobStreams, job: Job) -> str:
    """The text since the last restart."""
    text = ""
    for event in streams.follow(job.id, job.tenant).events:
        text = "" if event.kind == "restart" else text + event.data
    return text


def kinds(streams: JobStreams, job: Job) -> list[str]:
    return [event.kind for event in streams.follow(job.id, job.tenant).events]


def test_text_arrives_while_the_answer_is_being_written(
    keeper: StreamKeeper, streams: JobStreams, start: Start
) -> None:
    job = start()
    writer = keeper.open(job, lease_of(job))
    writer.delta("first")
    eventually(lambda: shown(streams, job) == "first", seconds=5, what="the first text")
    for number in range(500):
        writer.delta(f" {number}")
    whole = "first" + "".join(f" {number}" for number in range(500))
    eventually(lambda: shown(streams, job) == whole, seconds=5, what="the whole text")
    # Many small pieces become few events.
    assert len(kinds(streams, job)) < 100
    keeper.close(job, result(whole))
    assert shown(streams, job) == whole


def test_an_answer_that_was_not_streamed_comes_whole(
    keeper: StreamKeeper, streams: JobStreams, start: Start
) -> None:
    job = start()
    keeper.open(job, lease_of(job))
    keeper.close(job, result("from the cache"))
    assert kinds(streams, job) == ["delta"]
    assert shown(streams, job) == "from the cache"


def test_the_rest_of_an_answer_is_added(
    keeper: StreamKeeper, streams: JobStreams, start: Start
) -> None:
    job = start()
    keeper.open(job, lease_of(job)).delta("half")
    keeper.close(job, result("half and half"))
    assert "restart" not in kinds(streams, job)
    assert shown(streams, job) == "half and half"


def test_an_answer_that_differs_from_what_was_shown_begins_anew(
    keeper: StreamKeeper, streams: JobStreams, start: Start
) -> None:
    job = start()
    writer = keeper.open(job, lease_of(job))
    writer.delta("wrong")
    eventually(lambda: shown(streams, job) == "wrong", seconds=5, what="the text")
    keeper.close(job, result("right"))
    assert kinds(streams, job) == ["delta", "restart", "delta"]
    assert shown(streams, job) == "right"


def test_a_restart_before_anything_was_shown_is_not_shown(
    keeper: StreamKeeper, streams: JobStreams, start: Start
) -> None:
    job = start()
    writer = keeper.open(job, lease_of(job))
    writer.restart()
    keeper.close(job, result("text"))
    assert kinds(streams, job) == ["delta"]


def test_a_restart_after_text_is_shown(
    keeper: StreamKeeper, streams: JobStreams, start: Start
) -> None:
    job = start()
    writer = keeper.open(job, lease_of(job))
    writer.delta("one")
    eventually(lambda: shown(streams, job) == "one", seconds=5, what="the text")
    writer.restart()
    writer.delta("two")
    keeper.close(job, result("two"))
    assert kinds(streams, job) == ["delta", "restart", "delta"]
    assert shown(streams, job) == "two"


def test_a_refused_piece_gives_the_lease_up(
    keeper: StreamKeeper, streams: JobStreams, start: Start, ledger: Ledger
) -> None:
    job = start()
    lease = lease_of(job)
    writer = keeper.open(job, lease)
    ledger.cancel(job.id, job.tenant)
    writer.delta("too late")
    eventually(lambda: lease.lost, seconds=5, what="the lease lost")
    keeper.close(job, result("too late"))  # returns: there is nothing to wait for
    assert not streams.follow(job.id, job.tenant).streamed


def test_a_run_that_failed_writes_no_more(
    keeper: StreamKeeper, streams: JobStreams, start: Start, ledger: Ledger
) -> None:
    job = start()
    keeper.open(job, lease_of(job))
    keeper.close(job, None)
    keeper.close(job, result("a job that does not stream"))
    assert ledger.finish(job, JobState.FAILED, error=b"{}")
    assert not streams.follow(job.id, job.tenant).streamed


def test_what_redis_did_not_take_is_sent_again(
    redis_url: str, redis_client: redis.Redis, prefix: str, streams: JobStreams, start: Start
) -> None:
    job = start()
    impatient = connect(redis_url, timeout=0.1)
    keeper = StreamKeeper(JobStreams(impatient, prefix))
    writer = keeper.open(job, lease_of(job))
    writer.delta("before ")
    eventually(lambda: shown(streams, job) == "before ", seconds=5, what="the text")
    redis_client.execute_command("CLIENT", "PAUSE", 600, "ALL")
    writer.delta("and ")
    writer.delta("after")
    keeper.close(job, result("before and after"))
    assert shown(streams, job) == "before and after"
    impatient.close()
    impatient.connection_pool.disconnect()
