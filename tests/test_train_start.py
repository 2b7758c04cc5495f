"""A warm start: a run goes on from an adapter's weights, and says what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.errors import BundleError
from palate.model import bundle
from palate.train import read_config, run
from palate.train.prepare import prepare
from test_train_loop import config, quiet  # noqa: F401  (a fixture)


@pytest.fixture
def first(config: Path) -> Path:  # noqa: F811
    """A bundle of four steps."""
    found = run(config, ["train.max_steps=4"], console=quiet()).bundle
    assert found is not None
    return found


def test_it_begins_with_the_weights_of_the_bundle(config: Path, first: Path) -> None:  # noqa: F811
    fresh = prepare(read_config(config), device="cpu").model
    ready = prepare(read_config(config, [f"train.start={first}"]), device="cpu")
    assert ready.notes[0] == f"goes on from the weights of {first}"
    warm, kept = ready.model, bundle.load(first, merge=False, device="cpu").model
    weights = {n: p.detach() for n, p in kept.named_parameters() if "lora_" in n or n.startswith("soft.")}
    assert len(weights) == len(warm.trainable())
    for name, p in warm.trainable().items():
        torch.testing.assert_close(p.detach(), weights[name].float(), rtol=0, atol=0)
    moved = [n for n, p in warm.trainable().items() if not torch.equal(p, fresh.trainable()[n])]
    assert any("lora_B" in n for n in moved)
    assert any(n.startswith("soft.matching") for n in moved)
    assert warm.soft is not None
    assert kept.soft is not None
    np.testing.assert_allclose(
        warm.item_vectors().detach().numpy(), kept.item_vectors().detach().numpy(), atol=2e-2
    )  # a bundle's tables are in half precision


def test_a_run_goes_on_from_there(config: Path, first: Path, tmp_path: Path) -> None:  # noqa: F811
    places = [f"train.run={tmp_path / 'again'}", f"train.output={tmp_path / 'second'}"]
    losses = []
    for start in ([], [f"train.start={first}"]):
        folder = tmp_path / f"run{len(start)}"
        changed = [f"train.run={folder}", places[1], "train.max_steps=1", *start]
        run(config, changed, console=quiet())
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[1] < losses[0]
    meta = bundle.read_meta(tmp_path / "second")
    assert "start" not in meta["config"]["train"]  # a path of this machine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.lora.rank=2", r"was trained with model.lora .*expected .*'rank': 2"),
        ("model.matching=8", r"was trained with model.matching 16, expected 8"),
        ("features={behaviour: {}, text: {options: {max_chars: 9}}}", r"trained with the modalities \['behaviour'\]"),
    ],
)
def test_what_does_not_fit_is_said(config: Path, first: Path, change: str, words: str) -> None:  # noqa: F811
    with pytest.raises(BundleError, match=words):
        prepare(read_config(config, [f"train.start={first}", change]), device="cpu")


def test_vectors_of_other_interactions_are_told(config: Path, first: Path) -> None:  # noqa: F811
    other = ["features={behaviour: {options: {dims: 128, penalty: 9}}}", f"train.start={first}"]
    ready = prepare(read_config(config, other), device="cpu")
    assert "vectors that are not those it was trained with: behaviour" in ready.notes[0]


def test_no_bundle_there(config: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(BundleError, match=r"palate.json"):
        prepare(read_config(config, [f"train.start={tmp_path}"]), device="cpu")
