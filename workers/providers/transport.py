"""HTTP to one provider: one pooled session, bounded in time and size, errors in our own terms."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from workers.providers.base import CallLimits
from workers.providers.errors import (
    Cancelled,
    InvalidResponse,
    ProviderError,
    ProviderTimeout,
    ProviderUnreachable,
)
from workers.providers.watchdog import Watch, Watchdog, attach_current

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024
POOL_CONNECTIONS = 256  # more than any worker has threads

# All that requests, urllib3, http.client and the socket are known to raise on broken input;
# ValueError and AttributeError come from http.client when its socket is shut under it.
IO_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
    AttributeError,
)
_TIMEOUTS = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)
_UNREADABLE = (requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError)


class _WatchedHTTP(HTTPConnection):
    def getresponse(self) -> Any:
        attach_current(self.sock)
        return super().getresponse()


class _WatchedHTTPS(HTTPSConnection):
    def getresponse(self) -> Any:
        attach_current(self.sock)
        return super().getresponse()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPS


WATCHED_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class _WatchedAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = WATCHED_POOLS


@dataclass
class Reply:
    """A provider's answer whose body is still to be read."""

    status: int
    headers: Mapping[str, str]  # names are case-insensitive
    _response: requests.Response
    _watch: Watch
    complete: bool = False  # the body was read to its end

    def chunks(self, limit: int = MAX_BODY_BYTES) -> Iterator[bytes]:
        """The body as it arrives. Raises ProviderError: cut, late, cancelled or over `limit`."""
        received = 0
        while True:
            try:
                # read1 hands over what is there; read would wait until a chunk is full.
                chunk = self._response.raw.read1(CHUNK_BYTES, decode_content=True)
            except IO_ERRORS as error:
                raise translate(error, self._watch) from error
            if self._watch.check():
                raise _ended(self._watch)
            if not chunk:
                break
            received += len(chunk)
            if received > limit:
                raise InvalidResponse(f"the answer is larger than {limit} bytes")
            yield chunk
        if self._is_short(received):
            raise ProviderUnreachable("the connection was cut in the middle of the answer")
        self.complete = True

    def _is_short(self, received: int) -> bool:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or "content-encoding" in self.headers:
            return False
        return received < int(length)

    def body(self, limit: int = MAX_BODY_BYTES) -> bytes:
        """The whole body. Raises as `chunks` does."""
        return b"".join(self.chunks(limit))

    def error_body(self) -> bytes:
        """As much of an error's body as could be read; never raises for what the network does."""
        read: list[bytes] = []
        try:
            read.extend(self.chunks(MAX_ERROR_BYTES))
        except Cancelled:
            raise
        except ProviderError:
            pass  # the status alone says enough; what was read is used
        return b"".join(read)


class Transport:
    """One provider's pooled session. Thread-safe for the use made of it here."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._session = requests.Session()
        self._session.trust_env = False  # no proxies, and no ~/.netrc sent along
        # A cookie would be state shared between tenants.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _WatchedAdapter(pool_connections=4, pool_maxsize=POOL_CONNECTIONS, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._prepared: dict[tuple[str, str], requests.PreparedRequest] = {}

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> requests.PreparedRequest:
        """A request; what is the same for all to one URL is prepared once, as preparing is nearly
        half of `Session.request`. URLs are as many as the catalogue has paths.
        """
        known = self._prepared.get((method, url))
        if known is None:
            blank = requests.Request(method, url, headers={"Accept-Encoding": "identity"})
            known = self._prepared[method, url] = self._session.prepare_request(blank)
        request = known.copy()
        request.headers.update(headers)
        request.prepare_body(body, None)
        return request

    @contextlib.contextmanager
    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        limits: CallLimits,
    ) -> Iterator[Reply]:
        """Send one request and hold its answer open. Raises ProviderError for what fails on the
        way; redirects are not followed, so that a key never travels to another host.
        """
        with self._watchdog.watch(limits) as watch:
            if watch.check():
                raise _ended(watch)
            remaining = max(0.01, limits.deadline - time.monotonic())
            try:
                response = self._session.send(
                    self._request(method, url, headers, body),
                    timeout=(
                        min(limits.connect_seconds, remaining),
                        min(limits.first_byte_seconds, remaining),
                    ),
                    stream=True,
                    allow_redirects=False,
                    proxies={},
                )
            except IO_ERRORS as error:
                raise translate(error, watch) from error
            reply = Reply(response.status_code, response.headers, response, watch)
            try:
                yield reply
            finally:
                if reply.complete:
                    response.raw.release_conn()
                else:
                    response.close()

    def close(self) -> None:
        """Close all idle connections."""
        self._session.close()


def translate(error: Exception, watch: Watch) -> ProviderError:
    """What an error of the HTTP stack means to a caller."""
    if watch.check():
        return _ended(watch)
    if isinstance(error, _TIMEOUTS):
        return ProviderTimeout(f"no byte came for {watch.limits.first_byte_seconds:g} s")
    if isinstance(error, _UNREADABLE):
        return InvalidResponse("the answer's content encoding is broken")
    # Neither the URL nor the headers go into the message: a base URL may hold credentials.
    return ProviderUnreachable(f"the connection failed ({type(error).__name__})")


def _ended(watch: Watch) -> ProviderError:
    if watch.reason == "cancelled":
        return Cancelled()
    return ProviderTimeout("the call's deadline passed")
