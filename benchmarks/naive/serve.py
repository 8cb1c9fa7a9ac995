"""`python -m benchmarks.naive.serve PORT THREADS`: the reference under granian."""

from __future__ import annotations

import sys

from granian.constants import Interfaces
from granian.server import Server

if __name__ == "__main__":
    threads = int(sys.argv[2])
    Server(
        "benchmarks.naive.app:app",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=threads,
        backpressure=threads,
        log_access=False,
    ).serve()
