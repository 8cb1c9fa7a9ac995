"""Streams through real processes, some of which are killed in the middle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from app.stack.embedded import free_port
from app.stack.processes import api_command
from tests.stack import RealStack, eventually, real_stack
from tests.streams.sse import blocks, data, event_id, has_events, kind, read, text

pytestmark = pytest.mark.slow

WORDS = " ".join(f"word{number}" for number in range(60))  # at 30 ms each


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    folder: Path = tmp_path_factory.mktemp("streams")
    with real_stack(folder, "--interval", "0.03", LEASE_SECONDS="2") as running:
        yield running


@pytest.fixture
def session(stack: RealStack) -> Iterator[requests.Session]:
    with stack.session() as made:
        yield made
    behave(stack, mode="ok", interval=0.03)


@pytest.fixture
def second_api(stack: RealStack) -> Iterator[str]:
    """Another API process on the same Redis; its URL."""
    port = free_port()
    stack.spawn("api2", api_command(), API_PORT=str(port))
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: up(url), seconds=30, what="the second API")
    yield url
    stack.kill("api2")


def up(url: str) -> bool:
    try:
        return requests.get(f"{url}/v1/health/ready", timeout=1).ok
    except requests.RequestException:
        return False


def behave(stack: RealStack, **how: Any) -> None:
    answer = requests.post(f"http://127.0.0.1:{stack.provider_port}/_behave", json=how, timeout=5)
    assert answer.ok


def submit(stack: RealStack, session: requests.Session, **body: Any) -> str:
    sent = {
        "prompt": WORDS,
        "model_preference": "gemma3-270m",
        "stream": True,
        "cache": {"mode": "off"},
        **body,
    }
    answer = session.post(f"{stack.url}/v1/inference", json=sent, timeout=10)
    assert answer.status_code in (200, 202), answer.text
    return str(answer.json()["id"])


def stream(url: str, job_id: str) -> str:
    return f"{url}/v1/jobs/{job_id}/stream"


def state(stack: RealStack, session: requests.Session, job_id: str) -> str:
    return str(session.get(f"{stack.url}/v1/jobs/{job_id}", timeout=10).json()["state"])


def test_a_resumed_stream_is_byte_identical(
    stack: RealStack, session: requests.Session, second_api: str
) -> None:
    job_id = submit(stack, session)
    with ThreadPoolExecutor(1) as pool:
        unbroken = pool.submit(read, session, stream(stack.url, job_id))
        # This client loses its connection every few events and goes on at the other server.
        parts: list[bytes] = []
        servers = [stack.url, second_api]
        while not parts or kind(parts[-1]) != "end":
            after = event_id(parts[-1]) if parts else ""
            body = read(session, stream(servers[0], job_id), after=after, until=has_events(7))
            parts += blocks(body)
            servers.reverse()
        assert parts == blocks(unbroken.result())
    assert parts == blocks(read(session, stream(stack.url, job_id)))  # and once more, afterwards
    assert text(parts) == WORDS == data(parts[-1])["result"]["response"]
    assert len(parts) > 20


def test_the_death_of_an_api_server_loses_nothing(
    stack: RealStack, session: requests.Session, second_api: str
) -> None:
    job_id = submit(stack, session)
    seen = threading.Event()

    def until_dead() -> bytes:
        def note(body: bytes) -> bool:
            if has_events(5)(body):
                seen.set()
            return False

        return read(session, stream(second_api, job_id), until=note)

    with ThreadPoolExecutor(1) as pool:
        broken = pool.submit(until_dead)
        assert seen.wait(30)
        stack.kill("api2")
        first = blocks(broken.result())
    assert kind(first[-1]) == "delta"
    rest = blocks(read(session, stream(stack.url, job_id), after=event_id(first[-1])))
    assert first + rest == blocks(read(session, stream(stack.url, job_id)))
    assert text(first + rest) == WORDS


def test_the_death_of_a_worker_shows_as_a_restart(
    stack: RealStack, session: requests.Session
) -> None:
    job_id = submit(stack, session)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(read, session, stream(stack.url, job_id))
        read(session, stream(stack.url, job_id), until=has_events(5))
        stack.kill("worker1")
        stack.start_worker("worker1")
        events = blocks(following.result())
    kinds = [kind(event) for event in events]
    assert kinds.count("restart") == 1
    assert kinds[0] == "delta"
    assert kinds[-1] == "end"
    assert text(events) == WORDS
    assert data(events[-1])["state"] == "succeeded"
    assert data(events[-1])["attempt"] == 2


def test_a_cut_provider_stream_begins_anew(stack: RealStack, session: requests.Session) -> None:
    behave(stack, mode="cut", interval=0.0)
    before = stack.provider_calls()["count"]
    job_id = submit(stack, session)
    eventually(
        lambda: stack.provider_calls()["count"] > before, seconds=10, what="a call that is cut"
    )
    behave(stack, mode="ok", interval=0.0)
    events = blocks(read(session, stream(stack.url, job_id)))
    kinds = [kind(event) for event in events]
    assert "restart" in kinds
    assert kinds[-1] == "end"
    assert text(events) == WORDS


def test_cancelling_closes_the_provider_connection(
    stack: RealStack, session: requests.Session
) -> None:
    left = stack.provider_calls()["left"]
    job_id = submit(stack, session)
    read(session, stream(stack.url, job_id), until=has_events(3))
    answer = session.post(f"{stack.url}/v1/jobs/{job_id}/cancel", timeout=10)
    assert answer.json()["state"] == "cancelled"
    eventually(
        lambda: stack.provider_calls()["left"] == left + 1,
        seconds=10,
        what="the provider sees that its client has left",
    )
    end = blocks(read(session, stream(stack.url, job_id)))[-1]
    assert data(end)["state"] == "cancelled"
    assert data(end)["result"] is None


def test_cancelling_closes_a_call_that_waits_for_its_first_byte(
    stack: RealStack, session: requests.Session
) -> None:
    behave(stack, mode="hang")
    before = stack.provider_calls()
    job_id = submit(stack, session, stream=False)
    eventually(
        lambda: stack.provider_calls()["count"] > before["count"], seconds=10, what="the call"
    )
    session.post(f"{stack.url}/v1/jobs/{job_id}/cancel", timeout=10)
    eventually(
        lambda: stack.provider_calls()["left"] == before["left"] + 1,
        seconds=10,
        what="the provider sees that its client has left",
    )


@pytest.mark.parametrize(
    ("query", "end"), [("?cancel_on_disconnect=true", "cancelled"), ("", "succeeded")]
)
def test_leaving(stack: RealStack, session: requests.Session, query: str, end: str) -> None:
    job_id = submit(stack, session)
    read(session, stream(stack.url, job_id) + query, until=has_events(3))
    eventually(
        lambda: state(stack, session, job_id) in ("cancelled", "succeeded"),
        seconds=20,
        what="the end of the job",
    )
    assert state(stack, session, job_id) == end


def test_a_cached_answer_streams_too(stack: RealStack, session: requests.Session) -> None:
    body = {"prompt": "the capital of Australia please", "cache": {"mode": "exact"}}
    first = blocks(read(session, stream(stack.url, submit(stack, session, **body))))
    again = blocks(read(session, stream(stack.url, submit(stack, session, **body))))
    assert not data(first[-1])["result"]["cache_hit"]
    assert data(again[-1])["result"]["cache_hit"]
    assert text(again) == text(first) == "the capital of Australia please"


def test_a_hundred_followers_share_few_connections(
    stack: RealStack, session: requests.Session
) -> None:
    job_id = submit(stack, session)
    opened = threading.Barrier(101, timeout=30)

    def follow() -> bytes:
        body, met = b"", False
        with requests.get(
            stream(stack.url, job_id), headers=session.headers, stream=True, timeout=60
        ) as answer:
            for chunk in answer.iter_content(chunk_size=None):
                body += chunk
                if not met:
                    opened.wait()
                    met = True
        return body

    with ThreadPoolExecutor(100) as pool:
        followers = [pool.submit(follow) for _ in range(100)]
        opened.wait()
        clients = stack.redis.info("clients")["connected_clients"]
        bodies = {b"\n".join(blocks(follower.result())) for follower in followers}
    assert len(bodies) == 1
    # API at most 64, all others here a few.
    assert clients < 100
