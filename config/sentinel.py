"""The address of a Redis that stands behind Sentinels:

    sentinel://[user:password@]host[:port],host[:port].../primary[/database][?sentinel_password=...]

User and password are those of the Redis servers; the Sentinels may have a password of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit

SCHEME = "sentinel"
DEFAULT_PORT = 26379


@dataclass(frozen=True)
class SentinelAddress:
    """Where to ask which server is the primary. Passwords are left out of the repr."""

    nodes: tuple[tuple[str, int], ...]
    primary: str  # the name under which the Sentinels watch it
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def sentinel_options(self) -> dict[str, str]:
        """What the connections to the Sentinels themselves need."""
        return {"password": self.sentinel_password} if self.sentinel_password else {}

    def kombu_url(self) -> str:
        """The address as kombu's Sentinel transport takes it; the primary's name goes into the
        transport options.
        """
        login = ""
        if self.password:
            login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        return ";".join(
            f"{SCHEME}://{login}{host}:{port}/{self.database}" for host, port in self.nodes
        )


def is_sentinel(url: str) -> bool:
    """Whether the address is one of Sentinels."""
    return url.startswith(f"{SCHEME}://")


def parse_sentinel_url(url: str) -> SentinelAddress:
    """Raises ValueError, in words that do not repeat the address: it may hold a password."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    primary, _, database = parts.path.strip("/").partition("/")
    query = parse_qs(parts.query)
    if not hosts or not primary:
        raise ValueError(f"must be {SCHEME}://host:port,host:port/primary/database")
    if unknown := set(query) - {"sentinel_password"}:
        raise ValueError(f"has the unknown option {min(unknown)!r}")
    try:
        number = int(database or 0)
        nodes = tuple(_node(host) for host in hosts.split(","))
    except ValueError:
        raise ValueError("has a port or database that is not a number") from None
    return SentinelAddress(
        nodes=nodes,
        primary=primary,
        database=number,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_password=query.get("sentinel_password", [None])[0],
    )


def _node(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    return (host, int(port)) if host else (port, DEFAULT_PORT)
