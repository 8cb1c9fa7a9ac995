"""An HTTP/1.1 load generator: each client sends its next request after the answer, or a pause.

On uvloop one core sends more than 10,000 requests a second, so it does not bound what is measured.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop


@dataclass(frozen=True)
class Target:
    """Where requests go and what they carry beside their bodies."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, body: bytes) -> bytes:
        """The bytes of one POST."""
        parts = urlsplit(self.url)
        lines = [
            f"POST {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@dataclass(frozen=True)
class Load:
    """What a run gave. Latencies are milliseconds."""

    clients: int
    seconds: float
    answered: int
    rate: float  # answers with a 2xx status a second
    p50: float
    p95: float
    p99: float
    statuses: dict[str, int]
    cached: int  # answers that say `X-Cache: hit`, whose number tells a rigged run


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        if self._run.think:  # not all at once
            asyncio.get_running_loop().call_later(random.uniform(0, self._run.think), self._send)
        else:
            self._send()

    def _send(self) -> None:
        assert self._transport is not None
        if self._run.over or self._transport.is_closing():
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(next(self._run.requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        if b"content-length:" in lower:
            length = int(lower.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(body) < length:
                return
        elif not body.endswith(b"0\r\n\r\n"):
            return
        self._buffer = b""
        self._run.note(int(head[9:12]), time.perf_counter() - self._sent, b"x-cache: hit" in lower)
        self._pause()

    def _pause(self) -> None:
        if self._run.think:
            seconds = random.uniform(0.5, 1.5) * self._run.think
            asyncio.get_running_loop().call_later(seconds, self._send)
        else:
            self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._run.over:
            self._run.statuses["connection lost"] += 1
            self._run.again(self)


class _Run:
    """The clients of one run, and what they saw."""

    def __init__(self, target: Target, bodies: Iterator[bytes], think: float) -> None:
        self.think = think
        self.requests = (target.encode(body) for body in bodies)
        self.over = False
        self.counting = False
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.cached = 0
        parts = urlsplit(target.url)
        self._address = (parts.hostname, parts.port)
        self._tasks: set[asyncio.Task[object]] = set()

    def note(self, status: int, seconds: float, cached: bool) -> None:
        if not self.counting:
            return
        self.statuses[str(status)] += 1
        if 200 <= status < 300:
            self.latencies.append(seconds * 1000)
            self.cached += cached

    def again(self, _client: _Client) -> None:
        task = asyncio.get_running_loop().create_task(self.connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: _Client(self), *self._address)


async def _run(
    target: Target, bodies: Iterator[bytes], clients: int, seconds: float, warm: float, think: float
) -> Load:
    run = _Run(target, bodies, think)
    await asyncio.gather(*(run.connect() for _ in range(clients)))
    await asyncio.sleep(warm)
    run.counting = True
    begun = time.perf_counter()
    await asyncio.sleep(seconds)
    run.counting, run.over = False, True
    took = time.perf_counter() - begun
    await asyncio.sleep(0.3)
    found = sorted(run.latencies) or [float("nan")]
    cuts = statistics.quantiles(found, n=100) if len(found) > 1 else found * 99
    return Load(
        clients=clients,
        seconds=round(took, 2),
        answered=len(run.latencies),
        rate=round(len(run.latencies) / took, 1),
        p50=round(cuts[49], 2),
        p95=round(cuts[94], 2),
        p99=round(cuts[98], 2),
        statuses=dict(run.statuses),
        cached=run.cached,
    )


def load(
    target: Target,
    bodies: Iterator[bytes],
    *,
    clients: int,
    seconds: float,
    warm: float = 1.5,
    think: float = 0.0,
) -> Load:
    """Load `target` for `seconds`, after `warm` seconds that do not count.

    `think`: mean seconds between an answer and the client's next request.
    """
    return uvloop.run(_run(target, bodies, clients, seconds, warm, think))
