"""celery-exporter: Celery's events as Prometheus metrics.

It needs an older Celery and redis-py than we do, so it lives in an environment of its own, which is
made when it is first needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from app.stack.embedded import StackError
from config.celery import BROKER_PREFIX
from config.sentinel import is_sentinel
from config.settings import Settings

# As in the Dockerfile.
PACKAGES = (
    "prometheus-exporter-celery==0.11.0",
    "packaging==26.3",
    "celery==5.4.0",
    "kombu==5.4.2",
    "setuptools<81",
)
INSTALL_SECONDS = 300


def exporter_python(folder: Path) -> Path:
    """The Python of its environment in `folder`. Raises StackError."""
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = "\n".join(PACKAGES)
    if ready.is_file() and ready.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    # Nothing of ours may be found before what is installed there.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
    ):
        try:
            made = subprocess.run(  # noqa: S603 - our own command lines
                command,
                env=env,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StackError(f"celery-exporter cannot be installed ({error})") from None
        if made.returncode != 0:
            words = (made.stderr.strip() or made.stdout.strip()).splitlines()
            raise StackError(f"celery-exporter cannot be installed: {words[-1] if words else ''}")
    ready.write_text(wanted)
    return python


def exporter_command(python: Path) -> list[str]:
    """Its settings come from the environment: a password has no place in arguments."""
    return [str(python), "-I", "-c", "from src.cli import cli; cli(auto_envvar_prefix='CE')"]


def exporter_env(settings: Settings, port: int) -> dict[str, str]:
    """What it is told. Raises StackError where kombu needs another form of the broker's address."""
    url = os.environ.get("CE_BROKER_URL") or settings.broker_url
    if is_sentinel(url) and "CE_BROKER_URL" not in os.environ:
        raise StackError("celery-exporter needs CE_BROKER_URL, the Sentinels in kombu's form")
    return {
        "CE_BROKER_URL": url,
        "CE_BROKER_TRANSPORT_OPTION": f"global_keyprefix={settings.key_prefix}{BROKER_PREFIX}",
        "CE_RETRY_INTERVAL": "5",
        "CE_HOST": "127.0.0.1",
        "CE_PORT": str(port),
    }
