"""What the README and the example show is there and runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from palate.apps.cli import build
from palate.data import DatasetSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_every_command_in_the_readme_exists() -> None:
    command = get_command(build())
    known = set(command.commands)  # type: ignore[attr-defined]
    used = {m for block in blocks("bash") for m in re.findall(r"^palate ([a-z][a-z-]*)", block, flags=re.M)}
    assert used >= {"recommend", "score", "evaluate", "chat", "train", "data"}
    assert used <= known


def test_the_readmes_dataset_yaml_is_valid() -> None:
    import yaml

    [text] = blocks("yaml")
    spec = DatasetSpec.parse(yaml.safe_load(text), "README.md")
    assert spec.wording.verb == "bought"


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_no_machine_path_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert listed or not (ROOT / ".git").exists()
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".md", ".yaml", ".json", ".py", ".ipynb", ".toml", ".txt"} and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(^|[^a-zA-Z.])/(work|root|home)/[a-z]", text), name


@pytest.mark.weights
@pytest.mark.slow
def test_the_example_ranks_a_new_item() -> None:
    done = subprocess.run(
        [sys.executable, "examples/new_item.py", "adapters/ml-100k"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Orbit of Glass   <- new" in done.stdout
