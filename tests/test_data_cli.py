"""`palate data import | check | stats`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from palate.apps.commands import data
from palate.errors import DataError

run = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    data.register(app)
    return app


def test_import_check_and_stats(app: typer.Typer, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    done = run.invoke(app, ["data", "import", str(tiny_data), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["counts"]["items"] == 24
    assert report["media"] == {"image": [2, 22]}

    checked = run.invoke(app, ["data", "check", str(out)])
    assert checked.exit_code == 0
    assert "2 items have a file, 22 have none" in checked.output
    assert "no bad rows" in checked.output

    described = run.invoke(app, ["data", "stats", str(out), "--json"])
    assert json.loads(described.stdout)["users"] == 30
    table = run.invoke(app, ["data", "stats", str(out)])
    assert "density" in table.output


def test_the_default_folder_is_named_after_the_source(
    app: typer.Typer, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run.invoke(app, ["data", "import", str(tiny_data)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "data" / tiny_data.name / "items.parquet").is_file()


def test_bad_rows_are_shown_with_their_place(app: typer.Typer, tiny_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in tiny_data.glob("*.*"):
        (source / path.name).write_bytes(path.read_bytes())
    with (source / "interactions.csv").open("a") as f:
        f.write("1,[red]nope[/red],5,1\n")
    done = run.invoke(app, ["data", "check", str(source)], env={"COLUMNS": "160"})
    assert "unknown item" in done.output
    assert "column 'item_id': unknown item, got '[red]nope[/red]'" in done.output
    with pytest.raises(DataError, match="rows are bad"):
        run.invoke(app, ["data", "import", str(source), "--out", str(tmp_path / "o"), "--max-rejects", "0"],
                   catch_exceptions=False)  # fmt: skip


@pytest.mark.parametrize("command", ["import", "check", "stats"])
def test_every_help_has_an_example(app: typer.Typer, command: str) -> None:
    done = run.invoke(app, ["data", command, "--help"])
    assert f"Example: palate data {command}" in " ".join(done.output.split())
