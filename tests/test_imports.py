"""The floors of docs/architecture.md hold for every import, and the package's front door is small."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import palate

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "palate"


def floors() -> list[set[str]]:
    """The floor table of docs/architecture.md, from the ground up: the packages and modules of each floor."""
    rows = []
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 2:
            rows.append(set(re.findall(r"`(\w+)`", cells[0])))
    return rows


FLOORS = floors()
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
APART = next(names for names in FLOORS if "data" in names)
"""The floor whose members never import one another."""
ROOTS = {"__init__", "__main__", "score"}
"""Ways in: `python -m palate`, `python -m palate.score`."""


def home(path: Path) -> str:
    """The floor member a file belongs to: the first folder or module below palate."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """First-level palate modules a file imports anywhere: at the top, in functions, under TYPE_CHECKING."""
    found: set[str] = set()
    package = ["palate", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{a.name}" for a in node.names] if module == "palate" else [module]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("palate.")}
    return found - {"__version__"}


FILES = sorted(p for p in SOURCE.rglob("*.py"))


def test_the_table_is_read() -> None:
    assert len(FLOORS) >= 8
    assert {"schema", "errors"} == FLOORS[0]
    assert {"data", "features", "retrieve", "prompting", "model"} <= APART


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    member = home(path)
    if member in ROOTS:
        return
    assert member in LEVEL, f"{member} stands on no floor of docs/architecture.md; add it to the table"
    for other in imported(path) - {member}:
        assert other in LEVEL, f"{path}: imports palate.{other}, which stands on no floor"
        same = LEVEL[other] == LEVEL[member]
        assert LEVEL[other] <= LEVEL[member], f"{path}: {member} may not import {other}, a floor above"
        assert not (same and member in APART), f"{path}: {member} and {other} may not import one another"


def test_nothing_imports_apps() -> None:
    guilty = [p for p in FILES if home(p) not in ("apps", *ROOTS) and "apps" in imported(p)]
    assert guilty == []


def test_an_import_that_climbs_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule itself is tested: lazy, type-only and relative imports count."""
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from palate.apps import cli\n"
        "def f():\n    import palate.train.loop\n    from palate import evaluate\n"
        "    from ..engine import pack\n"
    )
    file = SOURCE / "data" / "catalog.py"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: text)
    assert imported(file) == {"apps", "train", "evaluate", "engine"}


def test_the_front_door() -> None:
    assert len(palate.__all__) <= 10
    assert sorted(palate.__all__) == list(palate.__all__)
    for name in palate.__all__:
        assert getattr(palate, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        palate.nonsense  # noqa: B018


def test_every_module_can_be_imported() -> None:
    for path in FILES:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] != "__main__":
            importlib.import_module(".".join(["palate", *[p for p in parts if p != "__init__"]]))


@pytest.mark.parametrize("start", ["import palate", "import palate.apps.cli as c; c.build()"])
def test_a_quick_start_imports_nothing_heavy(start: str) -> None:
    heavy = ["torch", "transformers", "datasets", "pandas", "scipy", "peft", "sentence_transformers", "numpy"]
    code = f"import sys; {start}; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
