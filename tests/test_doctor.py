"""`palate doctor` on a cache that is whole and on one that is not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palate import sources
from palate.apps import cli
from palate.engine.runner import Runner
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


def test_the_engine_is_tried(wheel_index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    text = told(capsys)["engine"]["text"]
    assert "cpu: 36 candidates packed in" in text
    assert "from one forward each" in text


@pytest.mark.parametrize(
    ("broken", "match"),
    [
        (lambda tokens, at: tokens + 1e-2, "packed scores differ by 1.0e-02 from one forward a candidate"),
        (lambda tokens, at: tokens + 9e-5 * (-1) ** at, "scores move by .* with the order of candidates"),
        (lambda tokens, at: tokens * float("nan"), "packed scores differ by nan"),
    ],
)
def test_an_engine_that_is_off_is_told(
    broken: Any, match: str, monkeypatch: pytest.MonkeyPatch, wheel_index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, calls = Runner.run, iter(range(9))

    def off(self: Runner, jobs: Any) -> Any:
        at = next(calls)
        for output in run(self, jobs):
            yield replace(output, tokens=[broken(t, at) for t in output.tokens])

    monkeypatch.setattr(Runner, "run", off)
    assert cli.run(["doctor", "--json"]) == 1
    assert re.search(match, told(capsys)["engine"]["text"])
