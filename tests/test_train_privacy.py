"""Differentially private training: one user's part in a step is bounded, the noise is what was counted, and what no
noise would cover is refused.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from opacus.accountants import RDPAccountant
from rich.console import Console

from palate import Recommender
from palate.config import PrivacyConfig, RunConfig
from palate.data import Dataset
from palate.errors import BudgetError, ConfigError
from palate.train import privacy, private, read_config, run
from palate.train.collate import Batch
from palate.train.prepare import Ready, prepare
from palate.train.privacy import Plan
from palate.train.step import TrainingStep

# the text encoder is the real one: vectors of toys would have to be passed round `palate train`'s own door
pytestmark = pytest.mark.weights


def values(base: Path, data: Path, where: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": str(data),
        "features": {"text": {}},
        "prompt": {"max_tokens": 1000, "max_history": 4, "max_sequence": 12},
        "model": {
            "base": f"path:{base}",
            "dtype": "float32",
            "lora": {"rank": 2, "alpha": 4},
            "hidden": 16,
            "matching": 16,
            "dropout": 0.0,
            "modality_dropout": 0.0,
        },
        "train": {
            "run": str(where / "run"),
            "output": str(where / "adapter"),
            "epochs": 4,
            "batch_tokens": 2000,
            "tasks": {"embedding": 1.0, "next_title": 0, "yes_no": 0.5, "letters": 0, "rating": 0},
            "privacy": {"epsilon": 6, "users": 10},
            "validate_every": 6,
            "checkpoint_every": 3,
        },
    }


@pytest.fixture
def config(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    """A config of 12 steps of about 10 of 30 users."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(values(tiny_base, tiny_data, tmp_path)))
    return file


