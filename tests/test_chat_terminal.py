"""palate chat in a real terminal (a pseudo-terminal driven by pexpect), and piped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facade import tiny_bundle
from palate.apps.commands.chat import completions

pexpect = pytest.importorskip("pexpect")
WAIT = 90


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> list[str]:
    adapter = tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)
    where = ["-a", str(adapter), "--data", str(tiny_data), "--device", "cpu", "-H", "Alien"]
    return ["-m", "palate", "chat", *where]


def spawn(command: list[str], *more: str) -> pexpect.spawn[str]:
    env = {**os.environ, "TERM": "xterm", "PYTHONUNBUFFERED": "1"}
    env.pop("NO_COLOR", None)
    child = pexpect.spawn(
        sys.executable, [*command, *more], env=env, encoding="utf-8", timeout=WAIT, dimensions=(40, 200)
    )
    child.expect_exact("> ")
    return child


def test_a_conversation_in_a_terminal(command: list[str]) -> None:
    child = spawn(command, "-k", "2", "--context", "weekday=Friday")
    assert "Tab completes titles" in child.before
    child.sendline("a comedy or a drama")
    child.expect(r"2 movies \(Comedy or Drama\):")
    child.expect(r"1\. \x1b\[1m([^\x1b]+)\x1b\[0m\x1b\[2m \(19\d\d\)")  # bold, then dim
    first = child.match[1]
    child.expect_exact("> ")
    child.sendline("why?")
    child.expect_exact(f"{first}: ")
    child.expect_exact("> ")
    child.send("I hated Batm\t\n")
    child.expect_exact("less like Batman from now on")
    child.expect_exact("> ")
    child.send("something like Toy\t")
    child.expect_exact("Toy Story   Toy Story 2")
    child.expect_exact("> something like Toy Story")
    child.sendcontrol("u")
    time.sleep(0.5)  # a Ctrl-C that meets the completion's own code is lost
    child.sendintr()
    child.expect_exact("Ctrl-D leaves")
    child.expect_exact("> ")
    child.sendline("像《Heat》一样的")
    child.expect_exact("2部电影（像《Heat》）：")
    child.expect_exact("> ")
    child.sendeof()
    child.expect_exact("Bye.")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_no_colours_where_none_are_wanted(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        input="a drama\nquit\nnever\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert re.match(r"\d movies \(Drama\):\n1\. .+: .+\n", done.stdout)
    assert "never" not in done.stdout
    assert ">" not in done.stdout


def test_json_lines(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "a drama", "why?", "", "--json", "-k", "2"],
        capture_output=True, text=True, timeout=WAIT, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [f["asked"] for f in found] == ["a drama", "why?", ""]
    assert [len(f["items"]) for f in found] == [2, 0, 0]
    assert {"rank", "item_id", "title", "score", "reason"} == found[0]["items"][0].keys()
    bad = subprocess.run(
        [sys.executable, *command, "x", "--context", "friday"],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert bad.returncode == 2
    assert "--context: expected NAME=VALUE" in bad.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("something like Toy", ["something like Toy Story", "something like Toy Story 2"]),
        ("I have seen Jaws and al", ["I have seen Jaws and Alien", "I have seen Jaws and Aliens"]),
        ("why ali", ["why Alien", "why Aliens"]),
        ("toy story 2", ["Toy Story 2"]),
        ("mo", ["more"]),
        ("why ", []),
        ("like Zz", []),
    ],
)
def test_completions(line: str, expected: list[str]) -> None:
    assert list(completions(line, ["Alien", "Aliens", "Jaws", "Toy Story", "Toy Story 2"])) == expected
