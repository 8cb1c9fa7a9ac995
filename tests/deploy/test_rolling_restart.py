"""Every kind of process is restarted under load, one after another: no request and no job fails."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from app.stack.embedded import free_port
from app.stack.processes import api_command
from tests.stack import RealStack, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROVIDER_SECONDS = "1.0"
PRE_STOP_SECONDS = 0.5  # as the preStop hook of k8s/base/api.yaml, in which clients hear of it
STOP_SECONDS = 60
CLIENTS = 6


@dataclass
class Service:
    """What a Kubernetes Service does: clients reach the API processes that are on its list."""

    stack: RealStack
    ports: dict[str, int] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)

    def start(self, name: str) -> None:
        port = self.ports.setdefault(name, free_port())
        self.stack.spawn(name, api_command(), API_PORT=str(port))

        def ready() -> bool:
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"http://127.0.0.1:{port}/v1/health/ready", timeout=2).ok
            return False

        eventually(ready, seconds=60, what=f"{name} ready")
        self.listed.add(name)

    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[random.choice(sorted(self.listed))]}"

    def restart(self, name: str, in_flight: Callable[[str], int]) -> None:
        """Off the list, the preStop pause, then SIGTERM while requests are still under way.

        Who chose the address just before it left the list connects within the pause.
        """
        eventually(lambda: in_flight(name) > 0, seconds=30, what=f"requests wait at {name}")
        self.listed.discard(name)
        threading.Event().wait(PRE_STOP_SECONDS)
        stop(self.stack, name)
        self.start(name)


def stop(stack: RealStack, name: str) -> None:
    """SIGTERM, and wait for the process to end by itself."""
    process = stack.processes[name]
    process.send_signal(signal.SIGTERM)
    process.wait(STOP_SECONDS)


@dataclass
class Load:
    """Clients that submit and wait for their answers, all the time."""

    service: Service
    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    waiting: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _client(self, number: int) -> None:
        token = self.service.stack.token(user=f"user{number}")
        count = 0
        while not self._stop.is_set():
            count += 1
            # A connection for each request: a kept one would go back to a process off the list.
            url = self.service.url()
            name = next(n for n, port in self.service.ports.items() if url.endswith(f":{port}"))
            with self._lock:
                self.waiting[name] += 1
            try:
                response = requests.post(
                    f"{url}/v1/inference?wait=30",
                    json={
                        "prompt": f"client {number}, request {count}",
                        "priority": ("high", "normal", "low")[count % 3],
                        "cache": {"mode": "off"},
                    },
                    headers={"Authorization": f"Bearer {token}", "Connection": "close"},
                    timeout=60,
                )
            except requests.RequestException as error:
                self.faults.append(f"{name}: {type(error).__name__}")
                continue
            finally:
                with self._lock:
                    self.waiting[name] -= 1
            if response.status_code not in (200, 202):
                self.faults.append(f"{name}: {response.status_code} {response.text[:200]}")
                continue
            with self._lock:
                self.answers[response.json()["state"]] += 1
                self.jobs.append(response.json()["id"])

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def flows(self) -> None:
        """Return when the load has moved on by some jobs."""
        until = len(self.jobs) + 2 * CLIENTS
        eventually(lambda: len(self.jobs) > until or bool(self.faults), seconds=60, what="a flow")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RealStack]:
    stack = RealStack(tmp_path)
    try:
        stack.start_redis()
        stack.start_provider("--latency", PROVIDER_SECONDS)
        stack.start_worker("first")
        stack.start_system()
        stack.start_beat()
        yield stack
    finally:
        stack.stop()


def test_no_request_fails_while_everything_is_restarted(stack: RealStack) -> None:
    service = Service(stack)
    service.start("api1")
    service.start("api2")
    load = Load(service)
    with load.running():
        load.flows()
        for name in ("api1", "api2"):
            service.restart(name, lambda name: load.waiting[name])
            load.flows()
        # A new worker is there before the old one goes, as a rolling update does it.
        stack.start_worker("second")
        stop(stack, "first")
        load.flows()
        stop(stack, "system")
        stack.start_system()
        load.flows()
        stop(stack, "beat")
        stack.start_beat()
        load.flows()
    assert not load.faults
    eventually(
        lambda: all(
            stack.redis.hget(stack.ledger.key("job", job), "state") == b"succeeded"
            for job in load.jobs
        ),
        seconds=60,
        what="every job has succeeded",
    )
    attempts = Counter(
        stack.redis.hget(stack.ledger.key("job", job), "attempt") for job in load.jobs
    )
    assert attempts == {b"1": len(load.jobs)}, "an orderly stop makes no job run twice"
    assert stack.provider_calls()["count"] == len(load.jobs)
