"""Where webhooks may be sent: public addresses, and internal ones that the operator has named.

A URL is checked when it is registered. The address that counts is the one that a connection is
made to, so the same rule is asked again there (`workers/webhooks/egress.py`).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_URL_CHARS = 2_048

# Beside what Python knows as not global. A test compares them with requests-hardened, which the
# API does not load: it would bring `requests` with it.
_INDIRECT = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # carrier-grade NAT, used inside clouds
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "64:ff9b::/96",  # NAT64: leads to any IPv4 address
        "64:ff9b:1::/48",  # local NAT64
        "2001:20::/28",  # ORCHIDv2
        "2002::/16",  # 6to4: leads to any IPv4 address
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
)


class ForbiddenURLError(ValueError):
    """Webhooks are not sent to this URL."""


class AllowList:
    """Receivers inside the network that may be used although their addresses are not public."""

    def __init__(self, entries: Sequence[str] = ()) -> None:
        """`entries`: host names, addresses, or networks in CIDR form."""
        self._hosts: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._hosts.add(entry.lower().rstrip("."))

    def admits(self, host: str, address: Address) -> bool:
        """Whether `host`, which is at `address`, was named."""
        if host.lower().rstrip(".") in self._hosts:
            return True
        return any(address in network for network in self._networks)


def is_public(address: Address) -> bool:
    """Whether the address is one of the public Internet, and no way round to another one."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _INDIRECT)
    )


def check_url(url: str, allowed: AllowList, *, resolve: bool = True) -> None:
    """Raises ForbiddenURLError, which says why.

    `resolve`: ask the name service. Without it only addresses are judged, in any spelling.
    """
    if len(url) > MAX_URL_CHARS or not url.isprintable() or " " in url or "\\" in url:
        raise ForbiddenURLError("is not a URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ForbiddenURLError("is not a URL") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ForbiddenURLError("must be an https URL")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenURLError("must not contain a user or password")
    addresses = _addresses(host, resolve)
    if resolve and not addresses:
        raise ForbiddenURLError("names a host that cannot be found")
    if any(not is_public(one) and not allowed.admits(host, one) for one in addresses):
        raise ForbiddenURLError("leads to an address that is not public")
    if parts.scheme == "http" and not (
        addresses and all(allowed.admits(host, one) for one in addresses)
    ):
        raise ForbiddenURLError("must be an https URL")


def _addresses(host: str, resolve: bool) -> list[Address]:
    """What the host stands for. 127.1, 0x7f000001 and the like are addresses too."""
    flags = 0 if resolve else socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
