"""Every alert fires in a real fault: the shipped rules, shortened, in a real Prometheus over a real
stack to which the fault is done. And none fires while all is well.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from app.stack.embedded import free_port
from config.catalogue import DEFAULT_PATH
from tasks.redis_client import connect
from tasks.scaler_state import read_scaler
from tests.observe.prometheus import DAY, RULES, Prometheus, shortened
from tests.observe.test_operations import alerts
from tests.scaler.api_server import running_server
from tests.stack import RealStack, eventually
from tests.webhooks.receiver import Answer, Receiver
from workers.scaler import run_tick
from workers.scaler.knobs import QueueKnobs
from workers.scaler.kubernetes import Cluster
from workers.scaler.settings import QueueTarget, ScalerSettings
from workers.scaler.signals import LedgerSignals

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

MODELS = 30  # each has a circuit of its own: that many calls must fail before none is tried


@dataclass
class Traffic:
    """Clients that keep asking, one request every `every` seconds, whatever comes back."""

    stack: RealStack
    body: dict[str, Any] = field(default_factory=dict)
    repeats: bool = True  # ask what was asked before
    every: float = 0.1
    sent: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, session: requests.Session, **fields: Any) -> None:
        self.sent += 1
        number = self.sent % 5 if self.repeats else self.sent
        body = {
            "prompt": f"What is the capital of country {number}?",
            "model_preference": f"gemma-{number % MODELS}",
            "temperature": 0,
            "deadline_seconds": 120,
            **self.body,
            **fields,
        }
        with contextlib.suppress(requests.RequestException):
            session.post(f"{self.stack.url}/v1/inference", json=body, timeout=10)

    def run(self) -> None:
        session = self.stack.session()
        while not self._stop.wait(self.every):
            self.ask(session)

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def catalogue(folder: Path) -> Path:
    """Ours, with more models on the local server."""
    content = yaml.safe_load(DEFAULT_PATH.read_text())
    (local,) = (model for model in content["models"] if model["id"] == "gemma3-270m")
    for number in range(MODELS):
        offer = {"provider": "local", "model": f"gemma-{number}.gguf"}
        content["models"].append({**local, "id": f"gemma-{number}", "offers": [offer]})
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def behave(stack: RealStack, **behaviour: Any) -> None:
    """Tell the provider's server how to answer from now on."""
    url = f"http://127.0.0.1:{stack.provider_port}/_behave"
    assert requests.post(url, json=behaviour, timeout=10).ok


def blind_the_scaler(stack: RealStack) -> None:
    """Ticks of the scaler: with a Kubernetes API that answers, and after it has gone."""
    settings = ScalerSettings(
        queues=(QueueTarget("normal", "worker", QueueKnobs()),),
        namespace="inferenceflow",
        prefix=stack.settings.key_prefix,
    )
    quiet = LedgerSignals(0, 0, 0.0, 0, 0, 0.0, 0)

    def tick(cluster: Cluster) -> str:
        assert run_tick(
            settings, stack.redis, time.time(), ledger=lambda *_: quiet, cluster=cluster
        )
        state = read_scaler(stack.redis, prefix=settings.prefix)
        return str(state["queues"]["normal"]["level"])

    with running_server() as (server, client):
        server.add_deployment("worker", 1)
        cluster = Cluster("inferenceflow", client)
        assert tick(cluster) != "hold"
    assert tick(cluster) == "hold"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RealStack]:
    stack = RealStack(
        tmp_path,
        {
            "MODELS_FILE": str(catalogue(tmp_path)),
            "LEASE_SECONDS": "2",
            "MAX_ATTEMPTS": "2",
            "CACHE_SEMANTIC": "false",  # the prompts here are alike
            "WEBHOOK_ALLOW_HOSTS": "127.0.0.1",
            "REDIS_TIMEOUT_SECONDS": "1",
        },
    )
    stack.env["CACHE_REDIS_URL"] = stack.cache_url
    try:
        stack.start_redis()
        stack.start_cache_redis()
        stack.start_provider("--latency", "0.02")
        stack.start_api()
        stack.env["PROMETHEUS_PORT"] = str(free_port())
        stack.start_worker("worker1")
        port, stack.env["PROMETHEUS_PORT"] = stack.env["PROMETHEUS_PORT"], "0"
        stack.start_system()
        stack.start_webhooks()
        stack.start_beat()
        stack.env["PROMETHEUS_PORT"] = port
        yield stack
    finally:
        stack.stop()


