"""Housekeeping that has piled up is done once.

Ticks wait in the queue while no system worker runs. An expiry of the messages would drop them,
but by comparing the clocks of two machines: a system worker whose clock is ahead would drop all.
"""

from __future__ import annotations

import threading
import time

LEAST_SECONDS = 0.2  # between two runs of one kind in a process

_lock = threading.Lock()
_begun: dict[str, float] = {}


def due(kind: str) -> bool:
    """Whether no run of this kind has begun in this process just now; the caller begins one."""
    now = time.monotonic()
    with _lock:
        if now - _begun.get(kind, -LEAST_SECONDS) < LEAST_SECONDS:
            return False
        _begun[kind] = now
        return True
