"""A model provider that is not one: a real HTTP server speaking all four wire formats.

In a test:           with FakeProvider() as fake: fake.behave(mode="status", status=529)
From a shell:        python -m tests.fakes.provider --port 9100 --latency 0.2 --mode ok
While it runs:       POST /_behave with a JSON object of Behaviour's fields; GET /_count
Base URLs:           http://127.0.0.1:PORT/v1 for every provider
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import select
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

from tests.fakes import shapes


@dataclass(frozen=True)
class Behaviour:
    """How the server answers.

    mode: ok; status (with `status`, `headers`, `message` or `body`); empty; filtered; length;
    invalid_json; hang (no byte, ever); drip_headers and drip_body (a byte every `interval`);
    cut (the connection is closed in the middle of the answer); raw (`body` as a 200);
    socket (`body` instead of any HTTP).
    """

    mode: str = "ok"
    latency: float = 0.0  # seconds before the first byte
    interval: float = 0.0  # seconds between the events of a stream
    jitter: float = 0.0  # part of the latency that is random
    failure_rate: float = 0.0  # share of the requests that get status 500 in mode ok
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "something went wrong"
    body: bytes | None = None
    text: str | None = None  # None: the prompt, echoed


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    kind: shapes.Kind
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave early are what many tests are about; all else is a fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class FakeProvider:
    """The server. `url` is its base URL; `seen` the latest requests; `count` how many came."""

    def __init__(
        self,
        port: int = 0,
        behaviour: Behaviour | None = None,
        tls: ssl.SSLContext | None = None,
        log: Path | None = None,
    ) -> None:
        """`log`: each prompt that was answered in full is added to it as a line of JSON."""
        self.log = log
        self.behaviour = behaviour or Behaviour()
        self.script: collections.deque[Behaviour] = collections.deque()
        self.seen: collections.deque[Seen] = collections.deque(maxlen=1_000)
        self.count = 0
        self.left = 0  # clients that went away before their answer was whole
        self.closing = threading.Event()
        self._lock = threading.Lock()
        fake = self

        class Handler(_Handler):
            owner = fake

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/v1"
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    def behave(self, **changes: Any) -> None:
        """Answer from now on as `Behaviour(**changes)` says."""
        self.behaviour = Behaviour(**changes)

    def reset(self) -> None:
        """Forget what was seen and queued, and behave well."""
        with self._lock:
            self.behaviour = Behaviour()
            self.script.clear()
            self.seen.clear()
            self.count = 0

    def then(self, **changes: Any) -> Self:
        """Queue a behaviour for one request; when the queue is empty, `behaviour` holds again."""
        self.script.append(Behaviour(**changes))
        return self

    def take(self, seen: Seen) -> Behaviour:
        """Note a request and say how to answer it."""
        with self._lock:
            self.count += 1
            self.seen.append(seen)
            return self.script.popleft() if self.script else self.behaviour

    def serve(self) -> None:
        """Serve until `close` is called from another thread."""
        self._server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        """Stop; requests that hang are let go."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True, name="fake-provider").start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment for headers and body
    disable_nagle_algorithm = True
    owner: FakeProvider

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.owner.left += 1
        except (ssl.SSLError, ValueError):
            return

    def do_GET(self) -> None:
        if self.path == "/_count":
            self._answer(
                200, json.dumps({"count": self.owner.count, "left": self.owner.left}).encode()
            )
            return
        behaviour = self.owner.behaviour
        if behaviour.mode == "status":
            self._fail(behaviour, "openai")
        elif behaviour.mode == "hang":
            self._hang()
        else:
            self._answer(200, b'{"object": "list", "data": []}')

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.loads(raw or b"{}")
        if self.path == "/_behave":
            self.owner.behave(**body)
            self._answer(200, b"{}")
            return
        kind = _kind(self.path)
        behaviour = self.owner.take(Seen(kind, self.path, dict(self.headers.items()), body))
        wait = behaviour.latency * (1 - behaviour.jitter * random.random())
        if wait:
            self.owner.closing.wait(wait)
        mode = behaviour.mode
        if mode == "hang":
            self._hang()
        elif mode == "socket":
            self.wfile.write(behaviour.body or b"")
            self.close_connection = True
        elif mode == "status":
            self._fail(behaviour, kind)
        elif mode == "ok" and random.random() < behaviour.failure_rate:
            self._fail(replace(behaviour, status=500), kind)
        elif mode == "raw":
            streamed = body.get("stream") or "alt=sse" in self.path
            self._answer(
                200,
                behaviour.body or b"",
                content_type="text/event-stream" if streamed else "application/json",
                headers=behaviour.headers,
            )
        elif mode == "invalid_json":
            self._answer(200, b'{"choices": [{"message": {"content": "half an ans')
        else:
            self._complete(behaviour, kind, body)

    def _complete(self, behaviour: Behaviour, kind: shapes.Kind, body: dict[str, Any]) -> None:
        prompt = _prompt(kind, body)
        text = prompt if behaviour.text is None else behaviour.text
        if behaviour.mode in ("empty", "filtered", "length") and behaviour.text is None:
            text = ""
        finish = behaviour.mode if behaviour.mode in ("filtered", "length") else "stop"
        model = body.get("model") or self.path.split("/models/")[-1].split(":")[0]
        counts = (len(prompt.split()) + 3, max(1, len(text.split())))
        if body.get("stream") or "alt=sse" in self.path:
            pieces = [piece + " " for piece in text.split(" ")] if text else []
            if pieces:
                pieces[-1] = pieces[-1][:-1]
            self._stream(behaviour, shapes.stream(kind, pieces, model, finish, counts))
            return
        content = shapes.whole(kind, text, model, finish, counts)
        if behaviour.mode == "cut":
            self._head(200, "application/json", len(content), behaviour.headers)
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif behaviour.mode == "drip_headers":
            self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000, behaviour.interval)
        elif behaviour.mode == "drip_body":
            self._head(200, "application/json", len(content), behaviour.headers)
            self._drip(content, behaviour.interval)
        else:
            self._answer(200, content, headers=behaviour.headers)
            if self.owner.log is not None:
                line = json.dumps(prompt).encode() + b"\n"
                with self.owner.log.open("ab", buffering=0) as log:  # one write: never torn
                    log.write(line)

    def _stream(self, behaviour: Behaviour, blocks: list[bytes]) -> None:
        self._head(200, "text/event-stream; charset=utf-8", None, behaviour.headers)
        if behaviour.mode == "cut":
            blocks = blocks[: len(blocks) // 2]
        for block in blocks:
            for piece in self._pieces(behaviour, block):
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
                if behaviour.interval:
                    self.owner.closing.wait(behaviour.interval)
        if behaviour.mode == "cut":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _pieces(self, behaviour: Behaviour, block: bytes) -> Iterator[bytes]:
        if behaviour.mode == "drip_body":
            yield from (block[i : i + 1] for i in range(len(block)))
        else:
            yield block

    def _drip(self, content: bytes, interval: float) -> None:
        self.close_connection = True
        for i in range(len(content)):
            self.wfile.write(content[i : i + 1])
            self.wfile.flush()
            if self.owner.closing.wait(interval):
                return

    def _hang(self) -> None:
        self.close_connection = True
        while not self.owner.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.1)
            if readable and not socket.socket.recv(self.connection, 1, socket.MSG_PEEK):
                self.owner.left += 1
                return

    def _fail(self, behaviour: Behaviour, kind: shapes.Kind) -> None:
        body = behaviour.body
        if body is None:
            body = shapes.error(kind, behaviour.status, behaviour.message)
        self._answer(behaviour.status, body, headers=behaviour.headers)

    def _answer(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._head(status, content_type, len(body), headers or {})
        self.wfile.write(body)

    def _head(
        self, status: int, content_type: str, length: int | None, headers: dict[str, str]
    ) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _kind(path: str) -> shapes.Kind:
    if path.endswith("/chat/completions"):
        return "openai"
    if path.endswith("/messages"):
        return "anthropic"
    return "google" if "/models/" in path else "cohere"


def _prompt(kind: shapes.Kind, body: dict[str, Any]) -> str:
    """The text of the last message."""
    if kind == "google":
        return " ".join(part.get("text", "") for part in body["contents"][-1]["parts"])
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds to the first byte")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds between events")
    parser.add_argument("--jitter", type=float, default=0.0, help="random part of the latency")
    parser.add_argument("--failure-rate", type=float, default=0.0, help="share answered with 500")
    parser.add_argument("--mode", default="ok", help="see Behaviour")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--log", type=Path, help="file that gets each prompt answered in full")
    given = parser.parse_args()
    behaviour = Behaviour(
        mode=given.mode,
        latency=given.latency,
        interval=given.interval,
        jitter=given.jitter,
        failure_rate=given.failure_rate,
        status=given.status,
    )
    fake = FakeProvider(given.port, behaviour, log=given.log)
    print(f"serving {fake.url}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        fake.serve()
    fake.closing.set()


if __name__ == "__main__":
    main()
