"""The stream of a job's answer: appended to by the worker that runs it, read by any API process.

The whole stream is kept as long as the job, so that a client may read it from any point again.
Cost in Redis round trips: 1 for all that a worker process has to append at a time, and 1 for a
reader whenever its stream has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import redis

from tasks.jobs import JobState
from tasks.ledger import UnknownJobError
from tasks.scripts import load_script

EventKind = Literal["delta", "restart", "end"]
MOST_EVENTS = 500  # of one read


@dataclass(frozen=True)
class Piece:
    """What a run adds to its job's stream."""

    job_id: str
    fence: int
    seq: int  # counted within the run from 1: a piece sent twice is written once
    kind: Literal["delta", "restart"]
    text: str = ""


@dataclass(frozen=True)
class StreamEvent:
    """One entry of a stream."""

    id: str  # of the Redis stream entry: "<ms>-<n>", rising
    kind: EventKind  # restart: forget the text so far, the answer begins anew
    data: str  # delta: text; end: the final state


@dataclass(frozen=True)
class Page:
    """What a read found."""

    state: JobState
    streamed: bool  # whether there is a stream at all
    events: list[StreamEvent]


def stream_topic(job_id: str) -> str:
    """What is published when the stream of a job moves."""
    return f"stream:{job_id}"


class JobStreams:
    """The streams on one Redis."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._prefix = prefix
        self._append = load_script(client, "append")
        self._follow = load_script(client, "follow")

    def append(self, pieces: Sequence[Piece]) -> list[bool]:
        """Add pieces, of any jobs, in order. False where the lease of the run was lost."""
        if not pieces:
            return []
        flat: list[object] = []
        for piece in pieces:
            flat += [piece.job_id, piece.fence, piece.seq, piece.kind, piece.text]
        return [bool(ok) for ok in self._append(args=[self._prefix, "", *flat])]

    def follow(self, job_id: str, tenant: str, *, after: str = "", channel: str = "") -> Page:
        """At most MOST_EVENTS events after the one with the id `after`.

        `channel` is told of what comes until the job has ended. Raises UnknownJobError, also for
        another tenant's job.
        """
        reply: Any = self._follow(args=[self._prefix, "", job_id, channel, after, MOST_EVENTS])
        state, owner, streamed, entries = reply
        if owner != tenant.encode():
            raise UnknownJobError(UnknownJobError.__doc__)
        return Page(JobState(state.decode()), bool(streamed), [_event(*entry) for entry in entries])


def _event(entry_id: bytes, flat: Sequence[bytes]) -> StreamEvent:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    kind: Any = fields[b"event"].decode()
    return StreamEvent(entry_id.decode(), kind, fields[b"data"].decode())
