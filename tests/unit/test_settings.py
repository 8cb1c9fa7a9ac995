from __future__ import annotations

import os
import subprocess
import sys

import pytest

from app.stack.up import use_kept_secret
from config.settings import BadSettingsError, Settings, load_settings

GOOD = {"JWT_SECRET_KEY": "x" * 32}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of the developer's


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("REDIS_PORT", "abc", "integer"),
        ("REDIS_PORT", "70000", "65535"),
        ("REDIS_URL", "http://x", "redis://"),
        ("JWT_SECRET_KEY", "short", "32 bytes"),
        ("JWT_PREVIOUS_KEYS", "short,shorter", "32 bytes"),
        ("SIMILARITY_THRESHOLD", "1.5", "less than or equal to 1"),
        ("LOG_LEVEL", "loud", "'DEBUG'"),
        ("OPENAI_BASE_URL", "nowhere", "URL"),
        ("RATE_LIMIT_REQUESTS", "0", "greater than or equal to 1"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(monkeypatch, name, value, says) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert name in message
    assert says in message
    assert "\n" not in message
    assert value not in message.replace(says, "") or name == "LOG_LEVEL" or len(value) < 4


@pytest.mark.slow
def test_a_bad_value_stops_a_process_at_once(tmp_path) -> None:
    environment = {**os.environ, "REDIS_PORT": "abc"}
    for command in (["-m", "app.cli", "api"], ["-m", "app.cli", "beat"]):
        ended = subprocess.run(
            [sys.executable, *command],
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1
        (line,) = ended.stderr.strip().splitlines()
        assert line.startswith("inferenceflow: bad setting: REDIS_PORT: Input should be a valid")


def test_redis_url_is_built_from_its_parts(monkeypatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings = Settings(_env_file=None, redis_host="r", redis_port=1, redis_password="p@ss/")
    assert settings.broker_url == "redis://:p%40ss%2F@r:1/0"
    assert settings.cache_url == settings.broker_url
    assert Settings(_env_file=None, redis_url="redis://a").broker_url == "redis://a"


def test_previous_keys_are_comma_separated(monkeypatch) -> None:
    monkeypatch.setenv("JWT_PREVIOUS_KEYS", f"{'a' * 32}, {'b' * 32}")
    keys = [key.get_secret_value() for key in load_settings().jwt_previous_keys]
    assert keys == ["a" * 32, "b" * 32]


@pytest.mark.parametrize(("given", "kept"), [("", True), (None, True), ("k" * 32, False)])
def test_an_empty_signing_key_counts_as_none(monkeypatch, tmp_path, given, kept) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", given or "")
    if given is None:
        monkeypatch.delenv("JWT_SECRET_KEY")
    use_kept_secret(tmp_path, make=True)
    signing = (tmp_path / "jwt_secret").read_text() if kept else given
    assert load_settings().jwt_secret_key.get_secret_value() == signing


def test_secrets_are_not_in_the_repr() -> None:
    settings = Settings(_env_file=None, openai_api_key="sk-secret", jwt_secret_key="s" * 32)
    assert "sk-secret" not in repr(settings)
    assert "s" * 32 not in repr(settings)
