"""Tokens whose signature was checked already, so that a token is verified once and not per call.

Only what cannot change is kept: the signature and the claims. Whether a token was revoked is asked
for on every request, and one that has expired is verified anew, so that it fails in its own words.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

Owner = TypeVar("Owner")
MOST_TOKENS = 4096  # of a process; about 1 kB each


class VerifiedTokens(Generic[Owner]):
    """The owners and claims of the tokens used last, by a hash of the token. Thread-safe."""

    def __init__(self, most: int = MOST_TOKENS) -> None:
        self._most = most
        self._known: OrderedDict[bytes, tuple[Owner, Mapping[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, credentials: str) -> tuple[Owner, Mapping[str, Any]] | None:
        """Whose token this is, and its claims, if it was verified and has not expired."""
        key = _name(credentials)
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return None
            if known[1]["exp"] <= time.time():
                del self._known[key]
                return None
            self._known.move_to_end(key)
            return known

    def keep(self, credentials: str, owner: Owner, claims: Mapping[str, Any]) -> None:
        """Remember a token that was verified just now. One without an end is not kept."""
        if "exp" not in claims:
            return
        with self._lock:
            self._known[_name(credentials)] = owner, claims
            if len(self._known) > self._most:
                self._known.popitem(last=False)


def _name(credentials: str) -> bytes:
    """A hash, so that no token lies in memory longer than its request."""
    return hashlib.sha256(credentials.encode("utf-8", "surrogatepass")).digest()
