"""A real Prometheus for a test, and the shipped rules at a test's pace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import requests
import yaml

from app.stack.embedded import free_port
from tests.stack import ROOT, eventually

RULES = ROOT / "monitoring/prometheus/rules"
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
FACTOR = 60  # a minute of the rules is a second here
DAY = 40  # seconds: "yesterday" has to come within the test
SHORTEST_RANGE = 4  # seconds: a rate needs samples, and there is one a second


def short(duration: str, least: int = 0) -> str:
    """A duration of the rules, at a test's pace."""
    seconds = int(duration[:-1]) * SECONDS[duration[-1]]
    return f"{DAY if seconds == SECONDS['d'] else max(seconds // FACTOR, least)}s"


def shortened(rules: str) -> str:
    """The same rules with every duration divided by FACTOR, and so the seconds that a job or a
    webhook may be old; objectives, shares and counts stay as they are.
    """
    groups = yaml.safe_load(rules)["groups"]
    for group in groups:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = short(rule["for"])
            expr = re.sub(
                r"\[(\d+[smhd])\]", lambda m: f"[{short(m[1], SHORTEST_RANGE)}]", rule["expr"]
            )
            expr = re.sub(r"offset (\d+[smhd])", lambda m: f"offset {short(m[1])}", expr)
            rule["expr"] = re.sub(
                r"(_oldest_seconds[^>]*> )(\d+)", lambda m: f"{m[1]}{int(m[2]) // FACTOR}", expr
            )
    return yaml.safe_dump({"groups": groups}, width=1_000)


class Prometheus:
    """One server that scrapes `targets` (job: (port, path)) once a second."""

    def __init__(
        self, folder: Path, targets: Mapping[str, tuple[int, str]], rule_files: list[Path]
    ) -> None:
        self._folder = folder
        self.port = free_port()
        self.config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": [
                {
                    "job_name": job,
                    "metrics_path": path,
                    "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
                }
                for job, (port, path) in targets.items()
            ],
        }
        self._session = requests.Session()
        self._session.trust_env = False

    def __enter__(self) -> Self:
        file = self._folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(self.config))
        binary = shutil.which("prometheus")
        assert binary is not None, "Debian's package `prometheus`: see .ci/packages"
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary, f"--config.file={file}",
                    f"--storage.tsdb.path={self._folder}/prometheus",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        eventually(self._ready, seconds=60, what="Prometheus ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            return self._get("/-/ready").ok
        except requests.ConnectionError:
            return False

    def _get(self, path: str, **params: str) -> requests.Response:
        return self._session.get(f"http://127.0.0.1:{self.port}{path}", params=params, timeout=10)

    def rows(self, expr: str) -> list[dict[str, Any]]:
        """What a query finds now."""
        answer = self._get("/api/v1/query", query=expr)
        if answer.status_code == 503:
            return []
        assert answer.status_code == 200, (expr, answer.text)
        return list(answer.json()["data"]["result"])

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        return {
            alert["labels"]["alertname"]
            for alert in self._get("/api/v1/alerts").json()["data"]["alerts"]
            if alert["state"] == "firing"
        }

    def broken_rules(self) -> list[str]:
        """Rules that could not be evaluated."""
        groups = self._get("/api/v1/rules").json()["data"]["groups"]
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        ]
