"""`sentinel://` addresses, in the settings and for Celery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.celery import celery_config
from config.sentinel import parse_sentinel_url
from config.settings import BadSettingsError, Settings, load_settings
from tasks.redis_client import connect


def test_every_part_is_read() -> None:
    found = parse_sentinel_url(
        "sentinel://app:p%40ss@one:26379,two:26380,three/jobs/3?sentinel_password=watch"
    )
    assert found.nodes == (("one", 26379), ("two", 26380), ("three", 26379))
    assert (found.primary, found.database) == ("jobs", 3)
    assert (found.username, found.password) == ("app", "p@ss")
    assert found.sentinel_options == {"password": "watch"}
    assert "p@ss" not in repr(found)
    assert "watch" not in repr(found)


def test_what_may_be_left_out() -> None:
    found = parse_sentinel_url("sentinel://one/jobs")
    assert (found.database, found.username, found.password) == (0, None, None)
    assert found.sentinel_options == {}


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://one:26379",
        "sentinel:///jobs",
        "sentinel://one:x/jobs",
        "sentinel://one/jobs/x",
        "sentinel://one/jobs?no=1",
    ],
)
def test_a_bad_address_stops_the_start_in_one_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url.replace("//", "//:hidden@"))
    with pytest.raises(BadSettingsError, match=r"^REDIS_URL: ") as caught:
        load_settings()
    assert "hidden" not in str(caught.value)


@given(st.text(min_size=1))
def test_any_password_reaches_kombu(password: str) -> None:
    from urllib.parse import quote

    from kombu.utils.url import parse_url

    found = parse_sentinel_url(f"sentinel://:{quote(password, safe='')}@one:1,two:2/jobs/4")
    assert found.password == password
    for part, port in zip(found.kombu_url().split(";"), (1, 2), strict=True):
        read = parse_url(part)
        assert (read["password"], read["port"], read["virtual_host"]) == (password, port, "4")


def test_celery_asks_the_sentinels() -> None:
    settings = Settings(redis_url="sentinel://:secret@one:1,two:2/jobs/0")
    config = celery_config(settings)
    assert config["broker_url"] == "sentinel://:secret@one:1/0;sentinel://:secret@two:2/0"
    options = config["broker_transport_options"]
    assert options["master_name"] == "jobs"
    assert options["global_keyprefix"] == "if:broker:"


def test_celery_without_sentinels_is_not_told_of_any() -> None:
    config = celery_config(Settings(redis_url="redis://one:1/0"))
    assert config["broker_url"] == "redis://one:1/0"
    assert "master_name" not in config["broker_transport_options"]


def test_a_client_does_not_show_its_password() -> None:
    assert "secret" not in repr(connect("sentinel://:secret@127.0.0.1:1/jobs"))


def test_the_replica_must_answer_before_the_command_times_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValidationError):
        Settings(redis_timeout_seconds=0.5, replication_timeout_seconds=0.5)
    monkeypatch.setenv("REPLICATION_TIMEOUT_SECONDS", "5")
    with pytest.raises(BadSettingsError, match=r"^REPLICATION_TIMEOUT_SECONDS must be below"):
        load_settings()
