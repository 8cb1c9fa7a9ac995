"""Where webhooks may go: the rule at registration, and again where the connection is made."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from requests_hardened.ip_filter import EXTRA_BLOCKED_NET_RANGES

from tasks.egress import AllowList, ForbiddenURLError, check_url, is_public
from tests.webhooks.receiver import Answer, Receiver
from workers.webhooks.egress import EXCERPT_CHARS, WebhookSender

NOBODY = AllowList()

PRIVATE = (
    "0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.254", "127.0.0.1",
    "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1",
    "100::1", "2001:db8::1", "2002:7f00:1::", "fc00::1", "fd12:3456::1", "fe80::1", "ff02::1",
    "fd00:ec2::254", "3fff::1", "5f00::1",
)  # fmt: skip
PUBLIC = ("1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8")
# Other spellings of 127.0.0.1 and 169.254.169.254 that name services and clients take for them.
SPELLINGS = (
    "2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "0177.0.0.1", "2852039166",
    "[::ffff:7f00:1]", "[::ffff:169.254.169.254]", "localhost",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenURLError, match="not public"):
        check_url(f"https://{host}/hook", NOBODY, resolve=False)


@pytest.mark.parametrize("network", EXTRA_BLOCKED_NET_RANGES, ids=str)
def test_what_the_library_refuses_is_refused(network: Any) -> None:
    assert not is_public(network[0])
    assert not is_public(network[-1])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    check_url(f"https://{host}:8443/hook?x=1", NOBODY, resolve=False)
    with pytest.raises(ForbiddenURLError, match="https"):
        check_url(f"http://{host}/", NOBODY, resolve=False)


@pytest.mark.parametrize("host", SPELLINGS)
def test_other_spellings(host: str) -> None:
    with pytest.raises(ForbiddenURLError, match="not public"):
        check_url(f"https://{host}/", NOBODY, resolve=True)


@pytest.mark.parametrize(
    "url",
    [
        "", "example", "//example.com/", "ftp://1.1.1.1/", "file:///etc/passwd", "gopher://1.1.1.1",
        "https://", "https:///x", "https://1.1.1.1:0/", "https://1.1.1.1:99999/",
        "https://user@1.1.1.1/", "https://user:pw@1.1.1.1/", "https://1.1.1.1/ x",
        "https://1.1.1.1\\@10.0.0.1/", "https://1.1.1.1/\r\nX: y", "https://[::1",
        "https://1.1.1.1/" + "x" * 3000,
    ],
)  # fmt: skip
def test_what_is_no_url_for_a_webhook(url: str) -> None:
    with pytest.raises(ForbiddenURLError):
        check_url(url, NOBODY, resolve=False)


def test_a_host_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", missing)
    with pytest.raises(ForbiddenURLError, match="cannot be found"):
        check_url("https://hooks.example/", NOBODY)
    check_url("https://hooks.example/", NOBODY, resolve=False)


def test_one_private_address_among_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, 1, 6, "", (address, 0)) for address in ("1.1.1.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(ForbiddenURLError, match="not public"):
        check_url("https://hooks.example/", NOBODY)
    check_url("https://hooks.example/", AllowList(["hooks.example"]))
    check_url("https://hooks.example/", AllowList(["10.0.0.0/8"]))


def test_the_allow_list() -> None:
    allowed = AllowList(["10.1.0.0/16", "127.0.0.1", "Hooks.Internal."])
    check_url("http://10.1.2.3:8080/", allowed)
    check_url("http://127.0.0.1/", allowed)
    for url in ("http://10.2.0.1/", "https://127.0.0.2/", "https://[::1]/"):
        with pytest.raises(ForbiddenURLError):
            check_url(url, allowed)
    assert allowed.admits("hooks.internal", ipaddress.ip_address("10.9.9.9"))


@pytest.fixture
def receiver_at_home() -> Any:
    with Receiver() as running:
        yield running


def test_a_flipping_name_gains_nothing(
    monkeypatch: pytest.MonkeyPatch, receiver_at_home: Receiver
) -> None:
    """Public when it is registered, loopback when the connection is made."""
    answers = [["1.1.1.1"], ["127.0.0.1"], ["127.0.0.1"]]

    def flip(_host: object, port: Any, *_: Any, **__: Any) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port or 0)))
            for address in answers.pop(0)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", flip)
    url = f"https://hooks.example:{receiver_at_home.port}/x"
    check_url(url, NOBODY)
    posted = WebhookSender(NOBODY, 5).post(url, b"{}", {})
    assert (posted.status, posted.error) == (None, "the address is not public")
    posted = WebhookSender(NOBODY, 5).post(url.replace("https", "http"), b"{}", {})
    assert posted.error == "the address is not public"
    assert receiver_at_home.got == []


def test_the_address_that_was_judged_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch, receiver_at_home: Receiver
) -> None:
    """The name is asked for once; a second answer would lead elsewhere."""
    asked: list[object] = []
    real = socket.getaddrinfo

    def once(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        if host == "hooks.internal":
            return real("127.0.0.1", port, *rest, **named)
        return real(host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    sender = WebhookSender(AllowList(["hooks.internal"]), 5)
    posted = sender.post(f"http://hooks.internal:{receiver_at_home.port}/x", b"{}", {"A": "b"})
    assert posted.status == 204
    assert asked.count("hooks.internal") == 1
    assert receiver_at_home.got[0].headers["host"] == f"hooks.internal:{receiver_at_home.port}"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1", "2130706433", "localhost"])
def test_the_sender_refuses_by_itself(receiver_at_home: Receiver, address: str) -> None:
    posted = WebhookSender(NOBODY, 5).post(f"http://{address}:{receiver_at_home.port}/x", b"{}", {})
    assert (posted.status, posted.error) == (None, "the address is not public")
    assert receiver_at_home.got == []


def test_the_environment_is_not_read(
    monkeypatch: pytest.MonkeyPatch, receiver_at_home: Receiver, tmp_path: Any
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
    sender = WebhookSender(AllowList(["127.0.0.1"]), 5)
    assert sender.post(f"{receiver_at_home.url}/x", b"{}", {}).status == 204
    assert "authorization" not in receiver_at_home.got[0].headers


def test_answers_are_bounded_in_size_and_time(receiver_at_home: Receiver) -> None:
    sender = WebhookSender(AllowList(["127.0.0.1"]), 0.6)
    receiver_at_home.answers = {
        "/large": Answer(200, body=b"y" * 5_000_000, headers={"Set-Cookie": "a=b"}),
        "/hang": Answer(hang=True),
        "/drip": Answer(drip=True),
        "/moved": Answer(307, {"Location": "/large"}),
    }
    large = sender.post(f"{receiver_at_home.url}/large", b"{}", {})
    assert (large.status, len(large.excerpt)) == (200, EXCERPT_CHARS)
    for path in ("/hang", "/drip"):
        assert sender.post(receiver_at_home.url + path, b"{}", {}).error == "timeout"
    assert sender.post(f"{receiver_at_home.url}/moved", b"{}", {}).status == 307
    assert "cookie" not in receiver_at_home.got[-1].headers
    refused = sender.post("http://127.0.0.1:1/", b"{}", {})
    assert (refused.status, refused.error) == (None, "ConnectionError")
