"""Hearing that the process is told to end, under a server that keeps the signals to itself."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

ENDING = {signal.SIGTERM, signal.SIGINT}


def when_leaving(act: Callable[[], None]) -> None:
    """Call `act` in a thread as soon as SIGTERM or SIGINT comes. From the main thread only.

    The server sets its own handlers after the application was made, so a handler of ours would
    be replaced. Python also writes the number of every handled signal to the wake-up descriptor.
    """
    hears, tells = socket.socketpair()
    tells.setblocking(False)  # as Python demands
    signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        with hears, tells:  # the descriptor stays in use until the process is gone
            while numbers := hears.recv(64):
                if ENDING.intersection(numbers):
                    act()

    threading.Thread(target=listen, name="leaving", daemon=True).start()
