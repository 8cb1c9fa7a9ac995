from __future__ import annotations

import json
import logging

import pytest

from config.logs import ConsoleFormatter, JSONFormatter, configure_logging, log_context
from config.settings import Settings


def record(message: str = "hello", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("a.b", logging.INFO, "f.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_json_lines_carry_context_and_extra() -> None:
    with log_context(request_id="r"), log_context(job_id="j", tenant="t"):
        line = json.loads(JSONFormatter().format(record(action="x", count=3)))
    assert line["message"] == "hello"
    assert (line["request_id"], line["job_id"], line["tenant"]) == ("r", "j", "t")
    assert (line["action"], line["count"], line["level"]) == ("x", 3, "info")


def test_context_ends_with_its_block() -> None:
    with log_context(job_id="j"):
        pass
    assert "job_id" not in json.loads(JSONFormatter().format(record()))


def test_a_newline_cannot_forge_a_line() -> None:
    line = JSONFormatter().format(record("a\n{}", user="b\n{}"))
    assert "\n" not in line


def test_task_arguments_stay_out() -> None:
    line = JSONFormatter().format(record(kwargs="secret", return_value="secret"))
    assert "secret" not in line


@pytest.mark.parametrize("formatter", [JSONFormatter(), ConsoleFormatter()])
def test_exceptions_are_written(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        made = record()
        made.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError: boom" in formatter.format(made)


def test_console_form() -> None:
    with log_context(job_id="j"):
        line = ConsoleFormatter().format(record(action="x"))
    assert "hello" in line
    assert "job_id='j' action='x'" in line


def test_form_is_chosen(monkeypatch) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging(Settings(_env_file=None, log_format="auto"))
        assert isinstance(root.handlers[0].formatter, JSONFormatter)
        configure_logging(Settings(_env_file=None, log_format="console", log_level="ERROR"))
        assert isinstance(root.handlers[0].formatter, ConsoleFormatter)
        assert root.level == logging.ERROR
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
