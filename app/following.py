"""Following the stream of a job: what is there already, then what comes, until the job ends.

A follower sleeps until the stream moves (see app/waiting.py); it holds no connection to Redis
and can be continued by any API process from the id of the last event seen.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator

import orjson
import redis

from app.services import Services
from tasks.jobs import Job
from tasks.streams import MOST_EVENTS, StreamEvent, stream_topic

logger = logging.getLogger(__name__)

PING_SECONDS = 15.0  # proxies close a connection that is silent for longer, often after 30 or 60
PATIENCE_SECONDS = 30.0  # of a follower, with a Redis that does not answer
EVENT_ID = re.compile(r"\d{1,20}-\d{1,20}")


class StreamLostError(Exception):
    """The stream could not be followed to its end; it can be resumed."""


def follow(
    current: Services,
    job_id: str,
    tenant: str,
    *,
    after: str = "",
    ping_seconds: float = PING_SECONDS,
    patient: bool = False,
) -> Iterator[StreamEvent | None]:
    """The events after the one with id `after`, the last one being `end`.

    None stands for a sign of life, due after `ping_seconds` without an event.
    `patient`: the client cannot resume, so it is served on while the process drains.
    Raises UnknownJobError at once, and StreamLostError when Redis stays away or the process ends.
    """
    hub = current.hub
    answered = time.monotonic()
    with hub.watching(tenant, job_id, stream_topic(job_id)) as moved:
        while True:
            moved.clear()
            try:
                page = current.streams.follow(job_id, tenant, after=after, channel=hub.channel)
                events = page.events
                if not page.streamed and page.state.terminal:
                    events = _unstreamed(current, job_id, tenant)
            except redis.RedisError as error:
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise StreamLostError(StreamLostError.__doc__) from error
                yield None
                moved.wait(1.0)
                continue
            answered = time.monotonic()
            for event in events:
                if not after or position(event.id) > position(after):
                    after = event.id
                    yield event
            if len(events) < MOST_EVENTS:
                if page.state.terminal:
                    return
                left = hub.drains(patient=patient)
                if left <= 0:
                    raise StreamLostError(StreamLostError.__doc__)
                if not moved.wait(min(ping_seconds, left)):
                    yield None


def position(event_id: str) -> tuple[int, int]:
    """Where an event stands in its stream; to compare."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


def answer_text(job: Job) -> str:
    """The text of a job's answer; empty where there is none."""
    return str(orjson.loads(job.result)["response"]) if job.result else ""


def _unstreamed(current: Services, job_id: str, tenant: str) -> list[StreamEvent]:
    """The stream that an ended job without one would have: its answer in one piece, its end."""
    job = current.ledger.read(job_id, tenant).job
    text = answer_text(job)
    events = [StreamEvent(f"{job.finished_at}-1", "end", job.state.value)]
    if text:
        events.insert(0, StreamEvent(f"{job.finished_at}-0", "delta", text))
    return events
