"""`inferenceflow cache evaluate` and `... replay`: as anybody runs them, in a process, and what
they say in each case, in this process, where the models' libraries are loaded already.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.cache import evaluate, replay
from workers.cache.embedding import MODELS

PAIRS = (
    "a,b,same,source\n"
    "How do I reset my password?,How can I reset my password,1,mine:same\n"
    "Cancel my order,Do not cancel my order,0,mine:trap\n"
    "Wake me at 5,Wake me at 6,0,mine:trap\n"
)
STREAM = (
    "prompt,answer_id\n"
    "How do I reset my password?,reset\n"
    "how do I reset my password,reset\n"
    "How can I reset my password?,reset\n"
    "Who painted Guernica?,picasso\n"
)


Run = Callable[..., subprocess.CompletedProcess[str]]


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "cache", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The programs that those commands hand over to, in this process."""

    def call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = {"evaluate": evaluate.main, "replay": replay.main}[command]
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        status = 0
        try:
            program()
        except SystemExit as ended:
            status = int(ended.code or 0)
        return subprocess.CompletedProcess([command, *arguments], status, *capsys.readouterr())

    return call


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.csv.gz"])
def test_evaluate_prints_one_json_object(run: Run, tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(gzip.compress(PAIRS.encode()) if name.endswith("gz") else PAIRS.encode())
    ended = run("evaluate", str(path), "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert {"sources", "lookup_ms", "baselines"} <= set(found)
    assert set(found["lookup_ms"]) == {"p50", "p95"}
    mine = found["sources"]["mine"]
    assert {"n_same": 1, "n_different": 2}.items() <= mine.items()
    low, high = mine["recall_interval"]
    assert 0.0 <= low <= mine["recall"] <= high <= 1.0
    assert mine["false_hit_rate"] == 0.0
    assert set(found["baselines"]) == {"cosine_0.85", "cosine_0.95", "redisvl_default"}
    for baseline in found["baselines"].values():
        assert set(baseline["sources"]) == set(found["sources"])
        assert set(baseline["lookup_ms"]) == {"p50", "p95"}


def test_a_process_replays_and_prints_one_json_object(tmp_path: Path):
    path = tmp_path / "stream.csv"
    path.write_text(STREAM)
    ended = run_process("replay", str(path), "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["hit_rate"] == pytest.approx(0.5)
    assert found["exact_hit_rate"] == pytest.approx(0.25)
    assert found["wrong_rate"] == 0.0
    assert found["ideal_hit_rate"] == pytest.approx(0.5)
    assert found["wrong_rate_interval"][1] > 0.0


def test_without_json_a_table_for_people_is_printed(run: Run, tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text(PAIRS)
    ended = run("evaluate", str(path), "--threshold", "0.9", "--bar", "0.9")
    assert ended.returncode == 0, ended.stderr
    assert "mine:trap" in ended.stdout
    assert "cosine_0.85" in ended.stdout


def test_the_table_of_a_replay_names_what_was_served_wrongly(run: Run, tmp_path: Path):
    path = tmp_path / "stream.csv"
    path.write_text("prompt,answer_id\nWho painted Guernica?,1\nWho painted Guernica?,2\n")
    ended = run("replay", str(path))
    assert ended.returncode == 0, ended.stderr
    assert "1 x 'Who painted Guernica?' served from 'Who painted Guernica?'" in ended.stdout


@pytest.mark.parametrize(
    ("command", "text", "complaint"),
    [
        ("evaluate", "a,b\nx,y\n", "no column same"),
        ("replay", "prompt\nx\n", "no column answer_id"),
        ("evaluate", "a,b,same\nx\n", "too few columns"),
    ],
)
def test_a_bad_table_is_named_in_one_line(
    run: Run, tmp_path: Path, command: str, text: str, complaint: str
):
    path = tmp_path / "table.csv"
    path.write_text(text)
    ended = run(command, str(path))
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "replay"])
def test_a_process_names_a_missing_file(command: str):
    ended = run_process(command, "no-such-file.csv")
    assert ended.returncode == 2
    assert "no-such-file.csv" in ended.stderr


def test_a_split_and_another_verifier_can_be_named(run: Run, tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text("a,b,same,split\nBuy it,Buy it now,1,train\nBuy it,Sell it,0,validate\n")
    ended = run("evaluate", str(path), "--json", "--split", "validate",
                "--verifier", str(MODELS / "verifier"))  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["sources"]["all"]["n_same"] == 0


def test_a_folder_without_a_verifier_is_named(run: Run, tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text(PAIRS)
    ended = run("evaluate", str(path), "--verifier", str(tmp_path))
    assert ended.returncode == 2
    assert "cannot be used" in ended.stderr
