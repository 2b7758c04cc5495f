"""The command line: found commands, quick help, one clear line for a mistake, exit codes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import typer

from facade import tiny_bundle
from palate.apps import cli
from palate.errors import PalateError, PalateWarning

HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy", "numpy", "pyarrow", "peft", "pydantic", "yaml")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)


@pytest.fixture
def where(adapter: Path, tiny_data: Path) -> list[str]:
    return ["-a", str(adapter), "--data", str(tiny_data), "--device", "cpu"]


def palate(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "palate", *args], capture_output=True, text=True, check=False)


def commands() -> list[list[str]]:
    """Every command path of the app."""
    top = typer.main.get_command(cli.build())
    found = []
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [[name, sub] for sub in inner] if inner else [[name]]
    return found


# --- help -------------------------------------------------------------------------------------------


def test_help_is_quick_and_light() -> None:
    """Processor time, best of three: a busy machine is not the program's fault."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = palate("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert out.returncode == 0
        assert "score" in out.stdout
        assert "recommend" in out.stdout
    assert min(spent) < 0.5
    code = "import sys; from palate.apps.cli import run; run(['--help']); print(set(sys.argv) & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "set()"


def test_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for path in commands():
        assert cli.run([*path, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"Example: palate {' '.join(path)}" in " ".join(text.split()), path


def test_commands_stand_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = list(dict.fromkeys(path[0] for path in commands()))
    assert {"score", "recommend", "explain", "chat", "data", "train", "evaluate", "models"} <= set(names)
    assert names.index("score") < names.index("recommend") < names.index("chat")


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("palate 0.")
    assert cli.run([]) == 0
    assert "Usage: palate" in capsys.readouterr().out


def test_a_broken_command_hurts_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "spare_commands"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "fine.py").write_text(
        "def register(app):\n    @app.command('fine')\n    def fine() -> None:\n        print('fine it is')\n"
    )
    (folder / "serve.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    import spare_commands  # type: ignore[import-not-found]

    real = cli.build
    monkeypatch.setattr(cli, "build", lambda: real(spare_commands))
    assert cli.run(["--help"]) == 0
    assert "serve" in capsys.readouterr().out
    assert cli.run(["fine"]) == 0
    assert "fine it is" in capsys.readouterr().out
    assert cli.run(["serve"]) == 2
    assert "command 'serve' cannot be loaded: ModuleNotFoundError: No module" in capsys.readouterr().err


# --- errors -----------------------------------------------------------------------------------------


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def app(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "build", lambda: app)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, code, line in [
        (PalateError("expected a cake, got a pie"), 2, "palate: expected a cake, got a pie\n"),
        (KeyboardInterrupt(), 130, "palate: interrupted\n"),
        (RuntimeError("two\nlines"), 1, "palate: unexpected RuntimeError: two lines; run again with --debug"),
    ]:
        raising(error, monkeypatch)
        assert cli.run(["x"]) == code
        out = capsys.readouterr()
        assert out.err.startswith(line)
        assert out.out == ""
        assert out.err.count("\n") == 1
    for error in (PalateError("a"), RuntimeError("b")):
        raising(error, monkeypatch)
        with pytest.raises(type(error)):
            cli.run(["x", "--debug"])


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def app(**_: object) -> None:
        warnings.warn("a picture cannot be read", PalateWarning, stacklevel=1)
        warnings.warn("a picture cannot be read", PalateWarning, stacklevel=1)
        warnings.warn("noise of a library", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr(cli, "build", lambda: app)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.run(["x"]) == 0
    assert capsys.readouterr().err.count("palate: warning: a picture cannot be read\n") == 2


def test_usage_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for args, said in [
        (["scor"], "No such command 'scor'"),
        (["recommend", "-k", "many", "-a", "x"], "Invalid value for '-k'"),
        (["recommend", "--nonsense"], "No such option: --nonsense"),
        (["score", "-a", "x"], "Missing argument 'CANDIDATES'"),
    ]:
        assert cli.run(args) == 2
        err = capsys.readouterr().err
        assert err.startswith("palate: ")
        assert said.lower() in err.lower()
        assert err.count("\n") == 1
        assert "--help`" in err


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    code = (
        "import sys; from palate.apps import cli\n"
        "def app(**_):\n    for n in range(100000): print('line', n)\n"
        "cli.build = lambda: app; sys.exit(cli.run(['x']))"
    )
    run = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "$1" | head -1', "_", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.stdout, run.stderr) == ("line 0\n", "")


def test_debug_is_taken_from_anywhere() -> None:
    assert cli._take_debug(["score", "--debug", "x"]) == (["score", "x"], True)
    assert cli._take_debug(["chat", "--", "--debug"]) == (["chat", "--", "--debug"], False)


# --- commands ---------------------------------------------------------------------------------------


def test_recommend(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    args = ["recommend", *where, "--history", "Alien; Heat", "-H", "Fargo", "-k", "3", "-f", "year>=1975"]
    assert cli.run([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mode"] == "embedding"
    assert len(found["recommendations"]) == 3
    first = found["recommendations"][0]
    assert set(first) == {"rank", "item_id", "title", "score", "reason"}
    assert cli.run(args) == 0
    out = capsys.readouterr().out
    assert "3 movies for someone who watched Alien, Heat, Fargo" in out
    assert first["title"] in out


def test_recommend_says_so_for_a_stranger(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recommend", *where, "--user", "4711", "--json"]) == 0
    assert "user '4711' is not in tiny (its 30 users" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["recommend", "-H", "Alein"], "no item of the catalogue has the id or title 'Alein'; did you mean 'Alien'"),
        (["recommend", "-f", "genre=Comedy"], "did you mean 'genres'"),
        (["recommend", "--mode", "embeding"], "did you mean 'embedding'"),
        (["recommend", "--context", "evening"], "expected NAME=VALUE"),
        (["recommend", "--quantization", "int3"], "expected none, int8, nf4, int4 or fp8, got 'int3'"),
        (["recommend", "--dtype", "bf16"], "--dtype: expected auto, bfloat16, float16 or float32, got 'bf16'"),
        (["explain", "Alein"], "did you mean 'Alien'"),
    ],
)
def test_mistakes(where: list[str], capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert cli.run([*args, *where]) == 2
    err = capsys.readouterr().err
    assert err.startswith("palate: ")
    assert said in err
    assert err.count("\n") == 1


def test_no_adapter_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["recommend", "-a", str(tmp_path / "none")]) == 2
    assert "expected an adapter bundle or a base model, found nothing at" in capsys.readouterr().err


def test_explain(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "Aliens", *where, "-H", "Alien;Heat", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["title"] == "Aliens"
    assert len(found["contributions"]) == 2
    assert cli.run(["explain", "Aliens", *where, "--user", "3"]) == 0
    assert "Aliens" in capsys.readouterr().out


def test_chat(where: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run(["chat", "a comedy", "more", *where, "-H", "Alien", "-k", "2", "--json"]) == 0
    assert '"asked": "more"' in capsys.readouterr().out
    lines = iter(["a drama", "quit", "never read"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert cli.run(["chat", *where, "-H", "Alien"]) == 0
    assert "movies (Drama)" in capsys.readouterr().out


def test_score(where: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    source.write_text("request_id,user_id,item_id\na,1,1\na,1,2\n")
    assert cli.run(["score", str(source), *where, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["output"]) == (2, str(tmp_path / "c.scores.csv"))
    assert cli.run(["score", str(source), *where, "-o", str(tmp_path / "o.parquet"), "--mode", "yes_no"]) == 0
    assert "2 candidates of 1 requests scored by yes_no" in capsys.readouterr().out
    source.write_text("request_id,user_id,item_id\na,1,1\na,1,99\n")
    assert cli.run(["score", str(source), *where, "-o", str(tmp_path / "p.csv")]) == 2
    assert f"palate: {source}, line 3, column item_id: unknown item '99'" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()
    assert cli.run(["score", str(source), *where, "-o", str(tmp_path / "p.csv"), "--max-rejects", "5"]) == 0
    assert "1 bad rows left out" in capsys.readouterr().out


def test_a_wrong_header_is_told_before_anything_loads(tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    source.write_text("user,item\n1,1\n")
    out = palate("score", str(source), "-a", "smollm2-135m-instruct", "--data", str(tmp_path))
    assert out.returncode == 2
    assert out.stderr == (
        f"palate: {source}, line 1: missing column request_id (or user_id) and item_id (a row a candidate) or "
        "candidates (a row a request); the file has: user, item\n"
    )


def test_the_module_runs() -> None:
    assert palate("--version").stdout.startswith("palate ")
    assert isinstance(cli.commands, types.ModuleType)
