"""An upstream that is no bottleneck: OpenAI's chat completion after a fixed time, on uvloop.

`python -m benchmarks.upstream --port 9100 --latency 0.05`; `GET /_count` says how many it answered.
It reads of a request only where it ends, so a core gives more than 10,000 answers a second.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1741569952,"model":"gpt-4o-mini",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you '
    b'today? This answer has about twenty tokens in it.","refusal":null,"annotations":[]},'
    b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":20,'
    b'"total_tokens":39,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0}},'
    b'"service_tier":"default","system_fingerprint":null}'
)


def _answer(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
        + str(len(body)).encode()
        + b"\r\n\r\n"
        + body
    )


ANSWER = _answer(BODY)


class Upstream(asyncio.Protocol):
    """One connection."""

    latency = 0.05
    count = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

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
        elif b"chunked" in lower and not body.endswith(b"0\r\n\r\n"):
            return
        self._buffer = b""
        if head.startswith(b"GET"):
            self._write(_answer(b'{"count": %d}' % Upstream.count))
            return
        Upstream.count += 1
        asyncio.get_running_loop().call_later(Upstream.latency, self._write, ANSWER)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    arguments = parser.parse_args()
    Upstream.latency = arguments.latency
    uvloop.run(_serve(arguments.port))


if __name__ == "__main__":
    main()
