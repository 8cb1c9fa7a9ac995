"""A proxy that can freeze: connections stay open and are accepted, but no byte passes.

It can also forget the connections that it has, as a router does that was started again: both
ends believe that they are connected.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self


class FreezingProxy:
    """Stands before 127.0.0.1:`target`. As a context manager it serves until the block ends."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._thawed = threading.Event()
        self._thawed.set()
        self._closing = threading.Event()
        self._forgotten = 0  # connections up to this one
        self._made = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def freeze(self) -> None:
        """From now on nothing passes."""
        self._thawed.clear()

    def thaw(self) -> None:
        """What was held back passes, and everything after it."""
        self._thawed.set()

    def forget(self) -> None:
        """Nothing more passes through the connections that there are; new ones are as before."""
        self._forgotten = self._made

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True, name="freezing-proxy").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thawed.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = self._listener.accept()
                self._made += 1
                arguments = (near, self._made)
                threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, near: socket.socket, number: int) -> None:
        # A server that is gone or a side that hangs up ends the connection, as without us.
        with (
            near,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as far,
        ):
            other = {near: far, far: near}
            while not self._closing.is_set():
                if number <= self._forgotten:
                    self._closing.wait()
                    return
                for ready in select.select([near, far], [], [], 0.1)[0]:
                    self._thawed.wait()
                    data = ready.recv(65_536)
                    if not data:
                        return
                    other[ready].sendall(data)
