"""Streaming answers: what providers send goes into the jobs' streams, a few times a second.

One thread of a worker process appends for all its jobs, in one round trip, at most every
FLUSH_SECONDS; a provider's bytes never wait for Redis.
"""

from __future__ import annotations

import logging
import threading
from typing import Literal

import orjson
import redis

from tasks.jobs import Job
from tasks.streams import JobStreams, Piece
from workers.lease import Lease

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.025  # what comes within this time becomes one event
RETRY_SECONDS = 0.25  # after Redis did not answer


class StreamWriter:
    """The stream of one run of one job."""

    def __init__(self, keeper: StreamKeeper, job: Job, lease: Lease) -> None:
        self._keeper = keeper
        self._job = job
        self._lease = lease
        self._lock = threading.Lock()
        self._seq = 0
        self._unsent: list[str] = []
        self._sending: list[Piece] = []  # given out, not known to have arrived
        self._text: list[str] = []  # since the last restart

    def delta(self, text: str) -> None:
        """Add text to the answer."""
        with self._lock:
            self._text.append(text)
            self._unsent.append(text)
        self._keeper.moved(self)

    def restart(self) -> None:
        """Forget the text so far: the answer begins anew."""
        with self._lock:
            shown = bool(self._sending) or len(self._unsent) < len(self._text)
            self._text.clear()
            self._unsent.clear()
            if shown:
                self._sending.append(self._piece("restart"))
        self._keeper.moved(self)

    def complete(self, text: str) -> None:
        """See to it that the stream holds exactly `text`, and wait until it does.

        An answer from the cache was not streamed at all: it comes here whole.
        """
        with self._lock:
            streamed = "".join(self._text)
        if not text.startswith(streamed):
            self.restart()
            streamed = ""
        if len(text) > len(streamed):
            self.delta(text[len(streamed) :])
        self._keeper.flush(self)

    def take(self) -> list[Piece]:
        """The pieces to send now; the same again until `arrived` is told of them."""
        with self._lock:
            if self._unsent:
                self._sending.append(self._piece("delta", "".join(self._unsent)))
                self._unsent.clear()
            return list(self._sending)

    def arrived(self, count: int, kept: bool) -> None:
        """The first `count` pieces were written, or refused because the lease was lost."""
        with self._lock:
            del self._sending[:count]
        if not kept:
            self._lease.lose()

    @property
    def over(self) -> bool:
        """Whether nothing more can be written."""
        return self._lease.lost

    def _piece(self, kind: Literal["delta", "restart"], text: str = "") -> Piece:
        self._seq += 1
        return Piece(self._job.id, self._job.fence, self._seq, kind, text)


class StreamKeeper:
    """Appends to the streams of all jobs that this process runs."""

    def __init__(self, streams: JobStreams) -> None:
        self._streams = streams
        self._writers: dict[tuple[str, int], StreamWriter] = {}
        self._moved: set[StreamWriter] = set()
        self._changed = threading.Condition()
        self._order = threading.Lock()  # one append at a time keeps the pieces in order
        self._thread: threading.Thread | None = None

    def open(self, job: Job, lease: Lease) -> StreamWriter:
        """The writer of a run that streams."""
        writer = StreamWriter(self, job, lease)
        with self._changed:
            self._writers[job.id, job.fence] = writer
        return writer

    def close(self, job: Job, result: bytes | None) -> None:
        """The run is over; `result` is its InferenceResponse as JSON, if it came to one.

        Does nothing for a job that does not stream.
        """
        with self._changed:
            writer = self._writers.pop((job.id, job.fence), None)
        if writer is None:
            return
        if result is not None:
            writer.complete(orjson.loads(result)["response"])
        with self._changed:
            self._moved.discard(writer)

    def moved(self, writer: StreamWriter) -> None:
        """The writer has something to send."""
        with self._changed:
            self._moved.add(writer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
                self._thread.start()
            self._changed.notify()

    def flush(self, writer: StreamWriter) -> None:
        """Send all that the writer has, however long Redis is away, until its lease is lost."""
        pause = threading.Event()
        while not writer.over and not self._send([writer]):
            pause.wait(RETRY_SECONDS)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._changed:
                while not self._moved:
                    self._changed.wait()
                writers = [writer for writer in self._moved if not writer.over]
                self._moved.clear()
            if self._send(writers):
                pause.wait(FLUSH_SECONDS)
            else:
                with self._changed:
                    self._moved.update(writers)
                pause.wait(RETRY_SECONDS)

    def _send(self, writers: list[StreamWriter]) -> bool:
        with self._order:
            taken = [(writer, writer.take()) for writer in writers]
            try:
                kept = self._streams.append([piece for _, pieces in taken for piece in pieces])
            except redis.RedisError as error:
                logger.warning(
                    "streams not written",
                    extra={"action": "stream_append_failed", "error": type(error).__name__},
                )
                return False
            place = 0
            for writer, pieces in taken:
                writer.arrived(len(pieces), all(kept[place : place + len(pieces)]))
                place += len(pieces)
        return True