@pytest.fixture(scope="module")
def ready(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    made = values(tiny_base, tiny_data, tmp_path_factory.mktemp("private"))
    return prepare(RunConfig.parse(made, "tiny"), device="cpu")


def trained(config: Path, *words: str) -> Any:
    return run(config, words, console=Console(file=io.StringIO()))


# --- accounting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "steps", "users", "drawn"),
    [
        (0.5, 40, 1000, 1000),
        (1, 40, 943, 236),
        (4, 100, 10_000, 500),
        (8, 40, 943, 236),
        (16, 5, 100, 50),
        (1, 1, 2, 2),
    ],
)
def test_the_noise_keeps_the_run_within_its_epsilon(epsilon: float, steps: int, users: int, drawn: int) -> None:
    made = privacy.plan(PrivacyConfig(epsilon=epsilon, users=drawn), users, steps)
    assert made.epsilon(steps) <= epsilon * 1.001
    assert made.epsilon(max(1, steps // 2)) <= made.epsilon(steps)
    assert made.epsilon(0) == 0
    # Renyi accounting knows nothing of this accountant's tables, and may only say more
    with warnings.catch_warnings(action="ignore"):
        told = RDPAccountant()
        told.history = [(made.noise, made.rate, steps)]
        assert told.get_epsilon(made.delta) >= made.epsilon(steps) * 0.98


def test_more_noise_or_fewer_users_in_a_step_spend_less() -> None:
    def spent(**given: Any) -> float:
        return privacy.plan(PrivacyConfig.parse({"noise": 1.0, "users": 100, **given}, "t"), 1000, 50).epsilon(50)

    assert spent(noise=2.0) < spent() < spent(noise=0.7)
    assert spent(users=50) < spent() < spent(users=1000)


def test_a_delta_that_gives_users_away_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy.delta: expected less than 1 / users = 0.001, got 0.01"):
        privacy.plan(PrivacyConfig(epsilon=1, delta=0.01), 1000, 10)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (["train.privacy.noise=1.0"], "expected one of epsilon and noise, got both"),
        (["train.privacy.epsilon=null"], "expected one of epsilon and noise, got none"),
        (["features={text: {}, behaviour: {}}"], "does not go with features.behaviour: its vectors are fitted on what"),
        (["features={text: {}, mine: {encoder: sasrec}}"], "does not go with features.mine"),
        (["train.teacher={retrievers: {popularity: 1.0}}"], "does not go with train.teacher"),
        (["train.start=adapters/other"], "does not go with train.start: what that adapter learned"),
        (["train.accumulate=2"], "set train.privacy.users in the place of train.accumulate"),
        (["model.dtype=float16"], "does not go with model.dtype float16"),
        (["train.privacy={epsilon: 1.0e-9, delta: 1.0e-12, users: 10}"], "no noise reaches epsilon 1e-09 in 12 steps"),
    ],
)
def test_what_noise_does_not_cover_is_refused(config: Path, changed: list[str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        trained(config, *changed)


def test_several_processes_are_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match="trains in one process, got 2"):
        privacy.check(read_config(config, []), 2)


# --- one step -------------------------------------------------------------------------------------------


def update(ready: Ready, plan: Plan, seed: int | None = 3) -> private.PrivateUpdate:
    weights = ready.mixture.weights({})
    config = ready.config.train.model_copy(update={"privacy": PrivacyConfig(noise=1.0, seed=seed)})
    return private.PrivateUpdate(ready.model, config, weights, Accelerator(cpu=True), plan)


def planned(**given: Any) -> Plan:
    told = {"rate": 0.5, "noise": 0.0, "delta": 1e-3, "clip": 1.0, "steps": 1, "users": 20, "repeatable": True}
    return Plan(**{**told, **given})


def packs(ready: Ready, rate: float = 1.0) -> list[Batch]:
    return private.Draws(ready.mixture, planned(rate=rate), 2000, seed=1).next()


def summed(ready: Ready, plan: Plan, batches: list[Batch]) -> torch.Tensor:
    """What a step hands to AdamW, times the users it divides by: float32 [weights]."""
    made = update(ready, plan)
    seen: list[torch.Tensor] = []
    inner = made.optimizer.original_optimizer
    inner.step = lambda closure=None: seen.append(torch.cat([p.grad.flatten() for p in made.parameters]))
    made(batches, 1.0, 0)
    [grad] = seen
    return grad * made.optimizer.expected_batch_size


def test_a_step_without_clip_and_noise_is_the_sum_of_the_users_gradients(ready: Ready) -> None:
    batches = packs(ready)
    assert len(batches) == 30
    step = TrainingStep(ready.model)
    parameters = [p for g in ready.model.parameter_groups(ready.config.train) for p in g["params"]]
    loss = sum((step(b) / torch.tensor(np.maximum(b.counts, 1)).float()).sum() for b in batches)
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, expected, strict=True)]
    )
    torch.testing.assert_close(summed(ready, planned(clip=1e9), batches), flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip", [0.1, 1.0])
def test_one_user_more_changes_a_step_by_no_more_than_the_clip(ready: Ready, clip: float) -> None:
    batches = packs(ready)
    whole = summed(ready, planned(clip=clip), batches)
    for left_out in (0, 7, 29):
        without = summed(ready, planned(clip=clip), [b for n, b in enumerate(batches) if n != left_out])
        moved = float((whole - without).norm())
        assert 0 < moved <= clip * 1.001


def test_the_noise_has_the_size_that_was_counted_even_where_nobody_was_drawn(ready: Ready) -> None:
    noise = summed(ready, planned(noise=3.0, clip=0.5), [])
    assert float(noise.mean()) == pytest.approx(0, abs=5 * 1.5 / math.sqrt(len(noise)))
    assert float(noise.std()) == pytest.approx(1.5, rel=5 / math.sqrt(2 * len(noise)))
    again = summed(ready, planned(noise=3.0, clip=0.5), [])
    assert torch.equal(noise, again)  # a seed was given
    fresh = update(ready, planned(), seed=None).generator.initial_seed()
    assert fresh != update(ready, planned(), seed=None).generator.initial_seed()


def test_a_step_that_is_asked_to_stop_changes_nothing(ready: Ready) -> None:
    made = update(ready, planned(noise=1.0))
    before = [p.detach().clone() for p in made.parameters]
    assert made(packs(ready), 1.0, 15) is None
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters, strict=True))


# --- draws ----------------------------------------------------------------------------------------------


def test_each_user_is_drawn_by_itself_with_the_same_chance(ready: Ready) -> None:
    pool = private.users_of(ready.mixture)
    draws = private.Draws(ready.mixture, planned(rate=0.2), 2000, seed=1)
    sizes = [len(draws.next()) for _ in range(60)]
    assert np.mean(sizes) == pytest.approx(0.2 * len(pool), abs=4 * math.sqrt(len(pool) * 0.16 / 60))
    assert len(set(sizes)) > 3  # a fixed number would be another mechanism than the one that is counted


