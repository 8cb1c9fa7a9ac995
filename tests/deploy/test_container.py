"""Dockerfile, docker-compose.yml and Prometheus' scrape configuration."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.celery import (
    ALL_QUEUES,
    BROKER_PREFIX,
    INFERENCE_QUEUES,
    SCALER_QUEUE,
    SYSTEM_QUEUE,
    WEBHOOK_QUEUE,
)
from config.settings import Settings
from tests.deploy.tools import ROOT, find_tool, run_tool

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def test_hadolint_finds_nothing() -> None:
    found = run_tool(find_tool("hadolint"), "--no-color", "Dockerfile")
    assert found.returncode == 0, found.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN cd /tmp\n")
    assert run_tool(find_tool("hadolint"), bad).returncode == 1


def test_every_final_stage_runs_without_privileges() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    final = [stage for stage in stages if "\nENTRYPOINT" in stage]
    assert len(final) == 4
    for stage in final:
        assert "\nUSER 10001:10001\n" in stage
        assert "\nHEALTHCHECK" in stage


def test_the_api_image_has_no_torch() -> None:
    build = DOCKERFILE[DOCKERFILE.index("AS build-api") : DOCKERFILE.index("AS build-worker")]
    assert "torch" not in build
    assert "[worker" not in build
    assert "COPY --from=build-api" in DOCKERFILE[DOCKERFILE.index("FROM base AS api") :]


def test_the_build_sees_no_secrets() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    copied = {
        name
        for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied


def _compose_faults(document: dict[str, Any], folder: Path) -> str:
    file = folder / "compose.yml"
    file.write_text(yaml.safe_dump(document))
    found = run_tool(find_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", file)
    return found.stdout if found.returncode else ""


def test_compose_keeps_to_the_specification(compose: dict[str, Any], tmp_path: Path) -> None:
    assert not _compose_faults(compose, tmp_path)
    wrong = copy.deepcopy(compose)
    wrong["services"]["api"]["healthchek"] = {}
    assert "healthchek" in _compose_faults(wrong, tmp_path)


def test_compose_references_hold(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other in service.get("depends_on", ()):
            assert other in services, name
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (
                (ROOT / source).exists()
                if source.startswith(".")
                else source in (compose["volumes"])
            ), f"{name}: {source}"
        for config in service.get("configs", ()):
            assert config["source"] in compose["configs"]
        if "build" in service:
            assert f" AS {service['build']['target']}\n" in DOCKERFILE


def test_compose_services_are_hardened(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        for port in service.get("ports", ()):
            assert name == "api" or port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_compose_has_no_default_password(compose: dict[str, Any]) -> None:
    text = COMPOSE.read_text()
    uses = re.findall(r"(?<!\$)\$\{([A-Z_]*(?:PASSWORD|SECRET|KEY)[A-Z_]*)(.*?)\}", text)
    assert {name for name, _ in uses} >= {"REDIS_PASSWORD", "POSTGRES_PASSWORD"}
    for name, rest in uses:
        if name != "KEY_PREFIX":
            assert rest == ":?run inferenceflow init", name
    assert compose["services"]["api"]["env_file"] == [{"path": ".env", "required": True}]


def test_compose_workers_read_every_queue(compose: dict[str, Any]) -> None:
    read = set()
    for service in compose["services"].values():
        command = service.get("command") or []
        if "--queues" in command:
            read |= set(command[command.index("--queues") + 1].split(","))
        if "--system" in command:
            read.add(SYSTEM_QUEUE)
        if "--webhooks" in command:
            read.add(WEBHOOK_QUEUE)
        if "--scaler" in command:
            read.add(SCALER_QUEUE)
    assert read == set(ALL_QUEUES)


def test_each_lane_has_a_pool_that_starts_with_it(compose: dict[str, Any]) -> None:
    for queue in INFERENCE_QUEUES:
        pool = compose["services"][f"worker-{queue.removeprefix('inference.')}"]["command"]
        assert pool[-1].split(",")[0] == queue


def test_celery_exporter_reads_our_key_prefix(compose: dict[str, Any]) -> None:
    option = compose["services"]["celery-exporter"]["environment"]["CE_BROKER_TRANSPORT_OPTION"]
    default = Settings.model_fields["key_prefix"].default
    assert option == f"global_keyprefix=${{KEY_PREFIX:-{default}}}{BROKER_PREFIX}"


def test_prometheus_scrapes_services_of_compose(compose: dict[str, Any]) -> None:
    scrape = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())
    names = set()
    for job in scrape["scrape_configs"]:
        for discovery in job.get("dns_sd_configs", ()):
            names |= set(discovery["names"])
        for static in job.get("static_configs", ()):
            names |= {target.split(":")[0] for target in static["targets"]}
    assert names - {"localhost"} <= set(compose["services"])
    workers = {name for name in compose["services"] if name.startswith("worker-")}
    assert names >= workers | {"api", "system", "celery-exporter"}
