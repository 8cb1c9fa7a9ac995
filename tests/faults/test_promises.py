"""The table of promises tells the truth: its tests are there, and each can fail."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import pytest

from tests.faults.mutants import MUTANTS, ROOT, Mutant

TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)*)`")


@dataclass(frozen=True)
class Promise:
    fault: str
    tests: list[str]
    mutants: list[str]


def promises() -> list[Promise]:
    lines = (ROOT / "docs" / "promises.md").read_text().splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")][1:]
    return [
        Promise(row[0].strip(), TEST.findall(row[3]), re.findall(r"`([\w-]+)`", row[4]))
        for row in rows
        if len(row) == 5
    ]


def defined(path: str) -> set[str]:
    """`::`-joined names of all functions and classes of a file."""
    found = set()

    def walk(node: ast.AST, before: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found.add(before + child.name)
                walk(child, f"{before}{child.name}::")

    walk(ast.parse((ROOT / path).read_text()), "")
    return found


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.fault[:40])
def test_every_promise_has_tests_that_are_there_and_mutants(promise: Promise) -> None:
    assert promise.tests
    for test in promise.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert not name or name in defined(path), test
    assert promise.mutants, "take its mechanism away in tests/faults/mutants.py"
    known = {one.name: one for one in MUTANTS}
    for name in promise.mutants:
        runs = known[name].test
        assert any(runs.startswith(test) for test in promise.tests), (name, runs)


def test_every_mutant_is_named() -> None:
    named = [name for promise in promises() for name in promise.mutants]
    assert sorted(named) == sorted(one.name for one in MUTANTS)
    assert len(promises()) >= 30


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mechanism_is_where_its_mutant_looks(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert mutant.applied(text) != text