def test_every_alert_fires_in_a_real_fault_and_none_without(
    stack: RealStack, tmp_path: Path
) -> None:
    rules = []
    for name in ("recording.yml", "alerts.yml"):
        rules.append(tmp_path / name)
        rules[-1].write_text(shortened((RULES / name).read_text()))
    targets = {
        "api": (stack.api_port, "/v1/metrics"),
        "worker": (int(stack.env["PROMETHEUS_PORT"]), "/metrics"),
    }
    fired: set[str] = set()
    cache = connect(stack.cache_url)
    traffic = Traffic(stack)
    session = stack.session()
    with Prometheus(tmp_path, targets, rules) as prometheus, Receiver() as receiver:

        def expect(*names: str, seconds: float = 45) -> None:
            """Give them their time; which stayed silent is said at the end, for all faults."""
            end = time.monotonic() + seconds
            while not fired >= set(names) and time.monotonic() < end:
                time.sleep(0.25)
                fired.update(prometheus.firing())

        with traffic.flowing():
            # All is well, for a "day" (before the first scrape nothing is).
            eventually(
                lambda: bool(prometheus.rows("sum(up) == 2")) and not prometheus.firing(),
                seconds=30,
                what="quiet",
            )
            end = time.monotonic() + DAY + 5
            while time.monotonic() < end:
                traffic.ask(session, priority="high", prompt=f"in a hurry {time.monotonic()}")
                assert not prometheus.firing()
                time.sleep(0.5)  # the alerts are to be silent over this time
            assert not prometheus.broken_rules()

            # A receiver of webhooks takes them and never answers.
            receiver.answers["/hook"] = Answer(hang=True)
            for _ in range(130):
                traffic.ask(session, webhook_url=f"{receiver.url}/hook")

            # The cache loses what it held, and the provider answers 500.
            traffic.repeats = False
            cache.flushall()
            behave(stack, mode="status", status=500)
            traffic.body = {"deadline_seconds": 3}
            blind_the_scaler(stack)
            expect(
                "ProviderDown", "BreakerOpen", "JobsFailingFast", "JobsFailingSlowly",
                "WebhookBacklog", "ScalerBlind", "CacheHitRateCollapsed",
            )  # fmt: skip

            # A worker freezes with jobs in its hands, and comes back.
            behave(stack, mode="hang")
            traffic.body = {"priority": "high", "model_preference": "gemma3-270m"}
            eventually(
                lambda: sum(load.running for load in stack.ledger.loads().values()) >= 8,
                seconds=30,
                what="jobs in the worker's hands",
            )
            stack.kill("worker1", signal.SIGSTOP)
            behave(stack, latency=2)  # what has waited is not all taken between two scrapes
            expect("WorkersDying", "QueueStuck")
            stack.kill("worker1", signal.SIGCONT)
            expect("QueueWaitTooLong")

            # The ledger's Redis fills up, and the cache's is gone.
            used = stack.redis.info("memory")["used_memory"]
            stack.redis.config_set("maxmemory", int(used * 1.1))
            stack.kill("cache")
            expect("RedisMemoryHigh", "CacheUnreachable")
            stack.redis.config_set("maxmemory", 0)

            # Redis is gone, and at last the API.
            stack.kill("redis")
            expect("RedisUnreachable", "ApiErrors")
        stack.kill("api")
        expect("NothingScraped")
    cache.close()
    assert fired == set(alerts())
