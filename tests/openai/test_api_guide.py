"""The examples of docs/api.md do what the guide says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import ROOT, RealStack, real_stack

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "docs" / "api.md").read_text()
# What the output of each example has in it, in the order of the page.
SHELL = (
    '"response":"Name three rivers."',
    '"state":"succeeded"',
    "event: end",
    '"state":"cancelled"',
    '"response":"Name one river."',
    '"exact_hit_rate"',
    "urn:inferenceflow:problem:invalid-request",
    '"code":"unsupported_parameter"',
    '"context_window":2048',
)
PYTHON = ("Name three rivers.\nName three lakes.", "queued\nName a sea.Name a sea.")


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    # Slow enough that a job can be cancelled before it has ended.
    with real_stack(tmp_path_factory.mktemp("guide"), "--latency", "1.0") as running:
        yield running


def run(stack: RealStack, command: list[str]) -> str:
    env = {
        **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
        "URL": stack.url,
        "TOKEN": stack.token(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(SHELL)))
def test_shell_example(stack: RealStack, number: int) -> None:
    found = examples("bash")
    assert len(found) == len(SHELL)
    assert SHELL[number] in run(stack, ["bash", "-euo", "pipefail", "-c", found[number]])


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_example(stack: RealStack, number: int) -> None:
    found = examples("python")
    assert len(found) == len(PYTHON)
    code = "import os\nURL, TOKEN = os.environ['URL'], os.environ['TOKEN']\n" + found[number]
    assert PYTHON[number] in run(stack, [sys.executable, "-c", code])
