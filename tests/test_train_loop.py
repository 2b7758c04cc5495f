"""The loop on a tiny model: it learns, it goes on exactly where a SIGKILL left it, and it says what is
wrong.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from palate.config import TASKS, RunConfig
from palate.errors import ConfigError, DataError
from palate.train import read_config, run
from palate.train.checkpoint import METRICS
from palate.train.journal import TIMES


@pytest.fixture
def config(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    """A config of 12 short steps, two epochs."""
    values = {
        "name": "tiny",
        "data": str(tiny_data),
        "features": {"behaviour": {}},
        "prompt": {"max_tokens": 1000, "max_history": 4, "max_sequence": 12},
        "model": {
            "base": f"path:{tiny_base}",
            "dtype": "float32",
            "lora": {"rank": 4, "alpha": 8},
            "hidden": 16,
            "matching": 16,
        },
        "train": {
            "run": str(tmp_path / "run"),
            "output": str(tmp_path / "adapter"),
            "max_steps": 12,
            "epochs": 50,
            "batch_tokens": 1200,
            "tasks": {"embedding": 1.0, "next_title": 0.1, "yes_no": 0.1, "letters": 0.1, "rating": 0.1},
            "lr": 5e-3,
            "projector_lr": 5e-3,
            "checkpoint_every": 4,
            "validate_every": 6,
            "patience": 9,
        },
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def quiet() -> Console:
    return Console(file=io.StringIO())


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def launch(
    config: Path, *overrides: str, processes: int = 1, until: int | None = None, sign: int = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """`python -m palate.train` (or `accelerate launch`) in a process group of its own.

    until: send `sign` to the whole group once that many metrics lines are written.
    """
    head = [sys.executable]
    if processes > 1:
        head = [
            str(Path(sys.executable).with_name("accelerate")),
            "launch",
            "--num_processes",
            str(processes),
            "--cpu",
        ]
        head += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    values = dict(o.split("=", 1) for o in overrides)
    watched = Path(values.get("train.run", str(config.parent / "run"))) / METRICS
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [*head, "-m", "palate.train", str(config), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
    )
    if until is not None:
        deadline = time.monotonic() + 130
        while process.poll() is None and time.monotonic() < deadline:
            if watched.exists() and watched.read_text().count("\n") >= until:
                os.killpg(process.pid, sign)
                break
            time.sleep(0.005)
    out, _ = process.communicate(timeout=140)
    return subprocess.CompletedProcess(process.args, process.returncode, out)


# --- learning -------------------------------------------------------------------------------------------


def test_loss_falls_and_the_bundle_is_whole(config: Path, tmp_path: Path) -> None:
    outcome = run(config, ["train.max_steps=40", "train.validate_every=20"], console=quiet())
    assert (outcome.step, outcome.total, outcome.stopped) == (40, 40, 0)
    rows = [r for r in lines(tmp_path / "run") if "loss" in r]
    assert [r["step"] for r in rows] == list(range(1, 41))
    curve = [r["loss/embedding"] for r in rows]
    assert sum(curve[-10:]) < 0.97 * sum(curve[:10])
    told = json.loads((tmp_path / "adapter" / "palate.json").read_text())
    assert told["training"]["steps"] == 40
    assert told["training"]["tokens"] == rows[-1]["tokens"]
    assert {m["metric"] for m in told["metrics"]} == {"NDCG@10", "HR@10"}
    assert all(m["n"] == 30 and m["low"] <= m["value"] <= m["high"] for m in told["metrics"])
    assert set(told["templates"]) == {"sequence", "next_item", "yes_no", "letters", "rating"}
    assert str(tmp_path) not in json.dumps({k: v for k, v in told.items() if k not in ("base", "model", "config")})
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_the_saved_bundle_scores_as_the_best_weights_did(config: Path, tmp_path: Path) -> None:
    from palate import prompting
    from palate.data import Dataset
    from palate.evaluate import PROTOCOLS
    from palate.model import bundle
    from palate.train.prepare import make_serializer
    from palate.train.validate import HEADLINE, Validator

    outcome = run(config, console=quiet())
    settings = read_config(config)
    dataset = Dataset.open(settings.data)
    loaded = bundle.load(tmp_path / "adapter", items=dataset.catalog.item_ids, device="cpu").model
    validator = Validator(
        dataset.histories.interactions,
        make_serializer(settings, dataset, loaded),
        prompting.load("sequence"),
        protocol=PROTOCOLS["loo-full"],
        users=100,
        budget=900,
        profiles=dataset.users,
    )
    found = validator.summary(validator.ranks(loaded))[HEADLINE]
    assert found.n == outcome.metrics[HEADLINE]["n"] == 30
    # the bundle keeps bfloat16 weights; ranks among 24 items may swap a little
    assert found.value == pytest.approx(outcome.metrics[HEADLINE]["value"], abs=0.05)


@pytest.fixture
def accelerator() -> Iterator[Any]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    yield Accelerator(cpu=True)
    AcceleratorState._reset_state()


@pytest.fixture
def still(config: Path) -> RunConfig:
    """Without dropout, so that the same pack gives the same loss."""
    none = ["model.dropout=0", "model.lora.dropout=0", "model.modality_dropout=0"]
    shares = [f"train.tasks.{task}=1" for task in TASKS]
    return read_config(config, [*none, *shares, "train.lr=0.02", "train.projector_lr=0.01"])


def test_every_task_is_learned_from_one_repeated_pack(still: RunConfig, accelerator: Any) -> None:
    from palate.train.collate import Position, Stream
    from palate.train.prepare import prepare
    from palate.train.update import Update

    ready = prepare(still, device="cpu")
    update = Update(ready.model, still.train, ready.mixture.weights({}), accelerator)
    batch = Stream(ready.mixture, 1600, Position()).next()
    assert (batch.counts > 0).all()
    seen = [update([batch], 1.0, 0) for _ in range(40)]
    first, last = seen[0], seen[-1]
    assert first is not None
    assert last is not None
    fell = {
        task: a - b
        for task, a, b in zip(ready.mixture.names, first.losses, last.losses, strict=True)
        if a is not None and b is not None
    }
    assert fell.pop("embedding") > 2
    # the frozen random base bounds its logits: 400 tokens cost log(400) = 5.99 at first and 5.4 at best
    assert all(by > 0.1 for by in fell.values()), fell
    assert len(fell) == 5


def test_accumulated_packs_weigh_every_target_the_same(still: RunConfig, accelerator: Any) -> None:
    import numpy as np
    import torch

    from palate.train.collate import Position, Stream
    from palate.train.prepare import prepare
    from palate.train.step import TrainingStep
    from palate.train.update import Update

    ready = prepare(still, device="cpu")
    stream = Stream(ready.mixture, 1200, Position())
    batches = [stream.next(), stream.next()]
    with torch.no_grad():
        sums = sum(TrainingStep(ready.model)(b) for b in batches)
    counts = np.sum([b.counts for b in batches], axis=0)
    update = Update(ready.model, still.train, ready.mixture.weights({}), accelerator)
    assert update(batches, 1.0, asked=15) is None  # and nothing has changed
    measured = update(batches, 1.0, 0)
    assert measured is not None
    for loss, s, c in zip(measured.losses, sums.tolist(), counts, strict=True):
        assert loss == (pytest.approx(s / c, rel=1e-5) if c else None)


def test_early_stopping_keeps_the_best(config: Path, tmp_path: Path) -> None:
    outcome = run(
        config,
        ["train.validate_every=1", "train.patience=2", "train.lr=1e-9", "train.projector_lr=1e-9"],
        console=quiet(),
    )
    assert outcome.step == 3  # the first validation stays the best, two more are waited for
    assert outcome.metrics["step"] == 1
    assert json.loads((tmp_path / "adapter" / "palate.json").read_text())["training"]["best step"] == 1


def test_without_validation_the_last_weights_are_saved(config: Path, tmp_path: Path) -> None:
    outcome = run(config, ["train.validate_users=0", "train.max_steps=2"], console=quiet())
    assert outcome.metrics == {}
    assert json.loads((tmp_path / "adapter" / "palate.json").read_text())["metrics"] == []


def test_bf16_base_with_fp32_masters_and_gradient_checkpointing(config: Path, tmp_path: Path) -> None:
    import torch

    from palate.train.checkpoint import load

    same = ["model.dtype=bfloat16", "train.max_steps=3", "train.validate_every=3"]
    run(config, same, console=quiet())
    weights = load(tmp_path / "run").weights  # type: ignore[union-attr]
    assert {w.dtype for n, w in weights.items() if "lora" in n} == {torch.float32}
    plain = lines(tmp_path / "run")
    again = [*same, "train.gradient_checkpointing=true", f"train.run={tmp_path / 'again'}"]
    run(config, again, console=quiet())
    saved = lines(tmp_path / "again")
    assert [r["loss"] for r in saved if "loss" in r] == pytest.approx(
        [r["loss"] for r in plain if "loss" in r], rel=1e-3
    )


# --- resume ---------------------------------------------------------------------------------------------


def test_sigkill_and_the_same_command_repeat_the_uninterrupted_curve(config: Path, tmp_path: Path) -> None:
    whole = launch(config, f"train.run={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stdout
    killed = launch(config, until=6)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert 6 <= len(lines(tmp_path / "run")) < len(lines(tmp_path / "whole"))
    resumed = launch(config)
    assert resumed.returncode == 0, resumed.stdout
    assert "resumed at step" in resumed.stdout
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_two_processes_killed_and_resumed_repeat_the_uninterrupted_curve(config: Path, tmp_path: Path) -> None:
    whole = launch(config, f"train.run={tmp_path / 'whole'}", processes=2)
    assert whole.returncode == 0, whole.stdout
    assert "on 2 processes" in whole.stdout
    killed = launch(config, processes=2, until=6)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    resumed = launch(config, processes=2)
    assert resumed.returncode == 0, resumed.stdout
    assert "resumed at step" in resumed.stdout
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    with pytest.raises(ConfigError, match="processes: 2 in the checkpoint, 1 now"):
        run(config, console=quiet())


def test_sigterm_saves_and_the_same_command_goes_on(config: Path, tmp_path: Path) -> None:
    stopped = launch(config, "train.max_steps=400", "train.checkpoint_every=1000", until=3, sign=signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stdout
    assert "the same command goes on from there" in stopped.stdout
    assert not (tmp_path / "adapter").exists()
    from palate.train.checkpoint import load

    saved = load(tmp_path / "run")
    assert saved is not None
    assert saved.progress.step == max(r["step"] for r in lines(tmp_path / "run"))


def test_a_finished_run_is_not_trained_again_unless_asked(config: Path, tmp_path: Path) -> None:
    run(config, ["train.max_steps=3"], console=quiet())
    before = (tmp_path / "run" / METRICS).read_text()
    console = Console(file=io.StringIO(), width=200)
    run(config, ["train.max_steps=3"], console=console)
    assert "finished before, at step 3" in console.file.getvalue()  # type: ignore[attr-defined]
    assert (tmp_path / "run" / METRICS).read_text() == before
    run(config, ["train.max_steps=3"], resume=False, console=quiet())
    assert (tmp_path / "run" / METRICS).read_text() != before  # the times differ
    assert [r["step"] for r in lines(tmp_path / "run") if "loss" in r] == [1, 2, 3]


def test_a_run_stopped_by_until_goes_on_as_if_it_had_not_been(config: Path, tmp_path: Path) -> None:
    whole = run(
        config, [f"train.run={tmp_path / 'whole'}", "train.epochs=2", "train.validate_every=0"], console=quiet()
    )
    part = run(config, ["train.epochs=2", "train.validate_every=0", "train.until=1"], console=quiet())
    assert part.step < part.total == whole.total
    assert part.bundle is not None
    assert run(config, ["train.epochs=2", "train.validate_every=0"], console=quiet()).step == whole.step
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_another_config_is_refused_with_what_differs(config: Path, tmp_path: Path) -> None:
    run(config, ["train.max_steps=2"], console=quiet())
    with pytest.raises(ConfigError, match=r"train.lr: 0.005 in the checkpoint, 0.001 now") as caught:
        run(config, ["train.max_steps=2", "train.lr=0.001"], console=quiet())
    assert "--restart" in str(caught.value)
    # where it is kept and how often is no part of what is learned
    run(config, ["train.max_steps=2", "train.checkpoint_every=7"], console=quiet())
    outcome = run(config, ["train.max_steps=2", "train.lr=0.001"], resume=False, console=quiet())
    assert outcome.step == 2


def test_a_damaged_checkpoint_is_named(config: Path, tmp_path: Path) -> None:
    run(config, ["train.max_steps=2"], console=quiet())
    [kept] = (tmp_path / "run").glob("step-*")
    (kept / "state.pt").write_bytes(b"half a file")
    with pytest.raises(DataError, match="expected a training checkpoint, but it cannot be read"):
        run(config, ["train.max_steps=2"], console=quiet())


# --- mistakes -------------------------------------------------------------------------------------------


def test_two_runs_do_not_share_a_folder(config: Path, tmp_path: Path) -> None:
    from palate.train.guard import locked

    with (
        locked(tmp_path / "run", True),
        pytest.raises(ConfigError, match="another training run is using"),
    ):
        run(config, console=quiet())


def test_a_diverged_run_says_what_to_lower(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) at step .*lower train.lr"):
        run(config, ["train.lr=1e30", "train.projector_lr=1e30", "train.warmup=0"], console=quiet())


def test_a_user_mistake_is_one_line_and_exit_code_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from palate.train.__main__ import main

    assert main([str(config), "train.lrr=1"]) == 2
    said = capsys.readouterr().err
    assert "unknown key 'train.lrr'" in said
    assert "Traceback" not in said
    assert main(["nowhere.yaml"]) == 2
    assert "expected a YAML file at nowhere.yaml" in capsys.readouterr().err
    assert main([str(config), "train.batch_tokens=64"]) == 2
    assert "a pack holds 64; raise train.batch_tokens" in capsys.readouterr().err.replace("\n", " ")


def test_processes_that_accelerate_leaves_out_are_counted() -> None:
    from palate.train.launcher import missing_processes

    env = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}
    asked = [
        "python",
        "/bin/accelerate",
        "launch",
        "--num_processes",
        "3",
        "--cpu",
        "-m",
        "palate.train",
        "x.yaml",
    ]
    assert missing_processes(env, asked) == (3, {})
    assert missing_processes({**env, "RANK": "0"}, asked) == (0, {})
    assert missing_processes({}, asked) == (0, {})
    with pytest.raises(ConfigError, match="torchrun --nproc_per_node N"):
        missing_processes(env, ["bash"])


def test_a_half_written_line_and_lines_past_the_step_are_dropped(tmp_path: Path) -> None:
    from palate.train.checkpoint import truncate

    path = tmp_path / METRICS
    path.write_text("".join(json.dumps({"step": n}) + "\n" for n in range(1, 6)) + '{"step": 3, "lo')
    truncate(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_palate_train_is_the_same(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from palate.apps.cli import run as palate

    assert palate(["train", str(config), "train.max_steps=1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["step"], told["bundle"]) == (1, str(tmp_path / "adapter"))
    assert palate(["train", str(config), "train.max_step=1"]) == 2
    assert "did you mean 'max_steps'?" in capsys.readouterr().err


def test_overrides_are_yaml_and_checked(config: Path) -> None:
    read = read_config(config, ["train.tasks.letters=0", "media=null", "model.lora.targets=[q_proj, v_proj]"])
    assert read.train.tasks.letters == 0
    assert read.model.lora.targets == ["q_proj", "v_proj"]
    with pytest.raises(ConfigError, match=r"expected KEY=VALUE such as train.epochs=2, got 'epochs'"):
        read_config(config, ["epochs"])
    with pytest.raises(ConfigError, match="'name' holds 'tiny', which has no keys inside"):
        read_config(config, ["name.x=1"])
    with pytest.raises(ConfigError, match="expected a YAML value"):
        read_config(config, ["name=[1"])


@pytest.mark.parametrize("name", ["ml-100k", "demo", "modalities"])
def test_shipped_configs_are_valid(name: str) -> None:
    file = Path(__file__).parent.parent / "configs" / f"{name}.yaml"
    assert read_config(file).name == name
