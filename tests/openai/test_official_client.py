"""The official `openai` package, newest and oldest supported, against the real stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.openai import official_client
from tests.stack import ROOT, RealStack, real_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OLDEST = "1.109.1"
SCRIPT = Path(official_client.__file__)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    with real_stack(tmp_path_factory.mktemp("openai")) as running:
        yield running


@cache
def package(release: str) -> Path | None:
    """A folder with that release and what it needs; None where it cannot be had."""
    folder = ROOT / "build" / f"openai-{release}"
    if not (folder / "openai").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--target", str(folder), f"openai=={release}"], capture_output=True
        )
        if done.returncode:
            return None
    return folder


@pytest.fixture(scope="module", params=["newest", "oldest"])
def results(request: pytest.FixtureRequest, stack: RealStack) -> dict[str, str]:
    """What each check came to."""
    folder = None
    if request.param == "oldest":
        folder = package(OLDEST)
        if folder is None:
            if os.environ.get("CI"):
                pytest.fail(f"openai=={OLDEST} could not be installed")
            pytest.skip(f"openai=={OLDEST} could not be installed")
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            stack.url,
            stack.token(),
            f"http://127.0.0.1:{stack.provider_port}",
        ],
        env={
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
            "PYTHONPATH": str(folder or ""),
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    assert found.pop("version") == (OLDEST if folder else version("openai"))
    assert set(found) == set(official_client.CHECKS)
    return found


@pytest.mark.parametrize("name", official_client.CHECKS)
def test_check(results: dict[str, str], name: str) -> None:
    assert results[name] == "ok", results[name]
