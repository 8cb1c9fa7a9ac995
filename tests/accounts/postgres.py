"""A PostgreSQL server of one's own, from Debian's package, gone when the block ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.stack.embedded import free_port

START_SECONDS = 60


def binaries() -> Path | None:
    """Where initdb and pg_ctl are; None without the package."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Server:
    """One cluster in a folder of its own; it refuses to run as root, so it does not."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self._programs = programs
        self._folder = folder
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-w", "-o", options, "-l", log, "start")

    def stop(self) -> None:
        """As a crash would: nobody is waited for."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        as_user = (
            {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
            if self._user
            else {}
        )
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=self._folder,
            timeout=START_SECONDS,
            check=False,
            **as_user,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stderr.decode()


@contextlib.contextmanager
def running_postgres() -> Iterator[Server]:
    """A server that is up. Without the package: a skip on a laptop, a failure in CI."""
    programs = binaries()
    if programs is None:
        message = "needs the Debian package postgresql"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Server(folder, programs)
        server.start()
        yield server
        with contextlib.suppress(AssertionError):  # a test may have stopped it
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
