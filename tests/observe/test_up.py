"""`inferenceflow up` as a whole: what it starts, shows, guards, and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from app.stack.embedded import StackError, free_port
from app.stack.exporter import PACKAGES, exporter_env
from config.celery import INFERENCE_QUEUES, SYSTEM_QUEUE, WEBHOOK_QUEUE
from config.settings import Settings
from tests.fakes.provider import FakeProvider
from tests.observe.conftest import read_samples
from tests.stack import ROOT, eventually

QUEUES = {*INFERENCE_QUEUES, SYSTEM_QUEUE, WEBHOOK_QUEUE}
PROMPT = "a prompt that only the two of us know"


def ports_in_a_row(count: int) -> int:
    """The first of some free ports that follow each other."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


@dataclass
class Up:
    process: subprocess.Popen[bytes]
    data: Path
    log: Path
    url: str
    flower: str
    exporter: str
    first_metrics_port: int
    children: list[psutil.Process]

    @property
    def token(self) -> str:
        return str(json.loads((self.data / "stack.json").read_text())["token"])

    def ask_flower(self, path: str) -> requests.Response:
        password = (self.data / "flower_password").read_text().strip()
        return requests.get(f"{self.flower}{path}", auth=("admin", password), timeout=20)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    data, log = folder / "var", folder / "log"
    api, redis, flower, exporter = (free_port() for _ in range(4))
    metrics = ports_in_a_row(6)
    with FakeProvider() as provider, log.open("wb") as output:
        hidden = ("REDIS_", "CE_", "PROMETHEUS_", "JWT_", "DATABASE_", "LOG_")
        process = subprocess.Popen(
            [
                sys.executable, "-m", "app.cli", "up", "--data", str(data), "--no-local-model",
                "--port", str(api), "--redis-port", str(redis), "--flower-port", str(flower),
                "--exporter-port", str(exporter),
            ],
            cwd=folder,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(hidden)},
                "PYTHONPATH": str(ROOT),
                "LOCAL_BASE_URL": provider.url,
                "PROMETHEUS_PORT": str(metrics),
                "FILES_URL": f"file://{folder}/files",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            eventually(
                lambda: (data / "stack.json").exists() or process.poll() is not None,
                seconds=240,
                what="everything started",
                every=0.5,
            )
            assert process.poll() is None, log.read_text()
            yield Up(
                process, data, log, f"http://127.0.0.1:{api}", f"http://127.0.0.1:{flower}",
                f"http://127.0.0.1:{exporter}", metrics,
                psutil.Process(process.pid).children(recursive=True),
            )  # fmt: skip
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(90)


@pytest.mark.slow
@pytest.mark.timeout(400)
class TestUp:
    def test_a_job_goes_through(self, up: Up) -> None:
        assert requests.get(f"{up.url}/v1/health/ready", timeout=10).ok
        answer = requests.post(
            f"{up.url}/v1/inference?wait=30",
            headers={"Authorization": f"Bearer {up.token}"},
            json={"prompt": PROMPT, "model_preference": "gemma3-270m", "priority": "high"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"] == "succeeded"

    def test_every_worker_shows_its_metrics(self, up: Up) -> None:
        for port in range(up.first_metrics_port, up.first_metrics_port + 3):
            page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
            assert b"process_resident_memory_bytes" in page.content

    @pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/broker", "/api/tasks"])
    def test_flower_lets_nobody_in_without_the_password(self, up: Up, path: str) -> None:
        assert requests.get(f"{up.flower}{path}", timeout=10).status_code == 401
        wrong = requests.get(f"{up.flower}{path}", auth=("admin", "admin"), timeout=10)
        assert wrong.status_code == 401
        assert up.ask_flower(path).status_code == 200

    def test_flower_shows_our_queues(self, up: Up) -> None:
        def queues() -> set[str]:
            workers = up.ask_flower("/api/workers?refresh=1").json()
            return {
                queue["name"] for one in workers.values() for queue in one.get("active_queues", ())
            }

        eventually(lambda: queues() >= QUEUES, seconds=60, what="our queues", every=1)
        lengths = up.ask_flower("/api/queues/length").json()["active_queues"]
        assert {queue["name"] for queue in lengths} >= QUEUES

    def test_flower_knows_the_task_and_not_the_prompt(self, up: Up) -> None:
        def tasks() -> dict[str, Any]:
            return dict(up.ask_flower("/api/tasks?taskname=inference.run").json())

        eventually(lambda: bool(tasks()), seconds=60, what="the task", every=1)
        (name, task), *_ = tasks().items()
        assert task["args"] in ("()", "[]")
        for path in ("/api/tasks", f"/api/task/info/{name}", f"/task/{name}", "/tasks"):
            assert PROMPT not in up.ask_flower(path).text

    def test_celery_exporter_counts_the_task(self, up: Up) -> None:
        def samples() -> dict:
            return read_samples(requests.get(f"{up.exporter}/metrics", timeout=10).text)

        def counted() -> float:
            return sum(
                amount
                for (name, labels), amount in samples().items()
                if name == "celery_task_received_total" and dict(labels)["name"] == "inference.run"
            )

        eventually(lambda: counted() == 1, seconds=60, what="the task counted", every=1)
        queues = {
            dict(labels)["queue_name"]
            for (name, labels) in samples()
            if name == "celery_queue_length"
        }
        assert queues >= QUEUES
        assert PROMPT not in requests.get(f"{up.exporter}/metrics", timeout=10).text

    def test_nothing_is_left_after_sigterm(self, up: Up) -> None:
        """The last one here."""
        names = set(re.findall(r"^ *([a-z0-9]+) \|", up.log.read_text(), re.MULTILINE))
        assert names >= {"redis", "system", "worker1", "webhooks", "beat", "flower", "exporter"}
        assert len(up.children) >= 8
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(90) == 0, up.log.read_text()[-2000:]
        _, alive = psutil.wait_procs(up.children, timeout=10)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        assert not (up.data / "stack.json").exists()


def test_the_exporter_is_that_of_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    build = dockerfile[dockerfile.index("AS build-celery-exporter") :].split("FROM")[0]
    assert set(re.findall(r"'([^']+)'", build)) == set(PACKAGES)


def test_the_exporter_cannot_read_our_form_of_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(_env_file=None, redis_url="sentinel://one:26379/primary/0")  # type: ignore[call-arg]
    monkeypatch.delenv("CE_BROKER_URL", raising=False)
    with pytest.raises(StackError, match="CE_BROKER_URL"):
        exporter_env(settings, 9808)
    monkeypatch.setenv("CE_BROKER_URL", "sentinel://one:26379")
    assert exporter_env(settings, 9808)["CE_BROKER_URL"] == "sentinel://one:26379"


@pytest.mark.parametrize("name", ["prometheus.yml", "local.yml"])
def test_celery_exporter_is_scraped(name: str, promtool: str) -> None:
    path = ROOT / "monitoring/prometheus" / name
    jobs = {job["job_name"]: job for job in yaml.safe_load(path.read_text())["scrape_configs"]}
    (target,) = jobs["celery-exporter"]["static_configs"][0]["targets"]
    assert target.endswith(":9808")
    if name == "local.yml":  # the other names files as the container sees them
        subprocess.run([promtool, "check", "config", str(path)], check=True, capture_output=True)
