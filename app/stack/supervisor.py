"""Child processes: started in order, each when the one before is ready; output with a coloured
prefix; stopped together.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from app.stack.embedded import StackError

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
STOP_SECONDS = 40.0  # longer than a worker's soft shutdown
RESTARTS = 5  # of a worker within RESTART_WINDOW seconds, then the stack stops
RESTART_WINDOW = 60.0


@dataclass
class Child:
    """One process of the stack."""

    name: str
    command: list[str]
    ready: Callable[[], bool]
    env: dict[str, str] = field(default_factory=dict)
    restart: bool = False  # workers: a lost Redis makes Celery exit, and the ledger heals the rest
    ready_seconds: float = 60.0
    process: subprocess.Popen[str] | None = None
    deaths: deque[float] = field(default_factory=deque)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=15))


class Supervisor:
    """Starts, watches and stops the children."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._children: list[Child] = []
        self._stopping = threading.Event()

    def start(self, child: Child) -> None:
        """Start a child and wait until it is ready. Raises StackError with its last words."""
        self._children.append(child)
        self._spawn(child)
        end = time.monotonic() + child.ready_seconds
        while not child.ready():
            self._check(child)
            if time.monotonic() > end:
                raise StackError(
                    f"{child.name} was not ready within {child.ready_seconds:.0f} s"
                    + self._last_words(child)
                )
            self._stopping.wait(0.1)

    def watch(self) -> None:
        """Stay until `stop` is asked for. Raises StackError when a child dies for good."""
        while not self._stopping.wait(0.25):
            for child in self._children:
                self._check(child)

    def request_stop(self) -> None:
        """End `watch`."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop all children, the last started first; those that do not listen are killed."""
        self._stopping.set()
        running = [c for c in reversed(self._children) if c.process and c.process.poll() is None]
        # Those that work with Redis go first, all together; Redis goes when they are gone.
        infrastructure = [child for child in running if child in self._children[:1]]
        for group in ([c for c in running if c not in infrastructure], infrastructure):
            for child in group:
                _signal(child, signal.SIGTERM)
            end = time.monotonic() + STOP_SECONDS
            for child in group:
                assert child.process is not None  # noqa: S101 - it is running
                try:
                    child.process.wait(max(0.1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _signal(child, signal.SIGKILL)
                    child.process.wait()

    def _spawn(self, child: Child) -> None:
        child.process = subprocess.Popen(  # noqa: S603 - our own command lines
            child.command,
            env={**os.environ, **child.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            # A group of its own: Ctrl-C reaches us alone, and we stop the children in order.
            start_new_session=True,
        )
        threading.Thread(
            target=self._relay, args=(child, child.process), name=child.name, daemon=True
        ).start()

    def _check(self, child: Child) -> None:
        if child.process is None or child.process.poll() is None or self._stopping.is_set():
            return
        why = f"{child.name} ended ({_reason(child.process.returncode)})"
        now = time.monotonic()
        child.deaths.append(now)
        while child.deaths and child.deaths[0] < now - RESTART_WINDOW:
            child.deaths.popleft()
        if not child.restart:
            raise StackError(why + self._last_words(child))
        if len(child.deaths) > RESTARTS:
            raise StackError(
                f"{why} {len(child.deaths)} times in a minute{self._last_words(child)}"
            )
        self._console.print(f"[bold yellow]{escape(why)}; starting it again[/]")
        self._spawn(child)

    def _relay(self, child: Child, process: subprocess.Popen[str]) -> None:
        colour = COLOURS[self._children.index(child) % len(COLOURS)]
        assert process.stdout is not None  # noqa: S101 - piped
        for line in process.stdout:
            text = line.rstrip()
            child.tail.append(text)
            if not self._quiet and text:
                self._console.print(
                    f"[{colour}]{child.name:>9} |[/] {escape(text)}",
                    highlight=False,
                    soft_wrap=True,
                )

    def _last_words(self, child: Child) -> str:
        self._stopping.wait(0.2)  # let the reader thread see the end of the output
        words = "\n".join(f"    {line}" for line in list(child.tail)[-8:])
        return f"; its last lines:\n{words}" if words else ""


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process is not None and child.process.poll() is None:
        # granian and Celery pass SIGTERM on themselves; SIGKILL must reach the whole group.
        if number is signal.SIGKILL:
            os.killpg(child.process.pid, number)
        else:
            child.process.send_signal(number)


def _reason(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
