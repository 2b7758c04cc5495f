"""`palate doctor` on a cache that is whole and on one that is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palate import sources
from palate.apps import cli
from wheel_index import SINGLE, build_wheel


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return dict(json.loads(capsys.readouterr().out)["checks"])


def test_a_corrupted_entry_is_named_and_can_be_mended(wheel_index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_wheel(wheel_index)
    file = sources.fetch(SINGLE, progress=False)
    assert cli.run(["doctor", "--json"]) == 0
    assert told(capsys)["cache entries"]["text"] == "1 entries have the hashes they were stored with"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"!")  # as long as before
    assert cli.run(["doctor", "--json"]) == 1
    check = told(capsys)["cache entries"]
    assert SINGLE in check["text"]
    assert "palate models fetch" in check["text"]
    assert sources.fetch(SINGLE, progress=False, verify=True).read_bytes() == good
    assert cli.run(["doctor", "--json"]) == 0


def test_a_damaged_manifest_is_named(wheel_index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_wheel(wheel_index)
    sources.fetch(SINGLE, progress=False)
    ((folder, _),) = sources.entries()
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    assert cli.run(["doctor", "--json"]) == 1
    assert str(folder) in told(capsys)["cache entries"]["text"]


def test_adapters_and_data_sets_here_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel_index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, name in (("adapters/mine", "palate.json"), ("data/films", "dataset.yaml")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text("{", encoding="utf-8")
    assert cli.run(["doctor", "--json"]) == 1
    text = told(capsys)["folders"]["text"]
    assert "adapters/mine" in text
    assert "data/films" in text
