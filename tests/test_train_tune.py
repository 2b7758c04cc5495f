"""Tuning: the space is checked before anything runs, trials stop early, and a killed study goes on as if nothing had
happened."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from palate.apps import cli
from palate.data import Dataset
from palate.errors import ConfigError, TrainingDiverged
from palate.evaluate import evaluate, protocol
from palate.evaluate.baselines import baseline
from palate.train import read_config, run
from palate.train.checkpoint import METRICS
from palate.train.tune import TuneConfig, read
from palate.train.tune.file import for_retriever
from palate.train.tune.objective import Fitting, Training
from palate.train.tune.run import tune
from palate.train.tune.space import knobs
from palate.train.tune.study import KILLS, Study, open_study
from palate.train.validate import Validator
from test_train_loop import config, lines, quiet  # noqa: F401  (a fixture)

SHORT = ("train.max_steps=4", "train.validate_every=2", "train.checkpoint_every=1")
SHORT += ("train.tasks={embedding: 1.0, next_title: 0, yes_no: 0, letters: 0, rating: 0}",)
SPACE = {"train.lr": {"low": 1e-3, "high": 1e-2, "log": True}, "model.lora.rank": [2, 4]}


def tune_file(folder: Path, of: Path, **more: Any) -> Path:
    """A tune file beside its base; a base given as None is left out."""
    values = {"base": of.name, "trials": 3, "space": SPACE, "run": str(folder / "study")}
    file = folder / "tune.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in {**values, **more}.items() if v is not None or k == "pruning"}))
    return file


def study_of(folder: Path, **space: Any) -> Study:
    """A study over a key x, without anything to run."""
    made = knobs(space or {"x": {"low": 0.0, "high": 1.0}}, lambda key, value: value, "test")
    return open_study(folder, made, {"what": "test"}, trials=4, seed=1, pruning=None)


# --- the tune file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"train.lrr": [1e-4, 1e-3]}, r"unknown key 'train.lrr'; did you mean 'lr'\?"),
        ({"modle.layers": [1, 2]}, r"unknown key 'modle'; did you mean 'model'\?"),
        ({"model.lora.rank": [0, 4]}, r"'model.lora.rank': input should be greater than or equal to 1, got 0"),
        ({"train.lr": {"low": 1e-3, "hihg": 1e-2}}, r"unknown key 'hihg'; did you mean 'high'\?"),
        ({"train.lr": {"low": 1e-2, "high": 1e-3}}, r"space: train.lr: expected low below high, got 0.01 and 0.001"),
        ({"model.dropout": {"low": 0, "high": 0.5, "log": True}}, r"space: model.dropout: .*log goes with low above 0"),
        ({"model.dropout": {"low": 0, "high": 1}}, r"'model.dropout': input should be less than 1, got 1"),
        ({"model.lora.rank": [4]}, r"space: model.lora.rank: expected at least two choices that differ, got \[4\]"),
        ({"model.lora.rank": 4}, r"expected a range \{low, high\} or a list of choices, got 4"),
        ({"train.protocol": ["loo-full", "temporal"]}, r"train.protocol would ask other questions in every trial"),
        ({"train.output": ["a", "b"]}, r"train.output is chosen by the study"),
        ({"features.behaviour.options.dimz": [4, 8]}, r"unknown key 'dimz'; did you mean 'dims'\?"),
    ],
)
def test_a_space_that_does_not_fit_is_said(
    config: Path,  # noqa: F811
    tmp_path: Path,
    space: dict[str, Any],
    words: str,
) -> None:
    file = tune_file(tmp_path, config, space=space)
    with pytest.raises(ConfigError, match=words):
        tune(read(file), where=str(file))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": None}, "expected either base .* or retriever, got neither"),
        ({"retriever": "ease"}, "expected either base .* or retriever, got both"),
        ({"base": None, "retriever": "ease"}, "key 'data' is required with a retriever"),
        ({"data": "data/x"}, "key 'data' goes with a retriever"),
        ({"trails": 3}, r"unknown key 'trails'; did you mean 'trials'\?"),
        ({"space": {}}, "'space'"),
        ({"pruning": {"percentil": 3}}, r"unknown key 'pruning.percentil'; did you mean 'percentile'\?"),
    ],
)
def test_a_file_that_does_not_fit_is_said(
    config: Path,  # noqa: F811
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tune_file(tmp_path, config, **change))


def test_numbers_take_the_kind_of_their_key(config: Path, tmp_path: Path) -> None:  # noqa: F811
    """1e-4 is text to YAML; 0 to 0.5 of a float key is no range of whole numbers; a rank is one."""
    asked = Training(config, (), tmp_path / "study")
    space = {
        "train.lr": {"low": "1e-4", "high": "1e-3", "log": True},
        "model.modality_dropout": {"low": 0, "high": 0.5},
        "model.lora.rank": {"low": 2, "high": 8, "step": 2},
        "features.behaviour.options": [{"dims": 4}, {"dims": 8}],
    }
    lr, dropout, rank, options = knobs(space, asked.check, "tune.yaml")
    assert (lr.distribution.low, lr.distribution.high, lr.distribution.log) == (1e-4, 1e-3, True)
    assert type(dropout.distribution).__name__ == "FloatDistribution"
    assert type(rank.distribution).__name__ == "IntDistribution"
    assert options.value('{"dims": 8}') == {"dims": 8}
    assert asked.config({"features.behaviour.options": {"dims": 8}}, tmp_path).features["behaviour"].options == {
        "dims": 8
    }


def test_the_shipped_tune_file_fits() -> None:
    root = Path(__file__).parents[1]
    found = read(root / "configs" / "ml-100k-tune.yaml")
    assert found.base is not None
    asked = Training(found.base, (), Path("runs/x"))
    assert len(knobs(found.space, asked.check, "x")) == len(found.space)


# --- the study on disk ------------------------------------------------------------------------------------


def test_a_dead_trial_is_tried_again_with_what_it_had_told(tmp_path: Path) -> None:
    first = study_of(tmp_path)
    with first.turn() as turn:
        assert turn is not None
        turn.report(1, 0.25)
        lost, values = turn.trial.number, turn.values
    with study_of(tmp_path).turn() as again:  # the first one never told its end
        assert again is not None
        assert (again.values, again.known) == (values, {1})
        assert again.trial.user_attrs["retry_of"] == lost
        assert again.folder == first.place(first.trials[lost])
        again.report(1, 0.25)  # passed again by a training that went back to its checkpoint
        again.report(2, 0.5)
        assert again.reported == {1: 0.25, 2: 0.5}
        first.tell(again, 0.5)
    assert [t.state.name for t in first.trials] == ["FAIL", "COMPLETE"]
    assert len(first.settled) == 1  # the one that died is not counted


def test_values_that_always_die_are_given_up(tmp_path: Path) -> None:
    seen = []
    for _ in range(KILLS + 1):
        with study_of(tmp_path).turn() as turn:
            assert turn is not None
            seen.append(turn.values["x"])
    assert seen[:KILLS] == [seen[0]] * KILLS
    assert seen[KILLS] != seen[0]
    assert len(study_of(tmp_path).settled) == 1


def test_processes_do_not_disturb_one_another(tmp_path: Path) -> None:
    """Two at work: other trials, none buried; and no more trials than wanted."""
    one, two = study_of(tmp_path), study_of(tmp_path)
    with one.turn() as a, two.turn() as b:
        assert a is not None
        assert b is not None
        assert a.trial.number != b.trial.number
        assert a.values != b.values
        assert [t.state.name for t in one.trials] == ["RUNNING", "RUNNING"]
        with one.turn() as c, two.turn() as d, one.turn() as e:
            assert c is not None
            assert d is not None
            assert e is None
            for study, turn in ((one, a), (two, b), (one, c), (two, d)):
                study.tell(turn, 0.1)
    with two.turn() as none:
        assert none is None


def test_draws_do_not_depend_on_interruptions(tmp_path: Path) -> None:
    """The same values in the same order, whether one process asks for all trials or each its own."""

    def values(folder: Path, interrupted: bool) -> list[float]:
        study, found = study_of(folder), []
        for n in range(4):
            study = study_of(folder) if interrupted else study
            with study.turn() as turn:
                assert turn is not None
                if interrupted and n == 2:
                    lost = turn
                    continue_with = study_of(folder)
            if interrupted and n == 2:
                with continue_with.turn() as turn:
                    assert turn is not None
                    assert turn.values == lost.values
                    found.append(turn.values["x"])
                    continue_with.tell(turn, turn.values["x"])
                continue
            found.append(turn.values["x"])
            study.tell(turn, turn.values["x"])
        return found

    assert values(tmp_path / "a", interrupted=False) == values(tmp_path / "b", interrupted=True)


def test_another_study_is_not_gone_on_with(tmp_path: Path) -> None:
    study_of(tmp_path)
    made = knobs({"x": {"low": 0.0, "high": 1.0}}, lambda key, value: value, "test")
    with pytest.raises(ConfigError, match=r"is another one:\n  what: 'test' there, 'else' now\nput these back"):
        open_study(tmp_path, made, {"what": "else"}, trials=4, seed=1, pruning=None)
    study = study_of(tmp_path)
    with study.turn(), pytest.raises(ConfigError, match="another process is at work on the study"):
        open_study(tmp_path, made, {"what": "else"}, trials=4, seed=1, pruning=None, restart=True)
    again = open_study(tmp_path, made, {"what": "else"}, trials=4, seed=1, pruning=None, restart=True)
    assert again.trials == []


# --- training runs ----------------------------------------------------------------------------------------


def falling(after: int) -> Callable[[Validator, object], list[float]]:
    """Validations that find every item first, and from number `after` on, last of all."""
    asked: list[int] = []

    def ranks(self: Validator, model: object) -> list[float]:
        asked.append(1)
        return [1.0 if len(asked) < after else 20.0] * self.size

    return ranks


def test_a_hopeless_trial_is_stopped(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(Validator, "ranks", falling(after=3))  # the first trial validates twice
    file = tune_file(tmp_path, config, trials=2, pruning={"startup": 1, "warmup": 0})
    tuned = tune(read(file), SHORT)
    kept, stopped = tuned.summary.rows
    assert (kept.state, kept.value, dict(kept.reported)) == ("ended", 1.0, {1: 1.0, 2: 1.0})
    assert (stopped.state, stopped.value, dict(stopped.reported)) == ("given up", None, {1: 0.0})
    folders = [tmp_path / "study" / "trials" / name for name in ("0000", "0001")]
    assert [max(r["step"] for r in lines(folder)) for folder in folders] == [4, 2]
    assert [bool(list(folder.glob("step-*"))) for folder in folders] == [True, False]


def test_the_best_config_gives_the_best_adapter_without_training_again(config: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tune_file(tmp_path, config, trials=3, pruning=None)
    told: list[str] = []
    tuned = tune(read(file), SHORT, say=told.append)
    found = tuned.summary
    best = found.best_row
    assert best is not None
    assert best.value == max(r.value for r in found.rows if r.value is not None)
    assert sum(line.startswith("trial 0") for line in told) == 2
    text = (tmp_path / "study" / "best.yaml").read_text()
    assert f"trial {best.number}, NDCG@10 {best.value:.4f} on validation items" in text
    settings = read_config(tmp_path / "study" / "best.yaml")
    assert settings.train.lr == best.values["train.lr"]
    assert settings.model.lora.rank == best.values["model.lora.rank"]
    before = (tmp_path / "study" / "trials" / f"{best.number:04d}" / METRICS).read_bytes()
    outcome = run(tmp_path / "study" / "best.yaml", console=quiet())
    assert outcome.bundle == tmp_path / "study" / "adapter"
    assert outcome.metrics["NDCG@10"]["value"] == pytest.approx(best.value, abs=1e-12)
    assert (outcome.run / METRICS).read_bytes() == before  # not one step more
    assert [bool(list(p.glob("best.*"))) for p in sorted((tmp_path / "study" / "trials").iterdir())].count(True) == 1
    rows = list(csv.DictReader((tmp_path / "study" / "trials.csv").read_text().splitlines()))
    assert [float(r["NDCG@10"]) for r in rows] == [r.value for r in found.rows]
    assert json.loads((tmp_path / "study" / "summary.json").read_text())["best"] == best.number
    # three were wanted and three are there; more may be asked for later, but not of another base
    assert len(tune(read(file), SHORT).summary.rows) == 3
    with pytest.raises(ConfigError, match=r"train.max_steps: 4 there, 5 now"):
        tune(read(file), [*SHORT, "train.max_steps=5"])


def test_a_diverged_trial_costs_itself_alone(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from palate.train import loop

    calls = []
    real = loop.train

    def train(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise TrainingDiverged("the loss is nan at step 3")
        return real(*given, **more)

    monkeypatch.setattr(loop, "train", train)
    found = tune(read(tune_file(tmp_path, config, trials=2)), SHORT).summary
    assert [r.state for r in found.rows] == ["failed", "ended"]
    assert found.rows[0].reason == "the loss is nan at step 3"
    assert (found.count("failed"), found.best) == (1, 1)


def test_a_trial_without_validation_is_an_error(config: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tune_file(tmp_path, config)
    with pytest.raises(ConfigError, match="a trial is judged by its validations, and there was none"):
        tune(read(file), [*SHORT, "train.validate_users=0", "train.max_steps=1"])


def test_a_killed_study_goes_on_as_if_nothing_had_happened(config: Path, tmp_path: Path) -> None:  # noqa: F811
    """SIGKILL in the second trial, between two checkpoints; the values are those of a study nobody killed."""
    folders = [tmp_path / name for name in ("killed", "whole")]
    long = [*SHORT, "train.max_steps=8"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(config, folder / config.name)
        tune_file(folder, config, trials=3, pruning=None)
    watched = folders[0] / "study" / "trials" / "0001" / METRICS
    process = subprocess.Popen(
        [sys.executable, "-m", "palate", "tune", str(folders[0] / "tune.yaml"), *long],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 250
    while process.poll() is None and time.monotonic() < deadline:
        if watched.exists() and watched.read_text().count("\n") >= 5:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, out
    assert "trial 1:" in out
    told: list[str] = []
    killed, whole = (tune(read(f / "tune.yaml"), long, say=told.append).summary for f in folders)
    assert told[0].startswith("trial 2 (trial 1 again)")
    assert [r.state for r in killed.rows] == ["ended", "failed", "ended", "ended"]
    assert killed.rows[2].retry_of == 1
    assert "resumed at step" in (folders[0] / "study" / "trials" / "0001" / "train.log").read_text()
    kept = [r for r in killed.rows if r.state == "ended"]
    assert [dict(r.values) for r in kept] == [dict(r.values) for r in whole.rows]
    assert [r.value for r in kept] == [r.value for r in whole.rows]
    assert [dict(r.reported) for r in kept] == [dict(r.reported) for r in whole.rows]


# --- retrievers -------------------------------------------------------------------------------------------


def ease(data: Path, run: Path, **more: Any) -> TuneConfig:
    space = {"penalty": {"low": 1, "high": 500, "log": True}, "recency": [None, 2, 5]}
    return TuneConfig(retriever="ease", data=str(data), run=str(run), trials=5, space=space, **more)


def test_a_retriever_is_tuned_on_validation_items(tiny_data: Path, tmp_path: Path) -> None:
    found = tune(ease(tiny_data, tmp_path / "study")).summary
    assert found.best_row is not None
    told = yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())
    data, held = Dataset.open(tiny_data), protocol("loo-full")
    system = baseline(told["against"], held.split(data.histories.interactions).train)
    value = evaluate(data, [system], held, part="valid").systems[0].metrics["NDCG@10"].value
    assert value == pytest.approx(found.best_row.value)
    assert set(found.importances) <= {"penalty", "recency"}


def test_test_items_change_nothing(tiny_data: Path, tmp_path: Path) -> None:
    """Another last event of every user, and the study is the same to the last digit."""
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    rows = list(csv.reader((other / "interactions.csv").read_text().splitlines()))
    last = {row[0]: n for n, row in enumerate(rows[1:], 1)}
    for n in last.values():
        seen = {r[1] for r in rows if r[0] == rows[n][0]}
        rows[n][1] = next(str(i) for i in range(1, 25) if str(i) not in seen)
    (other / "interactions.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    assert Dataset.open(other).fingerprint != Dataset.open(tiny_data).fingerprint
    found = [tune(ease(d, tmp_path / f"s{n}")).summary for n, d in enumerate((tiny_data, other))]
    assert [(dict(r.values), r.value) for r in found[0].rows] == [(dict(r.values), r.value) for r in found[1].rows]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"penalti": [1, 2]}, r"retriever 'ease' has no option 'penalti'; did you mean 'penalty'\?"),
        ({"penalty": [0, 2]}, r"option 'penalty': expected a number above 0, got 0"),
    ],
)
def test_options_that_do_not_fit_are_said(tiny_data: Path, space: dict[str, Any], words: str) -> None:
    asked = Fitting(ease(tiny_data, Path("x")))
    with pytest.raises(ConfigError, match=words):
        knobs(space, asked.check, "x")


def test_a_retriever_without_a_shipped_space_is_said(tiny_data: Path) -> None:
    assert for_retriever("itemknn", tiny_data).retriever == "itemknn"
    with pytest.raises(ConfigError, match=r"no search space is shipped for the retriever 'popularity'"):
        for_retriever("popularity", tiny_data)
    with pytest.raises(ConfigError, match=r"no retriever is called 'eese'; did you mean 'ease'\?"):
        for_retriever("eese", tiny_data)


def test_the_command(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["tune", "--retriever", "ease", str(tiny_data), "--trials", "4", "--json"]) == 0
    out = capsys.readouterr()
    assert len(json.loads(out.out)["rows"]) == 4
    assert "trial 3: NDCG@10" in out.err
    folder = Path("runs") / f"tune-ease-{tiny_data.name}"
    assert (folder / "study.svg").read_text().startswith("<?xml")
    assert cli.run(["tune", "--retriever", "ease", str(tiny_data), "--trials", "4"]) == 0
    out = capsys.readouterr()
    assert "ease: 4 ended" in out.out
    assert "palate evaluate DIR --against" in out.out
    assert cli.run(["tune", "nothing.yaml"]) == 2
    assert "expected a YAML file at nothing.yaml" in capsys.readouterr().err
    assert cli.run(["tune", "nothing.yaml", "--protocol", "temporal"]) == 2
    assert "--protocol goes with --retriever" in capsys.readouterr().err
