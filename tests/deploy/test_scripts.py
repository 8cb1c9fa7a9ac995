"""scripts/: linted, and harmless until --apply."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from app.cli import main
from tests.deploy.test_kubernetes import SECRETS
from tests.deploy.tools import ROOT, find_tool, run_tool

SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """What `init` wrote, and an external database."""
    file = tmp_path / ".env"
    CliRunner().invoke(main, ["init", "--file", str(file)])
    with file.open("a") as stream:
        stream.write("DATABASE_URL=postgresql://u:hidden-words@db/x\nOPENAI_API_KEY=sk-a=b=c\n")
    return file


def test_shellcheck_finds_nothing() -> None:
    assert len(SCRIPTS) == 2
    found = run_tool(find_tool("shellcheck"), *SCRIPTS)
    assert found.returncode == 0, found.stdout


def test_shellcheck_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/bin/sh\ncd $1\n")
    assert run_tool(find_tool("shellcheck"), bad).returncode == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_explain_themselves(script: Path) -> None:
    asked = run_tool(script, "--help")
    assert asked.returncode == 0
    assert "--apply" in asked.stdout
    wrong = run_tool(script, "--no-such-option")
    assert wrong.returncode == 2
    assert "usage" in wrong.stderr
    nowhere = run_tool(script, "--overlay", "nowhere")
    assert nowhere.returncode == 1
    assert "nowhere" in nowhere.stderr


def test_setup_shows_names_and_no_values(environment: Path) -> None:
    find_tool("kubectl")
    before = environment.read_text()
    shown = run_tool("scripts/setup.sh", "--env-file", environment)
    assert shown.returncode == 0, shown.stderr
    assert "nothing was changed" in shown.stderr
    made = {m["metadata"]["name"]: m for m in yaml.safe_load_all(shown.stdout)}
    assert set(made) == SECRETS | {"inferenceflow-dev"}
    values = {line.split("=", 1)[1] for line in before.splitlines() if "=" in line[1:]}
    assert not [value for value in values if value in shown.stdout]
    assert set(made["inferenceflow-stores"]["data"]) == {"REDIS_PASSWORD", "DATABASE_URL"}
    assert set(made["inferenceflow-stores"]["data"].values()) == {"..."}
    assert "JWT_SECRET_KEY" not in made["inferenceflow-stores"]["data"]
    again = run_tool("scripts/setup.sh", "--env-file", environment)
    assert again.stdout == shown.stdout
    assert environment.read_text() == before


def test_setup_says_what_is_missing(tmp_path: Path) -> None:
    find_tool("kubectl")
    file = tmp_path / "env"
    file.write_text("JWT_SECRET_KEY=x\n")
    refused = run_tool("scripts/setup.sh", "--env-file", file, "--overlay", "production")
    assert refused.returncode == 1
    assert "does not set REDIS_URL" in refused.stderr


def test_production_keeps_files_in_a_bucket(tmp_path: Path) -> None:
    find_tool("kubectl")
    names = [
        "JWT_SECRET_KEY",
        "REDIS_URL",
        "CACHE_REDIS_URL",
        "DATABASE_URL",
        "CE_BROKER_URL",
        "FLOWER_PASSWORD",
    ]
    lines = [f"{name}=value-of-{name}" for name in names]
    file = tmp_path / "env"
    file.write_text("\n".join([*lines, "FILES_URL=file://var/files", ""]))
    refused = run_tool("scripts/setup.sh", "--env-file", file, "--overlay", "production")
    assert refused.returncode == 1
    assert "does not set FILES_URL" in refused.stderr
    file.write_text("\n".join([*lines, "FILES_URL=s3://b/p", "AWS_ACCESS_KEY_ID=some-key-id", ""]))
    shown = run_tool("scripts/setup.sh", "--env-file", file, "--overlay", "production")
    assert shown.returncode == 0, shown.stderr
    made = {m["metadata"]["name"]: m for m in yaml.safe_load_all(shown.stdout)}
    assert {"FILES_URL", "AWS_ACCESS_KEY_ID"} <= set(made["inferenceflow-stores"]["data"])


def test_deploy_shows_the_images_it_would_run() -> None:
    find_tool("kubectl")
    before = (ROOT / "k8s/overlays/dev/kustomization.yaml").read_text()
    shown = run_tool("scripts/deploy.sh", "--tag", "1.2.3", "--registry", "example.test/team")
    assert shown.returncode == 0, shown.stderr
    assert "nothing was changed" in shown.stderr
    images = {
        main["image"]
        for manifest in yaml.safe_load_all(shown.stdout)
        if manifest["kind"] in ("Deployment", "Job")
        for main in manifest["spec"]["template"]["spec"]["containers"]
    }
    assert images == {
        f"example.test/team/inferenceflow-{name}:1.2.3"
        for name in ("api", "worker", "celery-exporter")
    }
    assert (ROOT / "k8s/overlays/dev/kustomization.yaml").read_text() == before


@pytest.mark.parametrize("bad", ["$(id)", "a b", ":x"])
def test_deploy_refuses_what_is_no_tag(bad: str) -> None:
    refused = run_tool("scripts/deploy.sh", "--tag", bad)
    assert refused.returncode == 1
    assert "not a tag" in refused.stderr


def test_deploy_waits_for_every_deployment() -> None:
    from tests.deploy.test_kubernetes import of_kind

    text = (ROOT / "scripts/deploy.sh").read_text()
    line = next(line for line in text.splitlines() if line.startswith("for name in api "))
    named = set(line.removeprefix("for name in ").removesuffix("; do").split())
    assert named == set(of_kind("production", "Deployment"))
