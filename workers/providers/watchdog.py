"""Ends calls that are past their deadline or were cancelled, even while they wait for a byte.

A socket timeout bounds the silence between two bytes, not a whole call: a server that drips one
byte of its headers every few seconds is never silent for long. One daemon thread a process looks
at all calls under way and shuts the sockets of those that must end; the blocked reader then sees
the end of the connection and asks `Watch.reason` why.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Literal

from workers.providers.base import CallLimits

logger = logging.getLogger(__name__)

Reason = Literal["deadline", "cancelled"]

LOOK_SECONDS = 0.1  # a cancelled or overdue call ends within this time

_current = threading.local()


class Watch:
    """One call under way, and why it was ended, if it was."""

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self.reason: Reason | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def attach(self, connection: socket.socket | None) -> None:
        """Name the socket to shut; a call that must end already loses it at once."""
        with self._lock:
            self._socket = connection
        if self.reason is not None:
            self.end()

    def check(self) -> bool:
        """Whether the call must end, noting the reason. Asks `limits.cancelled()`."""
        if self.reason is None:
            if time.monotonic() >= self.limits.deadline:
                self.reason = "deadline"
            elif self.limits.cancelled():
                self.reason = "cancelled"
        return self.reason is not None

    def end(self) -> None:
        """Shut the socket down in both directions; the reader wakes with an end of file."""
        with self._lock:
            if self._socket is not None:
                # The base class's shutdown: SSLSocket's own would pull the TLS state from under a
                # reader in another thread. A socket that is closed already needs nothing.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def let_go(self) -> None:
        """The call is over: its connection belongs to the pool, and maybe to another call."""
        with self._lock:
            self._socket = None


class Watchdog:
    """Looks at all watched calls ten times a second while there are any."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, limits: CallLimits) -> Iterator[Watch]:
        """Watch the call made inside the block by this thread."""
        watch = Watch(limits)
        with self._changed:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="provider-watchdog", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        _current.watch = watch
        try:
            yield watch
        finally:
            _current.watch = None
            watch.let_go()
            with self._changed:
                self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._watches:
                    self._changed.wait()
                watches = list(self._watches)
            # Not under the lock: `cancelled` may take its time, and calls begin meanwhile.
            for watch in watches:
                try:
                    if watch.check():
                        watch.end()
                except Exception:
                    # It is the caller's; its fault must not end everyone's deadline.
                    logger.exception(
                        "cancellation check failed", extra={"action": "watchdog_check_failed"}
                    )
            time.sleep(LOOK_SECONDS)


def attach_current(connection: socket.socket | None) -> None:
    """Attach a socket to the call that this thread has under way, if there is one."""
    watch: Watch | None = getattr(_current, "watch", None)
    if watch is not None:
        watch.attach(connection)
