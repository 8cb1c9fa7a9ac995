"""A webhook receiver: a real HTTP server that keeps what it gets and answers as it is told."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


@dataclass
class Answer:
    """How to answer a path: with a status, after a while, or byte by byte without an end."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hang: bool = False
    drip: bool = False


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class Receiver:
    """`url` is its base; `got` what came, in order; `answers` how to answer each path."""

    def __init__(self) -> None:
        self.got: list[Received] = []
        self.answers: dict[str, Answer | Callable[[int], Answer]] = {}
        self.most_at_once: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self.closing = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = receiver.take(Received(self.path, headers, body))
                try:
                    with contextlib.suppress(OSError):
                        self._reply(answer)
                finally:
                    receiver.leave(self.path)

            def _reply(self, answer: Answer) -> None:
                self.close_connection = True
                if answer.hang:
                    receiver.closing.wait()
                    return
                if answer.drip:
                    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        if receiver.closing.wait(0.2):
                            return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def take(self, received: Received) -> Answer:
        with self._lock:
            self.got.append(received)
            now = self._now[received.path] = self._now.get(received.path, 0) + 1
            self.most_at_once[received.path] = max(self.most_at_once.get(received.path, 0), now)
            answer = self.answers.get(received.path, Answer())
            count = len(self.at(received.path))
        return answer(count) if callable(answer) else answer

    def leave(self, path: str) -> None:
        with self._lock:
            self._now[path] -= 1

    def at(self, path: str) -> list[Received]:
        return [one for one in self.got if one.path == path]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
