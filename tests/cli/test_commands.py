"""What each command prints, and what it leaves behind."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.api import API
from app.cli.main import main
from tasks.inference import InferenceResponse, Priority, Usage
from tasks.jobs import JobState
from tests.cli.conftest import Run


def test_every_module_of_the_command_line_is_a_command() -> None:
    commands = set(main.commands)
    assert {"admin", "usage", "db", "cache", "jobs", "submit", "token", "doctor"} <= commands


def test_accounts(run: Run) -> None:
    assert "blue" in run("admin", "create-tenant", "blue", "--title", "Blue Ltd").output
    assert "Blue Ltd" in run("admin", "tenants").output
    run("admin", "create-user", "blue", "bob")
    run("admin", "set-user", "blue", "bob", "--role", "admin")
    assert "admin" in run("admin", "users", "blue").output

    made = run("admin", "create-client", "blue", "bob", "--scope", "jobs:read").output
    client_id = re.search(r"client id +(\S+)", made)[1]
    secret = re.search(r"client secret +(\S+)", made)[1]
    listed = run("admin", "clients", "blue").output
    assert client_id in listed
    assert secret not in listed
    assert secret not in run("admin", "rotate-client", "blue", client_id).output
    assert run("admin", "remove-client", "blue", client_id).output == "removed\n"
    assert run("admin", "clients", "blue").output == "none\n"

    run("admin", "set-budget", "blue", "--day-dollars", "2.5")
    assert "2.5" in run("admin", "budgets", "blue").output
    run("admin", "set-limits", "blue", "--open-jobs", "7")
    assert "7" in run("admin", "limits", "blue").output
    run("admin", "set-tenant", "blue", "--disabled")

    log = run("admin", "audit", "--tenant", "blue").output
    assert secret not in log
    assert log.count("blue") >= 5


def test_a_refusal_is_told_in_words(run: Run) -> None:
    refused = run("admin", "users", "nobody-of-that-name", status=1)
    assert refused.output.startswith("Error: ")
    assert "Traceback" not in refused.output


def test_no_api_to_talk_to(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["jobs", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "inferenceflow up" in result.output


def test_jobs(run: Run, api: API) -> None:
    job_id = run("submit", "What is two and two?", "--max-tokens", "9").output.split()[-1]
    ledger = api.extensions["inferenceflow"].ledger
    job = ledger.claim(Priority.NORMAL, "worker", 10)
    assert job.id == job_id
    answer = InferenceResponse(
        response="Four.",
        provider="local",
        model="gemma3-270m",
        finish_reason="stop",
        latency=0.1,
        tokens_used=3,
        usage=Usage(input_tokens=1, output_tokens=2),
        cost=0.0,
        cache_hit=False,
        request_id=job.request_id,
        created_at=datetime.now(UTC),
    )
    assert ledger.finish(job, JobState.SUCCEEDED, result=answer.model_dump_json().encode())
    assert job_id in run("jobs").output
    one = run("jobs", job_id).output
    assert "succeeded" in one
    assert "Four." in one
    shown = json.loads(run("submit", "Another?", "--json").output)
    assert shown["state"] == "queued"


def test_usage(run: Run) -> None:
    table = run("usage", "--by", "day,user").output
    assert "cost $" in table
    head = next(csv.reader(io.StringIO(run("usage", "--csv").output)))
    assert {"day", "jobs", "cost"} <= set(head)


def test_the_cache(run: Run) -> None:
    stats = json.loads(run("cache", "stats").output)
    assert stats["lookups"] == 0
    assert "Aborted" in run("cache", "invalidate", status=1, given="n\n").output


def test_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from config.settings import settings

    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/new.db")
    settings.cache_clear()
    try:
        for _ in range(2):
            result = CliRunner().invoke(main, ["db", "upgrade"])
            assert result.exit_code == 0, result.output
            assert "at revision" in result.output
    finally:
        settings.cache_clear()


def test_doctor_names_what_is_here(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    result = CliRunner().invoke(main, ["doctor"])
    assert "RediSearch" in result.output
    assert "Python" in result.output
