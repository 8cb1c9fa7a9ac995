"""The linters and validators that the checks of this folder run: real programs, found or missing.

A missing one skips on a laptop and fails where CI is set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def find_tool(*names: str) -> str:
    """The path of the first of `names` that is installed: beside this Python, in an environment of
    its own that `make` builds, or on the PATH.
    """
    folders = [str(Path(sys.executable).parent)]
    folders += [str(ROOT / "build" / name / "bin") for name in names]
    for name in names:
        found = shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"]]))
        if found:
            return found
    reason = f"none of {', '.join(names)} is installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run_tool(*command: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in the project's root, with no cluster and no engine in reach."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": os.devnull, "DOCKER_HOST": "unix:///dev/null"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
