"""A base in slices over processes (FSDP): the same steps as without, by real processes; and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from palate.engine.pack import concat
from palate.errors import ConfigError
from palate.schema import Prompt, Slot
from palate.train import read_config, shard, zero
from palate.train.checkpoint import METRICS
from palate.train.journal import TIMES
from tiny import adapted

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "configs" / "accelerate"
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture
def config(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    values = {
        "name": "tiny",
        "data": str(tiny_data),
        "features": {"behaviour": {}},
        "prompt": {"max_tokens": 1000, "max_history": 4, "max_sequence": 12},
        "model": {"base": f"path:{tiny_base}", "dtype": "float32", "hidden": 16, "matching": 16},
        "train": {
            "max_steps": 8,
            "epochs": 50,
            "batch_tokens": 1200,
            "accumulate": 2,
            "tasks": {"embedding": 1.0, "next_title": 0.1, "yes_no": 0.1, "letters": 0.1, "rating": 0.1},
            "lr": 5e-3,
            "projector_lr": 5e-3,
            "checkpoint_every": 2,
            "validate_every": 4,
            "validate_users": 1,  # the second process has none, and must keep up all the same
        },
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def launch(config: Path, name: str, *overrides: str, fsdp: bool = True, killed_at: int | None = None) -> str:
    """Train on two CPU processes by `accelerate launch`; its output. killed_at: SIGKILL after so many metrics lines."""
    how = (
        ["--config_file", str(LAUNCH / "fsdp.yaml")] if fsdp else ["--mixed_precision", "no", "--dynamo_backend", "no"]
    )
    if not fsdp:
        how += ["--num_machines", "1"]
    run = config.parent / name
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", *how, "--cpu", "--num_processes", "2"]
    command += ["-m", "palate.train", str(config), f"train.run={run}", f"train.output={run}-adapter", *overrides]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
    deadline = time.monotonic() + 130
    while killed_at is not None and process.poll() is None and time.monotonic() < deadline:
        if (run / METRICS).exists() and (run / METRICS).read_text().count("\n") >= killed_at:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    out, _ = process.communicate(timeout=140)
    assert process.returncode == (0 if killed_at is None else -signal.SIGKILL), out
    return str(out)


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def same_weights(one: Path, other: Path) -> None:
    for file in ("adapter_model.safetensors", "projectors.safetensors"):
        a, b = load_file(one / file), load_file(other / file)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), file


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slices_take_the_steps_of_whole_bases_and_resume_after_a_kill(config: Path, tmp_path: Path, dtype: str) -> None:
    how = [f"model.dtype={dtype}"] + (["train.gradient_checkpointing=true"] if dtype == "bfloat16" else [])
    launch(config, "ddp", *how, fsdp=False)
    said = launch(config, "fsdp", *how)
    assert "weights of 2 layers in slices over 2 processes" in said
    assert lines(tmp_path / "fsdp") == lines(tmp_path / "ddp")
    same_weights(tmp_path / "fsdp-adapter", tmp_path / "ddp-adapter")  # to the bit
    launch(config, "killed", *how, killed_at=4)
    assert "resumed at step" in launch(config, "killed", *how)
    assert lines(tmp_path / "killed") == lines(tmp_path / "ddp")
    same_weights(tmp_path / "killed-adapter", tmp_path / "ddp-adapter")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as a group of one, told to use FSDP."""
    for key, value in FSDP2.items():
        monkeypatch.setenv(key, value)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_sliced_model_computes_what_it_did(tiny_base: Path) -> None:
    from torch.distributed.tensor import DTensor

    whole, sliced = adapted(tiny_base, 1), adapted(tiny_base, 1)
    sliced.load_trainable_state(whole.trainable_state())
    pack = concat([Prompt(np.array([1, 30, 0, 31, 32]), (Slot(2, 1, "image", "c"),), ("c",), (3,), 4)])
    note = shard.shard(sliced, torch.device("cpu"))
    assert note.startswith("FSDP: 18,560 weights of 2 layers")
    held = dict(sliced.named_parameters())
    assert {n for n, p in held.items() if isinstance(p, DTensor)} == {
        n for n, p in whole.named_parameters() if not p.requires_grad and ".layers." in n
    }
    with torch.no_grad(), shard.in_step(sliced):
        assert torch.equal(sliced(pack), whole(pack))
    for model in (whole, sliced):
        model(pack).square().sum().backward()
    shard.average(list(sliced.trainable().values()))
    for name, parameter in whole.trainable().items():
        grad = held[name].grad
        assert grad is not None
        assert torch.equal(grad, torch.zeros_like(parameter) if parameter.grad is None else parameter.grad), name


@pytest.mark.usefixtures("alone")
def test_layers_that_cannot_be_told_are_asked_for(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "Block")
    with pytest.raises(
        ConfigError, match=r"expected layers of class Block in .*perhaps to one of \['LlamaDecoderLayer'"
    ):
        shard.shard(adapted(tiny_base, 1), torch.device("cpu"))


@pytest.mark.parametrize(
    ("env", "overrides", "said"),
    [
        ({"FSDP_VERSION": "1"}, [], "expected fsdp_version: 2, got 1"),
        ({}, ["model.quantization=nf4"], "'nf4' does not go with FSDP.*multi-gpu.yaml"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, [], "expected fsdp_cpu_ram_efficient_loading: false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, [], "set train.gradient_checkpointing instead"),
    ],
)
def test_what_does_not_go_together_is_refused(
    config: Path, env: dict[str, str], overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        shard.check(read_config(config, overrides), {**FSDP2, **env})


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, r"expected zero_stage 1 or 2, got 3; .*fsdp\.yaml"),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "got a file of its own"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "expected offload_optimizer_device: none, got cpu"),
        ({}, "run `pip install deepspeed`"),
    ],
)
def test_what_does_not_go_with_deepspeed_is_refused(
    env: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero, "find_spec", lambda name: None)
    assert zero.asked({"ACCELERATE_USE_DEEPSPEED": "true"})
    with pytest.raises(ConfigError, match=said):
        zero.check(env)


def test_fsdp_without_a_launcher_is_told_how(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.train import run

    for key, value in FSDP2.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=r"start them by accelerate launch with configs/accelerate/fsdp.yaml"):
        run(config)


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.yaml")), ids=lambda f: f.name)
def test_accelerate_reads_its_configs(file: Path) -> None:
    from accelerate.commands.config import load_config_from_file

    kept = load_config_from_file(str(file))
    assert kept.num_processes == 2
    told = {"fsdp": "FSDP", "multi-gpu": "MULTI_GPU", "deepspeed-zero2": "DEEPSPEED"}
    assert kept.distributed_type == told[file.stem]


def test_a_cpu_run_is_told_of_fsdp() -> None:
    from palate.train.launcher import missing_processes

    asked = [
        "accelerate",
        "launch",
        "--config_file",
        str(LAUNCH / "fsdp.yaml"),
        "--cpu",
        "-m",
        "palate.train",
        "x.yaml",
    ]
    count, told = missing_processes({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, asked)
    assert count == 2
    assert shard.asked(told)
    assert told["FSDP_VERSION"] == "2"
    assert told["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    assert told["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
