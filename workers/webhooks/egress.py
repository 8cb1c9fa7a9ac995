"""The HTTP session of webhook deliveries: it reaches public addresses, and nothing else.

requests-hardened resolves the host itself, refuses addresses that are not public and connects to
the very address that it has judged: a name that resolves to something else the next time gains
nothing. Redirects are not followed, the environment (proxies, ~/.netrc) is not read, and a call
is over when its time is, even if the receiver sends a byte now and then.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from requests_hardened import Config, HTTPSession
from requests_hardened.ip_filter import InvalidIPAddress
from requests_hardened.ip_filter_adapter import IPFilterAdapter

from tasks.egress import AllowList, is_public
from workers.providers.base import CallLimits
from workers.providers.transport import IO_ERRORS, WATCHED_POOLS
from workers.providers.watchdog import Watchdog

MAX_READ_BYTES = 16 * 1024  # of an answer; the rest is not looked at
EXCERPT_CHARS = 1_000
CONNECT_SECONDS = 5.0
USER_AGENT = "InferenceFlow-Webhooks/1"


@dataclass(frozen=True)
class Posted:
    """What came of sending a message."""

    status: int | None  # of the answer; None if there was none
    error: str  # why there was none, or ""
    excerpt: str  # the beginning of the answer
    retry_after: str  # the header, or ""
    latency_ms: int


class GuardedAdapter(IPFilterAdapter):  # type: ignore[misc]  # the library is not typed
    """Connects to public addresses and to those on the allow-list."""

    def __init__(self, allowed: AllowList, *, https: bool) -> None:
        self._allowed = allowed
        self._https = https
        super().__init__(is_https_proto=https)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """With connections whose deadline is watched."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = WATCHED_POOLS

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        cert: str | tuple[str, str] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where to connect to: the address that was judged, in place of the name."""
        try:
            host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        except InvalidIPAddress as refused:
            whole: Any = HTTPAdapter.build_connection_pool_key_attributes(
                self, request, verify, cert
            )
            host, pool = whole
            name, address = str(host["host"]), ipaddress.ip_address(str(refused.args[0]))
            if not self._allowed.admits(name, address):
                raise
            if self._https:
                pool |= {"assert_hostname": name, "server_hostname": name}
            host["host"] = f"[{address}]" if address.version == 6 else str(address)
            return host, pool
        judged = ipaddress.ip_address(str(host["host"]).strip("[]"))
        if not is_public(judged):  # what the library lets through and we do not
            raise InvalidIPAddress(judged)
        return host, pool


class WebhookSender:
    """Posts messages. Thread-safe."""

    def __init__(self, allowed: AllowList, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._watchdog = Watchdog()
        self._session = HTTPSession(
            Config(
                ip_filter_enable=True,
                ip_filter_allow_loopback_ips=False,
                never_redirect=True,
                default_timeout=(CONNECT_SECONDS, timeout_seconds),
                user_agent_override=USER_AGENT,
            )
        )
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.mount("https://", GuardedAdapter(allowed, https=True))
        self._session.mount("http://", GuardedAdapter(allowed, https=False))

    def post(self, url: str, body: bytes, headers: dict[str, str]) -> Posted:
        """Send one message and read the beginning of the answer."""
        started = time.monotonic()
        limits = CallLimits(
            deadline=started + self._timeout,
            connect_seconds=CONNECT_SECONDS,
            first_byte_seconds=self._timeout,
        )

        def posted(
            status: int | None, error: str = "", excerpt: str = "", retry_after: str = ""
        ) -> Posted:
            took = round((time.monotonic() - started) * 1000)
            return Posted(status, error, excerpt, retry_after, took)

        with self._watchdog.watch(limits) as watch:
            try:
                with self._session.post(
                    url,
                    data=body,
                    headers={**headers, "Connection": "close"},
                    stream=True,
                    timeout=(CONNECT_SECONDS, self._timeout),
                ) as answer:
                    content = cast(bytes, answer.raw.read(MAX_READ_BYTES, decode_content=False))
                    excerpt = content[: EXCERPT_CHARS * 4].decode(errors="replace")[:EXCERPT_CHARS]
                    return posted(
                        answer.status_code, "", excerpt, answer.headers.get("Retry-After", "")
                    )
            except InvalidIPAddress:
                return posted(None, "the address is not public")
            except IO_ERRORS as error:
                if watch.reason is not None or isinstance(error, requests.Timeout):
                    return posted(None, "timeout")
                # The type alone: the text may name internal addresses.
                return posted(None, type(error).__name__)
