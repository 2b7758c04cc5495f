"""Every output says what made it: command, versions, seeds, and the fingerprints of what it was made from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import palate
from palate.apps.cli import run
from palate.evaluate import environment
from palate.train.export import public_words

KEYS = {"command", "palate", "versions", "seeds", "fingerprints"}


def checked(made: dict[str, Any], *prints: str) -> dict[str, Any]:
    """A manifest that is whole, and names these things."""
    assert set(made) == KEYS
    assert made["palate"] == palate.__version__
    assert {"python", "torch", "numpy"} <= set(made["versions"])
    assert made["command"]
    assert set(made["fingerprints"]) == set(prints)
    assert all(made["fingerprints"].values())
    return made


def test_a_manifest_leaves_out_what_was_not_there() -> None:
    made = environment.manifest("palate score", {"draw": 3}, {"data": "abc", "adapter": {}, "new_items": None})
    assert checked(made, "data")["seeds"] == {"draw": 3}


def test_the_command_is_told_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/palate", "train", "a b.yaml"])
    assert environment.command_line() == "palate train 'a b.yaml'"
    home = Path(palate.__file__).parent
    for file, name in (("train/__main__.py", "palate.train"), ("score.py", "palate.score")):
        monkeypatch.setattr(sys, "argv", [str(home / file), "x"])
        assert environment.command_line() == f"python -m {name} x"


def test_a_bundle_tells_no_place_of_a_machine() -> None:
    words = [
        "train",
        "/somewhere/me/configs/mine.yaml",
        "data=/somewhere/me/d",
        "train.run=/tmp/r",
        "train.epochs=2",
        "--continue",
    ]
    assert public_words([*words, "../adapters/old/"]) == ["train", "mine.yaml", "train.epochs=2", "--continue", "old"]


def outputs(tiny_data: Path, out: Path) -> None:
    """The commands that need no model."""
    data = str(tiny_data)
    assert run(["features", data, "--modality", "behaviour", "-o", str(out / "f.safetensors")]) == 0
    assert run(["evaluate", data, "--against", "popularity", "--protocol", "loo-full", "-o", str(out / "e.json")]) == 0
    assert run(["report", str(out / "e.json"), "-o", str(out / "r.json")]) == 0


def test_outputs_of_commands_have_one(tiny_data: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    outputs(tiny_data, tmp_path)
    with safe_open(tmp_path / "f.safetensors", framework="numpy") as file:
        checked(json.loads(file.metadata()["manifest"]), "data", "features")
    evaluated = json.loads((tmp_path / "e.json").read_text())
    assert checked(evaluated["manifest"], "data", "candidates")["seeds"] == {"evaluation": 1}
    assert evaluated["manifest"]["fingerprints"]["data"] == evaluated["data_fingerprint"]
    told = json.loads((tmp_path / "r.json").read_text())
    assert checked(told["manifest"], "data")["fingerprints"]["data"] == [evaluated["data_fingerprint"]]


def test_pictures_and_tables_have_one_beside_them(tmp_path: Path) -> None:
    beside = environment.write_beside(tmp_path / "sheet.png", environment.manifest("palate neighbours"))
    assert beside.name == "sheet.png.manifest.json"
    checked(json.loads(beside.read_text()))
