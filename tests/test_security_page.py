"""SECURITY.md: every promise names a file and tests that exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def promises() -> list[tuple[str, str, list[str]]]:
    """(promise, file, tests) of each row of the table."""
    table = PAGE.split("| promise | kept in | held by |", 1)[1].split("\n\n", 1)[0]
    rows = [line.strip().strip("|").split(" | ") for line in table.splitlines()[2:]]
    return [(what.strip(), where.strip().strip("`"), re.findall(r"`([^`]+)`", tests)) for what, where, tests in rows]


def judges(node: ast.AST) -> bool:
    """Whether a function asserts something or expects an error."""
    inside = list(ast.walk(node))
    named = [n.attr for n in inside if isinstance(n, ast.Attribute)]
    return any(isinstance(n, ast.Assert) for n in inside) or any(n.startswith(("assert", "raises")) for n in named)


@functools.cache
def functions(file: str) -> set[str]:
    """Tests of a file that judge by themselves or by a function of that file."""
    made = [n for n in ast.parse((ROOT / file).read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)]
    judging = {n.name for n in made if judges(n)}
    asked = {n.name: {c.id for c in ast.walk(n) if isinstance(c, ast.Name)} for n in made}
    return {name for name, used in asked.items() if name.startswith("test_") and (name in judging or used & judging)}


@pytest.mark.parametrize(("what", "where", "tests"), promises(), ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_a_promise_has_a_place_and_a_test(what: str, where: str, tests: list[str]) -> None:
    assert (ROOT / where).is_file(), where
    assert tests, what
    for test in tests:
        file, _, name = test.partition("::")
        assert name in functions(file), test


def test_no_promise_is_made_twice() -> None:
    told = [what for what, _, _ in promises()]
    assert len(told) == len(set(told)) > 25
