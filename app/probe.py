"""Is a process alive? It touches a file while it is, and a probe looks at the file's age.

A probe starts every few seconds beside every process, so this module imports nothing but the
standard library: `python -m app.probe FILE SECONDS`. `inferenceflow probe` does the same.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def heartbeat_fault(file: Path, max_age_seconds: float) -> str | None:
    """What is wrong with the heartbeat, or None if it is young enough."""
    try:
        age = time.time() - file.stat().st_mtime
    except OSError as error:
        return f"{file}: {error.strerror}"
    if age > max_age_seconds:
        return f"{file}: touched {age:.0f} s ago, more than {max_age_seconds:.0f} s"
    return None


def main(arguments: list[str]) -> int:
    """The exit status: 0 alive, 1 not, 2 wrongly called."""
    try:
        file, seconds = Path(arguments[0]), float(arguments[1])
    except (IndexError, ValueError):
        sys.stderr.write("usage: python -m app.probe FILE SECONDS\n")
        return 2
    fault = heartbeat_fault(file, seconds)
    if fault is not None:
        sys.stderr.write(fault + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
