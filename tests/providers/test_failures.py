"""Every way in which a provider fails becomes the right error, in time."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.catalogue import Catalogue, ProviderConfig
from tasks.inference import GenerationParams
from tests.fakes import shapes
from tests.fakes.provider import FakeProvider
from tests.providers.conftest import KEY, Ask
from tests.redis_server import free_port
from workers.providers import errors as e
from workers.providers.base import CallLimits
from workers.providers.failures import error_from, in_stream_error
from workers.providers.registry import build_providers
from workers.providers.retry_after import RETRY_INFO, duration, headroom, retry_after

MODES = pytest.mark.parametrize("on_delta", [None, lambda _: None], ids=["whole", "stream"])


@MODES
@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "messages: at least one message is required", e.BadRequest),
        (400, "This model's maximum context length is 8192 tokens", e.ContextTooLong),
        (400, "prompt is too long: 250000 tokens > 200000 maximum", e.ContextTooLong),
        (400, "The input token count (9) exceeds the maximum number of tokens allowed (8)",
         e.ContextTooLong),
        (400, "too many tokens: size limit exceeded by 10 tokens", e.ContextTooLong),
        (400, "API key not valid. Please pass a valid API key.", e.AuthenticationFailed),
        (400, "Your credit balance is too low to access the Anthropic API",
         e.AuthenticationFailed),
        (400, "The response was filtered: content_filter", e.ContentFiltered),
        (400, "The model `gpt-9` does not exist", e.ModelNotFound),
        (401, "Incorrect API key provided", e.AuthenticationFailed),
        (402, "Payment required", e.AuthenticationFailed),
        (403, "Your API key does not have permission", e.AuthenticationFailed),
        (404, "model: claude-9", e.ModelNotFound),
        (408, "timed out", e.Overloaded),
        (409, "conflict", e.Overloaded),
        (413, "Request exceeds the maximum size", e.BadRequest),
        (422, "invalid", e.BadRequest),
        (429, "Rate limit reached", e.RateLimited),
        (500, "internal", e.Overloaded),
        (503, "unavailable", e.Overloaded),
        (529, "Overloaded", e.Overloaded),
        (302, "elsewhere", e.InvalidResponse),
    ],
)  # fmt: skip
def test_each_status_has_its_error(
    ask: Ask,
    fake: FakeProvider,
    name: str,
    status: int,
    message: str,
    expected: type[e.ProviderError],
    on_delta: None,
) -> None:
    fake.behave(mode="status", status=status, message=message)
    with pytest.raises(expected) as caught:
        ask(on_delta=on_delta)
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.provider) == (status, name)
    assert message[:20] in str(caught.value)


def test_an_error_that_echoes_the_key_does_not_pass_it_on(ask: Ask, fake: FakeProvider) -> None:
    fake.behave(mode="status", status=401, message=f"bad key {KEY} given")
    with pytest.raises(e.AuthenticationFailed) as caught:
        ask()
    assert KEY not in f"{caught.value!s}{caught.value!r}{caught.value.__dict__}"


def test_an_account_without_credit_is_not_a_rate_limit() -> None:
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    assert isinstance(error_from(429, {}, body, None), e.AuthenticationFailed)


def test_a_proxys_html_page_is_not_repeated() -> None:
    assert str(error_from(502, {}, b"<html>nginx</html>", None)) == "HTTP 502"


def test_a_long_message_is_shortened() -> None:
    body = json.dumps({"error": {"message": "x" * 9_000}}).encode()
    assert len(str(error_from(400, {}, body, None))) < 400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m3s"}, 63),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "9s"}, None),
        ({"retry-after": "-4"}, 0),
        ({"retry-after": "9e99"}, 86_400),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_forms(
    ask: Ask, fake: FakeProvider, headers: dict[str, str], seconds: float | None
) -> None:
    fake.behave(mode="status", status=429, headers=headers)
    with pytest.raises(e.RateLimited) as caught:
        ask()
    assert caught.value.retry_after == (None if seconds is None else pytest.approx(seconds))


def test_retry_after_as_dates() -> None:
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after({"retry-after": format_datetime(later, usegmt=True)}) == pytest.approx(
        30, abs=3
    )
    reset = {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": later.isoformat().replace("+00:00", "Z"),
    }
    assert retry_after(reset) == pytest.approx(30, abs=3)
    assert retry_after({"retry-after": "Mon, 99 Foo 2099 00:00:00 GMT"}) is None
    reset["anthropic-ratelimit-requests-reset"] = "whenever"
    assert retry_after(reset) is None


@pytest.mark.parametrize("name", ["google"], indirect=True)
def test_googles_retry_info(ask: Ask, fake: FakeProvider) -> None:
    body = json.loads(shapes.error("google", 429, "quota"))
    body["error"]["details"] = [
        {"@type": "type.googleapis.com/google.rpc.Help"},
        {"@type": RETRY_INFO, "retryDelay": "38.5s"},
    ]
    fake.behave(mode="status", status=429, body=json.dumps([body]).encode())
    with pytest.raises(e.RateLimited) as caught:
        ask()
    assert caught.value.retry_after == 38.5


@pytest.mark.parametrize("details", [{}, [{"@type": RETRY_INFO}], [{"@type": RETRY_INFO,
                                     "retryDelay": "x"}], [1]])  # fmt: skip
def test_retry_info_that_says_nothing(details: object) -> None:
    assert retry_after({}, details) is None


def test_durations() -> None:
    assert duration("1h2m3s") == 3723
    assert [duration(text) for text in ("", "5", "1s x", "s")] == [None] * 4


def test_headroom_after_an_answer() -> None:
    room = headroom(
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "20",
            "x-ratelimit-remaining-tokens": "900",
        }
    )
    assert (room.remaining_requests, room.remaining_tokens, room.reset_seconds) == (0, 900, 20)
    assert room.exhausted
    assert not headroom({}).exhausted


@MODES
def test_a_server_that_never_answers_is_left_at_the_silence_bound(
    ask: Ask, fake: FakeProvider, on_delta: None
) -> None:
    fake.behave(mode="hang")
    with pytest.raises(e.ProviderTimeout, match=r"no byte came for 0\.2 s"):
        ask(first_byte=0.2, on_delta=on_delta)


@pytest.mark.parametrize("mode", ["drip_headers", "drip_body", "hang"])
@pytest.mark.parametrize("name", ["openai"], indirect=True)
@MODES
def test_the_deadline_holds_even_against_dripping_bytes(
    ask: Ask, fake: FakeProvider, mode: str, on_delta: None
) -> None:
    fake.behave(mode=mode, interval=0.03, text="word " * 200)
    with pytest.raises(e.ProviderTimeout, match="deadline"):
        ask(seconds=0.5, on_delta=on_delta)


@pytest.mark.parametrize("mode", ["hang", "drip_body"])
@pytest.mark.parametrize("name", ["anthropic"], indirect=True)
@MODES
def test_a_cancelled_call_ends_though_the_server_is_silent(
    ask: Ask, fake: FakeProvider, mode: str, on_delta: None
) -> None:
    fake.behave(mode=mode, interval=0.03, text="word " * 200)
    given_up = threading.Event()

    def cancel_once_under_way() -> None:
        while not fake.count:
            given_up.wait(0.01)
        given_up.set()

    threading.Thread(target=cancel_once_under_way, daemon=True).start()
    with pytest.raises(e.Cancelled):
        ask(cancelled=given_up.is_set, on_delta=on_delta)


@pytest.mark.parametrize("name", ["openai"], indirect=True)
def test_a_cancellation_check_that_fails_does_not_undo_the_deadline(
    ask: Ask, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    fake.behave(mode="hang")
    main = threading.get_ident()

    def broken() -> bool:
        if threading.get_ident() != main:
            raise RuntimeError("no")
        return False

    with pytest.raises(e.ProviderTimeout):
        ask(seconds=0.4, cancelled=broken)
    assert "cancellation check failed" in caplog.text


def test_a_call_that_is_over_before_it_begins_is_not_made(ask: Ask, fake: FakeProvider) -> None:
    with pytest.raises(e.ProviderTimeout):
        ask(seconds=-1)
    with pytest.raises(e.Cancelled):
        ask(cancelled=lambda: True)
    assert fake.count == 0


def test_nobody_listens(catalogue: Catalogue) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    providers = build_providers(catalogue, {"openai": ProviderConfig(KEY, url)})
    with pytest.raises(e.ProviderUnreachable) as caught:
        providers["openai"].generate(
            "hi", "m", params=GenerationParams(), limits=CallLimits(time.monotonic() + 5)
        )
    assert url not in str(caught.value)
    assert not providers["openai"].get_provider_status().reachable
    assert set(providers) == {"openai", "local"}  # the others have no key


@MODES
def test_broken_json(ask: Ask, fake: FakeProvider, on_delta: None) -> None:
    fake.behave(mode="raw", body=b"data: {not json}\n\n" if on_delta else b"{not json}")
    with pytest.raises(e.InvalidResponse):
        ask(on_delta=on_delta)


def test_an_answer_without_end_is_bounded(
    ask: Ask, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.providers.transport.Reply.body.__defaults__", (1000,))
    fake.behave(text="x" * 5_000)
    with pytest.raises(e.InvalidResponse, match="larger than 1000 bytes"):
        ask()


def test_a_line_without_end_is_bounded(
    ask: Ask, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.providers.sse.MAX_LINE_BYTES", 1000)
    fake.behave(text="x" * 5_000)
    with pytest.raises(e.InvalidResponse, match="too long"):
        ask(on_delta=lambda _: None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, e.Overloaded),
        ({"type": "rate_limit_error", "message": "slow down"}, e.RateLimited),
        ({"code": 504, "status": "DEADLINE_EXCEEDED", "message": "late"}, e.Overloaded),
        ({"status": "DEADLINE_EXCEEDED"}, e.ProviderTimeout),
        ({"message": "prompt is too long"}, e.ContextTooLong),
        ("something", e.Overloaded),
        (17, e.Overloaded),
    ],
)
def test_errors_within_a_stream(content: object, expected: type[e.ProviderError]) -> None:
    assert type(in_stream_error(content)) is expected


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("openai", '{"error": {"message": "The server had an error", "type": "server_error"}}'),
        ("local", '{"error": {"message": "internal", "code": 500}}'),
        ("anthropic", '{"type": "error", "error": {"type": "overloaded_error", "message": "o"}}'),
        ("google", '{"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}'),
        ("cohere", '{"type": "message-end", "delta": {"finish_reason": "ERROR"}}'),
    ],
    indirect=["name"],
)
def test_an_error_in_the_middle_of_a_stream(ask: Ask, fake: FakeProvider, event: str) -> None:
    fake.behave(mode="raw", body=f"data: {event}\n\n".encode())
    with pytest.raises(e.Overloaded):
        ask(on_delta=lambda _: None)


def test_connections_are_kept_and_an_error_does_not_spoil_them(
    ask: Ask, fake: FakeProvider
) -> None:
    for _ in range(3):
        fake.then(mode="status", status=500)
        with pytest.raises(e.Overloaded):
            ask()
        assert ask("fine").text == "fine"


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "delta", "usage", "candidates", "parts", "text",
                 "type", "error", "finish_reason", "finishReason", "prompt_tokens", "stop_reason",
                 "usageMetadata", "promptTokenCount", "billed_units", "input_tokens", "model"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)  # fmt: skip
BODIES = (
    st.binary(max_size=300)
    | JSON_LIKE.map(lambda value: json.dumps(value).encode())
    | st.lists(JSON_LIKE, max_size=3).map(
        lambda values: b"".join(b"data: " + json.dumps(v).encode() + b"\n\n" for v in values)
    )
)
HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 429 No\r\nRetry-After: \xff\r\nRetry-After-Ms: inf\r\n\r\n",
        b"HTTP/1.1 500 No\r\n\r\n",
        b"HTTP/1.1 204 Nothing\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: http://[bad\r\n\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/9.9 abc\r\n\r\n",
        b"",
    ]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(head=HEADS, body=BODIES, stream=st.booleans())
def test_whatever_bytes_come_back_only_our_own_errors_leave(
    ask: Ask, fake: FakeProvider, head: bytes, body: bytes, stream: bool
) -> None:
    fake.behave(mode="socket", body=head + body)
    started = time.monotonic()
    try:
        got = ask(on_delta=(lambda _: None) if stream else None)
    except e.ProviderError:
        pass
    else:
        assert got.text
    assert time.monotonic() - started < 20
