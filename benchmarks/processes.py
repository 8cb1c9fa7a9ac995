"""Starting what is measured on chosen cores, and what it takes: CPU time, memory, descriptors."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


def on_cores(command: Sequence[str], cores: str) -> list[str]:
    """The command, kept to `cores` (as `taskset -c` takes them; empty: any)."""
    return ["taskset", "-c", cores, *command] if cores else list(command)


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, *, cores: str = "", **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process and its children, ended with the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            on_cores(command, cores),
            env={**os.environ, **env},
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        family = _family([process.pid])
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for orphan in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()


def _family(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            found += [parent, *parent.children(recursive=True)]
    return found


@dataclass(frozen=True)
class Taken:
    """What processes with all their children use now."""

    cpu_seconds: float  # user and system, since they started
    megabytes: float  # resident
    descriptors: int
    threads: int


def taken(pids: Iterable[int]) -> Taken:
    """The sum over the processes and their children."""
    cpu = resident = 0.0
    descriptors = threads = 0
    for process in _family(pids):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = process.cpu_times()
            cpu += times.user + times.system
            resident += process.memory_info().rss
            descriptors += process.num_fds()
            threads += process.num_threads()
    return Taken(round(cpu, 3), round(resident / 1e6, 1), descriptors, threads)


def wait_for(what: str, ready: object, seconds: float = 90) -> None:
    """Wait until `ready()`; TimeoutError names `what`."""
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)
