"""Pages cannot rot: what follows from the code is what the code says, commands parse, links resolve, code compiles."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from palate.apps import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in ("runs", "data", "demo") for part in path.relative_to(ROOT).parts)
)
"""Every Markdown file of the repository."""
USERS_OWN = re.compile(r"mine|films|series|NAME|FILE|\*|<|\$")
"""In a path: a placeholder that stands for a user's own file."""


@functools.cache
def program() -> Any:
    """The command `palate`, with all its sub-commands."""
    return get_command(cli.build())


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *languages: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, flags=re.S | re.M)


def lines(path: Path) -> Iterator[list[str]]:
    """The words of every command in the shell blocks of a page, continued lines joined, without redirections."""
    for block in blocks(path, "bash", "sh", "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for mark in ("|", "&&", ">", "2>", "&"):
                words = words[: words.index(mark)] if mark in words else words
            if words:
                yield words


COMMANDS = [(named(path), words) for path in PAGES for words in lines(path) if words[0] == "palate"]


# --- what follows from the code ---------------------------------------------------------------------------


def pages(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/pages.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_pages_made_from_the_code_are_what_it_says() -> None:
    done = pages("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    made = importlib.import_module("pages")
    path = ROOT / "docs" / "cli.md"
    monkeypatch.setattr(made, "pages", lambda: {path: path.read_text(encoding="utf-8") + "more"})
    monkeypatch.setattr(sys, "argv", ["pages.py", "--check"])
    assert made.main() == 1
    assert "docs/cli.md: not what the code says; run python scripts/pages.py" in capsys.readouterr().out


def test_every_command_and_every_key_is_on_its_page() -> None:
    from palate.config import RunConfig

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command in program().commands.items():
        assert f"\n## palate {name}" in page, name
        assert command.help, name
    keys = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` |" in keys for key in RunConfig.model_fields)


# --- commands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{p}: {' '.join(w)[:60]}" for p, w in COMMANDS])
def test_a_command_on_a_page_can_be_parsed(page: str, words: list[str]) -> None:
    check(words[1:])


def check(words: list[str]) -> None:
    """Options and sub-commands are those of the program; values are not looked at."""
    command: Any = program()
    context = command.context_class(command, info_name="palate")
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"palate has no command {words[0]!r}"
        command = command.commands[words[0]]
        context = command.context_class(command, info_name=words[0], parent=context)
        words = words[1:]
    if "--help" in words or not words:
        return
    command.make_parser(context).parse_args(args=list(words))


def test_the_parser_of_this_test_sees_mistakes() -> None:
    check(["data", "check", "data/mine", "--json"])
    with pytest.raises(AssertionError, match="no command 'scor'"):
        check(["scor", "x"])
    with pytest.raises(Exception, match="--adaptor"):
        check(["score", "x", "--adaptor", "y"])


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_named_in_a_sentence_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = set(program().commands)
    assert set(re.findall(r"`palate ([a-z][a-z-]*)", text)) <= known
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"`make ([a-z][a-z-]*)`", text)) <= targets


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_files_that_commands_take_from_the_repository_are_there(path: Path) -> None:
    folders = ("configs/", "adapters/", "examples/", "benchmarks/", "notebooks/", "scripts/", "prompts/", "tests/")
    wanted = {w for words in lines(path) for w in words if w.startswith(folders) and not USERS_OWN.search(w)}
    assert [w for w in sorted(wanted) if not (ROOT / w).exists()] == []


# --- links, code, examples --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), target
        assert aim.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(aim), target


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get on the web."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


PYTHON = [(named(path), n, code) for path in PAGES for n, code in enumerate(blocks(path, "python", "py"), 1)]


@pytest.mark.parametrize(("page", "n", "code"), PYTHON, ids=[f"{p}-{n}" for p, n, _ in PYTHON])
def test_python_on_a_page_compiles_and_what_it_imports_is_there(page: str, n: int, code: str) -> None:
    tree = ast.parse(code, page)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert importlib.util.find_spec(alias.name.split(".")[0]), alias.name
        if isinstance(node, ast.ImportFrom):
            assert node.module, "a page cannot import relatively"
            assert importlib.util.find_spec(node.module.split(".")[0]), node.module
            if node.module.split(".")[0] == "palate":
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_every_example_has_a_test_that_runs_it() -> None:
    tests = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py"))
    for path in (ROOT / "examples").glob("*.py"):
        if path.name != "__init__.py":
            assert re.search(rf"examples(/{path.name}|\.{path.stem}\b| import .*\b{path.stem}\b)", tests), path.name


# --- what is locked ---------------------------------------------------------------------------------------


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("tools")


def test_the_lock_has_the_pins_of_the_constraints_each_with_hashes(tools: Any) -> None:
    wanted = tools.pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert tools.pins(text) == {n: v for n, v in wanted.items() if n != "torch"}, "run python scripts/lock.py"
    held = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", one) for one in held)
    assert "://" not in text


def test_every_locked_package_has_its_licence_listed(tools: Any) -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\S+) \| (.+?) \|", page, flags=re.M))
    assert set(tools.pins((ROOT / "requirements.lock").read_text(encoding="utf-8"))) <= set(listed)
    assert "unknown" not in listed.values()


def test_an_audit_that_looked_nothing_up_is_no_clean_one(tools: Any, capsys: pytest.CaptureFixture[str]) -> None:
    audit = importlib.import_module("audit")
    rows = [{"name": "numpy", "skip_reason": "not found"}, {"name": "pip", "skip_reason": "not found"}]
    found = audit.judged(rows)
    assert found.unchecked == ("numpy: not found",)
    assert audit.report({"advisories": found}) == audit.UNCHECKED == 3
    assert "NOT everything was checked: advisories (1)" in capsys.readouterr().out
    bad = audit.judged([{"name": "x", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}, rows[0]])
    assert bad.bad == ("x 1: CVE-1, mended in 2",)
    assert audit.report({"advisories": bad}) == audit.FOUND == 1
    assert audit.report({"advisories": audit.judged([{"name": "x", "version": "1", "vulns": []}])}) == 0


def test_a_changed_file_is_found(tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    audit = importlib.import_module("audit")
    (tmp_path / "x.py").write_text("1\n")
    info = tmp_path / "x-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1\nLicense-Expression: MIT\n")
    (info / "RECORD").write_text(f"x.py,sha256={audit._sha256(tmp_path / 'x.py')},2\nx-1.dist-info/RECORD,,\n")
    monkeypatch.setattr(audit, "installed", lambda: {"x": metadata.PathDistribution(info)})
    assert audit.files() == audit.Verdict("1 files")
    assert audit.licences().unchecked == ()
    (tmp_path / "x.py").write_text("2\n")
    assert audit.files().bad == ("x: x.py was changed after it was installed",)
