"""The Lua steps behind a stream: fenced, safe to repeat, told to who follows."""

from __future__ import annotations

import pytest
import redis

from tasks.inference import Priority
from tasks.jobs import Job, JobState
from tasks.ledger import Ledger, UnknownJobError
from tasks.streams import JobStreams, Piece, StreamEvent, stream_topic
from tests.streams.conftest import Start


def texts(events: list[StreamEvent]) -> list[tuple[str, str]]:
    return [(event.kind, event.data) for event in events]


def delta(job: Job, seq: int, text: str) -> Piece:
    return Piece(job.id, job.fence, seq, "delta", text)


def test_what_is_appended_is_read_in_order(
    streams: JobStreams, start: Start, ledger: Ledger
) -> None:
    job = start()
    assert streams.append([delta(job, 1, "Hel"), delta(job, 2, "lo")]) == [True, True]
    page = streams.follow(job.id, "acme")
    assert page.state is JobState.RUNNING
    assert texts(page.events) == [("delta", "Hel"), ("delta", "lo")]
    assert ledger.finish(job, JobState.SUCCEEDED, result=b"{}")
    rest = streams.follow(job.id, "acme", after=page.events[-1].id)
    assert texts(rest.events) == [("end", "succeeded")]
    assert rest.state is JobState.SUCCEEDED


def test_pieces_of_several_jobs_go_in_one_call(streams: JobStreams, start: Start) -> None:
    one, two = start(), start("other")
    assert streams.append([delta(one, 1, "1"), delta(two, 1, "2")]) == [True, True]
    assert texts(streams.follow(one.id, "acme").events) == [("delta", "1")]
    assert texts(streams.follow(two.id, "other").events) == [("delta", "2")]
    assert streams.append([]) == []


def test_a_piece_sent_twice_is_written_once(streams: JobStreams, start: Start) -> None:
    job = start()
    both = [delta(job, 1, "a"), delta(job, 2, "b")]
    assert streams.append(both) == streams.append(both) == [True, True]
    assert texts(streams.follow(job.id, "acme").events) == [("delta", "a"), ("delta", "b")]


def test_a_lost_lease_cannot_write(streams: JobStreams, start: Start, ledger: Ledger) -> None:
    job = start()
    assert ledger.defer(job, 0, counts=True)
    assert streams.append([delta(job, 1, "late")]) == [False]
    ledger.sweep()
    again = ledger.claim(Priority.NORMAL, "worker-2", 30)
    assert again is not None
    assert streams.append([delta(job, 2, "late"), delta(again, 1, "now")]) == [False, True]
    assert texts(streams.follow(job.id, "acme").events) == [("delta", "now")]


def test_a_second_run_shows_that_the_answer_begins_anew(
    streams: JobStreams, start: Start, ledger: Ledger
) -> None:
    job = start()
    streams.append([delta(job, 1, "half an ans")])
    ledger.defer(job, 0, counts=True)
    ledger.sweep()
    again = ledger.claim(Priority.NORMAL, "worker-2", 30)
    assert again is not None
    streams.append([delta(again, 1, "whole")])
    streams.append([delta(again, 1, "whole")])
    assert texts(streams.follow(job.id, "acme").events) == [
        ("delta", "half an ans"),
        ("restart", ""),
        ("delta", "whole"),
    ]


def test_the_stream_lives_as_long_as_the_job(
    streams: JobStreams, start: Start, ledger: Ledger, redis_client: redis.Redis
) -> None:
    job = start()
    streams.append([delta(job, 1, "x")])
    name = ledger.key("stream", job.id)
    assert 600_000 < redis_client.pttl(name) <= 660_000  # left to the deadline, and retention
    ledger.finish(job, JobState.FAILED, error=b"{}")
    assert 0 < redis_client.pttl(name) <= 600_000


def test_followers_are_told(
    streams: JobStreams, start: Start, ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    job = start()
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(prefix + "me")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        streams.follow(job.id, "acme", channel=prefix + "me")
        streams.append([delta(job, 1, "x")])
        assert pubsub.get_message(timeout=5)["data"] == stream_topic(job.id).encode()
        ledger.finish(job, JobState.SUCCEEDED, result=b"{}")
        assert pubsub.get_message(timeout=5)["data"] == job.id.encode()


def test_a_follower_of_an_ended_job_is_not_registered(
    streams: JobStreams, start: Start, ledger: Ledger, redis_client: redis.Redis
) -> None:
    job = start()
    ledger.finish(job, JobState.SUCCEEDED, result=b"{}")
    page = streams.follow(job.id, "acme", channel="c")
    assert not page.streamed
    assert page.events == []
    assert not redis_client.exists(ledger.key("waiters", job.id))


def test_only_the_owner_can_follow(streams: JobStreams, start: Start) -> None:
    job = start()
    for job_id, tenant in ((job.id, "other"), ("job_" + "0" * 32, "acme")):
        with pytest.raises(UnknownJobError):
            streams.follow(job_id, tenant)
