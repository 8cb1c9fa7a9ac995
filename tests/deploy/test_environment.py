"""`.env.example`, `inferenceflow init` and the probe."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from click.testing import CliRunner

from app import probe
from app.cli import main
from app.stack.embedded import free_port, redis_command
from config.settings import Settings
from tests.conftest import wait_for_redis

ROOT = Path(__file__).parents[2]
COMPOSE_ONLY = {
    "CACHE_REDIS_PASSWORD",
    "POSTGRES_PASSWORD",
    "GRAFANA_PASSWORD",
    "FLOWER_PASSWORD",
    "COMPOSE_PROFILES",
    "API_BIND",
    "FLOWER_PORT",
    "GRAFANA_PORT",
    "INFERENCEFLOW_TAG",
    "TORCH_INDEX_URL",
    "REDIS_MAXMEMORY",
    "CACHE_REDIS_MAXMEMORY",
    "PROMETHEUS_RETENTION",
}


def read_environment(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z_]+=", line))
    return dict(pairs)


@pytest.fixture
def example() -> dict[str, str]:
    return read_environment((ROOT / ".env.example").read_text())


def test_the_example_lists_every_setting_and_no_other(example: dict[str, str]) -> None:
    assert set(example) == {name.upper() for name in Settings.model_fields} | COMPOSE_ONLY


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_environment")
def test_the_example_says_the_defaults(example: dict[str, str]) -> None:
    read = Settings(_env_file=ROOT / ".env.example")  # type: ignore[call-arg]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        assert getattr(read, name) == default, name
        assert example[name.upper()] or default in (None, [], {}), f"{name}: say its default"


def test_compose_names_only_variables_of_the_example(example: dict[str, str]) -> None:
    named = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert named <= set(example)
    assert named >= COMPOSE_ONLY - {"COMPOSE_PROFILES"}


def test_init_writes_fresh_secrets_for_the_owner_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for file in (first, second):
        assert CliRunner().invoke(main, ["init", "--file", str(file)]).exit_code == 0
    one, two = read_environment(first.read_text()), read_environment(second.read_text())
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert len({*one.values(), *two.values()}) == len(one) + len(two)
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in one.values())
    required = re.findall(
        r"\$\{([A-Z_]+):\?run inferenceflow init\}", (ROOT / "docker-compose.yml").read_text()
    )
    assert set(required) | {"JWT_SECRET_KEY"} == set(one)


@pytest.mark.usefixtures("no_environment")
def test_init_output_is_valid_settings(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    CliRunner().invoke(main, ["init", "--file", str(file), "--local-model"])
    read = Settings(_env_file=file)  # type: ignore[call-arg]
    assert read.redis_password is not None
    assert str(read.local_base_url) == "http://local-model:8089/v1"


def test_init_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("KEPT=1\n")
    result = CliRunner().invoke(main, ["init", "--file", str(file)])
    assert result.exit_code == 1
    assert "exists" in result.output
    assert file.read_text() == "KEPT=1\n"


def test_init_says_when_it_cannot_write(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", "--file", str(tmp_path / "no" / ".env")])
    assert result.exit_code == 1
    assert "cannot be written" in result.output


@pytest.mark.parametrize(("age", "status"), [(0, 0), (29, 0), (40, 1)])
def test_probe_judges_the_age_of_the_heartbeat(tmp_path: Path, age: int, status: int) -> None:
    file = tmp_path / "heartbeat"
    file.touch()
    then = time.time() - age
    os.utime(file, (then, then))
    assert probe.main([str(file), "30"]) == status
    assert CliRunner().invoke(main, ["probe", "--heartbeat", str(file)]).exit_code == status


def test_probe_without_a_heartbeat_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe.main([str(tmp_path / "none"), "30"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_probe_wrongly_called_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["only-a-file"]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_redis_takes_the_password_of_init(tmp_path: Path) -> None:
    password = 'with "quotes" and spaces'
    port = free_port()
    command = redis_command(port, tmp_path, password=password)
    assert password not in " ".join(command)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for_redis(f"redis://:{quote(password)}@127.0.0.1:{port}/0")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
    finally:
        process.kill()
        process.wait()
