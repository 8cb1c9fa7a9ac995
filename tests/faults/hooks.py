"""A webhook receiver that can be killed: what it took stands in a file.

    python -m tests.faults.hooks --port 9200 --log received.jsonl

Each event that was answered with 204 is a line: its webhook-id, its type, and of whom it tells.
"""

from __future__ import annotations

import argparse
import json
import socketserver
from http.server import BaseHTTPRequestHandler
from pathlib import Path


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    given = parser.parse_args()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            line = [self.headers["webhook-id"], event["type"], event["data"]["id"]]
            with given.log.open("ab", buffering=0) as log:  # one write: never torn
                log.write(json.dumps(line).encode() + b"\n")
            self.send_response(204)
            self.end_headers()

    with _Server(("127.0.0.1", given.port), Handler) as server:
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
