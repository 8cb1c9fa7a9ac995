"""Rules, runbook, dashboards and the table of settings. `python -m tests.observe.test_operations`
writes the table anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from config.settings import Settings

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
PAGE = ROOT / "docs" / "operations.md"
HEADING = "## Settings\n"


def settings_table() -> str:
    rows = ["| setting | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if default is None or default is PydanticUndefined or isinstance(default, SecretStr):
            default = ""
        if isinstance(default, Enum):
            default = default.value
        text = (field.description or "").replace("|", "\\|")
        shown = f"`{default}`" if default not in ("", [], {}) else ""
        rows.append(f"| `{name.upper()}` | {shown} | {text} |")
    return "\n".join(rows) + "\n"


def alerts() -> dict[str, dict]:
    text = (MONITORING / "prometheus/rules/alerts.yml").read_text()
    return {
        rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]
    }


def test_every_setting_is_described_as_it_is() -> None:
    assert PAGE.read_text().endswith("\n" + settings_table()), (
        "run python -m tests.observe.test_operations"
    )


def test_every_alert_has_its_paragraph_and_no_other() -> None:
    section = PAGE.read_text().split("## Alerts")[1].split(HEADING)[0]
    assert set(re.findall(r"^### (\w+)$", section, re.MULTILINE)) == set(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"


@pytest.mark.slow
def test_the_rules(promtool: str) -> None:
    tests = MONITORING / "prometheus/tests/alerts.yml"
    checked = subprocess.run(
        [promtool, "test", "rules", str(tests)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_each_alert_is_seen_to_fire() -> None:
    tests = yaml.safe_load((MONITORING / "prometheus/tests/alerts.yml").read_text())["tests"]
    fired = {
        one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]
    }
    assert fired == set(alerts())


def test_the_dashboards_are_as_built() -> None:
    built = MONITORING / "grafana/dashboards"
    before = {path.name: path.read_text() for path in built.glob("*.json")}
    sys.path.insert(0, str(MONITORING / "grafana"))
    try:
        import build
    finally:
        sys.path.pop(0)
    assert before == {f"{name}.json": build.dashboard(name) for name in build.DASHBOARDS}


@pytest.mark.parametrize("path", sorted((MONITORING / "grafana/dashboards").glob("*.json")))
def test_every_panel_has_a_place_and_a_query(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) >= 6
    assert all(target["expr"] for panel in panels for target in panel["targets"])


if __name__ == "__main__":
    head = PAGE.read_text().split(HEADING)[0]
    intro = (
        "All are read from the environment and from `.env`. "
        "A bad value stops the start with one clear line."
    )
    PAGE.write_text(f"{head}{HEADING}\n{intro}\n\n{settings_table()}")