def test_a_pack_holds_one_user_and_each_task_once(ready: Ready) -> None:
    for batch in packs(ready):
        assert batch.counts[1] == 1  # yes/no
        assert batch.counts[0] >= 1
    train = ready.mixture.tasks[0].material.train
    users = {int(train.users[b.events[0]]) for b in packs(ready)}
    assert all(len({int(train.users[e]) for e in b.events}) == 1 for b in packs(ready))
    assert len(users) == 30


def test_draws_do_not_follow_from_the_seed_of_the_run(ready: Ready) -> None:
    one, two = (private.Draws(ready.mixture, planned(rate=0.5), 2000, seed=None) for _ in range(2))
    told = [[b.events[0] for b in d.next()] for d in (one, two)]
    assert told[0] != told[1]


def test_a_user_too_long_for_a_pack_is_told(ready: Ready) -> None:
    with pytest.raises(BudgetError, match="what one user is trained on in a step takes"):
        private.Draws(ready.mixture, planned(rate=1.0), 20, seed=1).next()


# --- whole runs -----------------------------------------------------------------------------------------


def test_a_run_tells_what_it_spent_and_keeps_its_last_weights(config: Path) -> None:
    done = trained(config)
    assert done.step == done.total == 12
    told = json.loads((done.bundle / "palate.json").read_text())["training"]
    assert told["best step"] == 12
    spent = told["privacy"]
    assert spent["unit"] == "user"
    assert 5.5 < spent["epsilon"] <= 6
    assert spent["steps"] == 12
    assert spent["delta"] == pytest.approx(30**-1.1)
    assert spent["not covered"] == privacy.NOT_COVERED
    assert "epsilon: " in (done.bundle / "README.md").read_text()


def test_a_bundle_holds_no_exact_fact_of_the_events(config: Path, tiny_data: Path) -> None:
    bundle = trained(config).bundle
    told = json.loads((bundle / "palate.json").read_text())
    assert told["data"] == {"name": "tiny", "fingerprint": "", "users": 30, "items": 24}
    assert not {"tokens", "seconds"} & set(told["training"])
    assert Dataset.open(tiny_data).fingerprint not in (bundle / "palate.json").read_text()
    assert len(Recommender.load(bundle, data=tiny_data, device="cpu").recommend(user="1", k=3)) == 3


def test_gradient_checkpointing_is_heard_and_changes_nothing(config: Path, ready: Ready) -> None:
    batches = packs(ready)[:3]
    plain = summed(ready, planned(clip=1e9), batches)
    made = prepare(read_config(config, ["train.gradient_checkpointing=true"]), device="cpu")
    made.model.train()
    ready.model.train()
    heard = summed(made, planned(clip=1e9), batches)
    layers = [m for m in made.model.modules() if getattr(m, "gradient_checkpointing", False)]
    assert layers
    torch.testing.assert_close(heard, plain, rtol=1e-4, atol=1e-5)


def test_a_run_that_goes_on_counts_all_its_steps(config: Path) -> None:
    first = trained(config, "train.until=2")
    assert first.step == 6
    half = json.loads((first.bundle / "palate.json").read_text())["training"]["privacy"]
    second = trained(config)
    assert second.step == 12
    whole = json.loads((second.bundle / "palate.json").read_text())["training"]["privacy"]
    assert (half["steps"], whole["steps"]) == (6, 12)
    assert half["epsilon"] < whole["epsilon"]
    assert half["noise"] == whole["noise"]


def test_noise_of_a_known_seed_promises_nothing(config: Path) -> None:
    one = trained(config, "train.privacy.seed=5", "train.output=" + str(config.parent / "one"))
    two = trained(
        config, "train.privacy.seed=5", f"train.output={config.parent / 'two'}", f"train.run={config.parent / 'run2'}"
    )
    spent = json.loads((one.bundle / "palate.json").read_text())["training"]["privacy"]
    assert spent["epsilon"] is None
    assert "known seed" in spent["not covered"]
    assert (one.bundle / "adapter_model.safetensors").read_bytes() == (
        two.bundle / "adapter_model.safetensors"
    ).read_bytes()
