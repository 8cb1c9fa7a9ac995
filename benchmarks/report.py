"""Results of a benchmark: JSON for programs, a Markdown table for people, both with the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

OURS = ("celery", "flask", "granian", "hiredis", "orjson", "pydantic", "redis")


def machine() -> dict[str, Any]:
    """What it was measured on, with the load of others at the time."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in OURS if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def cell(values: Sequence[float], digits: int = 0) -> str:
    """Median with least and greatest, for a table."""
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def write(name: str, command: str, rows: Sequence[Mapping[str, str]], data: Any, out: Path) -> None:
    """Write `{name}.json` and `{name}.md` into `out`, and show the table."""
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    record = {"benchmark": name, "command": command, "machine": about, "results": data}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    columns = list(rows[0])
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    lines = [
        f"`{command}`",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "|".join("---" if i == 0 else "---:" for i in range(len(columns))) + "|",
        *("| " + " | ".join(row[column] for column in columns) + " |" for row in rows),
        "",
        f"{about['time']}, {about['cores']} cores ({about['cpu']}), load {about['load_1m']},",
        f"Python {about['python']}, {versions}",
        "",
    ]
    (out / f"{name}.md").write_text("\n".join(lines))
    print("\n".join(lines))


def git_revision() -> str:
    """The commit that is measured."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
