"""Ids and secrets of API clients. A secret is shown once; kept is only its scrypt hash."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading

# 16 MB and about 40 ms a hash (RFC 7914's parameters for interactive logins). The secrets are 256
# random bits, so the cost is a second wall; argon2's defaults would take 64 MB a hash from an API
# process that is held under 120 MB.
_N, _R, _P = 2**14, 8, 1
_MAX_MEMORY = 64 * 1024 * 1024
_SALT_BYTES = 16
_AT_ONCE = threading.BoundedSemaphore(2)  # so that a flood of logins cannot take all memory


def new_client_id() -> str:
    """A public name of an API client."""
    return f"client_{secrets.token_hex(8)}"


def new_secret() -> str:
    """256 random bits that can be found in a leak by their beginning."""
    return f"ifs_{secrets.token_urlsafe(32)}"


def hash_secret(secret: str) -> str:
    """A salted hash, with its parameters."""
    salt = secrets.token_bytes(_SALT_BYTES)
    parts = (salt, _scrypt(secret, salt, _N, _R, _P))
    return "$".join(("scrypt", f"{_N},{_R},{_P}", *(base64.b64encode(p).decode() for p in parts)))


def secret_matches(secret: str, kept: str | None) -> bool:
    """Whether `secret` is the one that was hashed. Takes as long when there is none to compare
    with, so that the time does not tell which clients exist.
    """
    kind, parameters, salt, expected = (kept or _nobody()).split("$")
    if kind != "scrypt":
        raise ValueError("a hash of an unknown kind")
    n, r, p = map(int, parameters.split(","))
    found = _scrypt(secret, base64.b64decode(salt), n, r, p)
    return hmac.compare_digest(found, base64.b64decode(expected)) and kept is not None


def _scrypt(secret: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    with _AT_ONCE:
        return hashlib.scrypt(secret.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY)


def _nobody() -> str:
    return f"scrypt${_N},{_R},{_P}${base64.b64encode(bytes(_SALT_BYTES)).decode()}$AA=="
