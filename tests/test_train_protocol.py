"""Training under another protocol than leave-one-out: what it holds out is never learned about."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from palate.data import Dataset
from palate.data.coldusers import held_out_users
from palate.data.splits import held_out_record
from palate.errors import ConfigError
from palate.evaluate import protocol
from palate.train import read_config, run

COLD = "cold-items:share=0.2:seed=3"


@pytest.fixture
def config(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    """Two steps on every task, whole items held out."""
    model = {"base": f"path:{tiny_base}", "dtype": "float32", "lora": {"rank": 4}, "hidden": 16, "matching": 16}
    training = {"run": str(tmp_path / "run"), "output": str(tmp_path / "adapter"), "max_steps": 2, "epochs": 50}
    values: dict[str, Any] = {
        "name": "cold",
        "data": str(tiny_data),
        "features": {"behaviour": {}},
        "prompt": {"max_tokens": 1000, "max_history": 4, "max_sequence": 12},
        "model": model,
        "train": {**training, "batch_tokens": 1200, "protocol": COLD},
    }
    file = tmp_path / "cold.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_held_out_items_are_neither_shown_nor_asked_nor_negatives(config: Path) -> None:
    """Other feature vectors for them change no loss of an epoch."""
    from palate.train.collate import Position, Stream
    from palate.train.prepare import prepare
    from palate.train.step import TrainingStep

    ready = prepare(read_config(config), device="cpu")
    ids = ready.dataset.histories.interactions.item_ids
    held_out = {ids[i] for i in ready.withheld}
    assert len(held_out) == round(0.2 * len(ids))
    stream = Stream(ready.mixture, 1200, Position())
    batches = [stream.next() for _ in range(6)]
    assert not {s.item_id for b in batches for s in b.pack.slots} & held_out
    assert not {ids[t] for b in batches for t in b.targets if t >= 0} & held_out
    soft, step = ready.model.soft, TrainingStep(ready.model, ready.withheld)
    assert soft is not None
    ready.model.eval()
    with torch.no_grad():
        before = torch.stack([step(b) for b in batches])
        for item in held_out:
            soft.add_item(item, {"behaviour": np.full(soft.widths["behaviour"], 9.0, dtype=np.float32)})
        after = torch.stack([step(b) for b in batches])
        seen = torch.stack([TrainingStep(ready.model)(b) for b in batches])
    assert torch.equal(before, after)
    assert not torch.equal(after[:, 0], seen[:, 0])  # they would have been negatives
    cases = ready.validator.cases
    assert cases
    assert not {ids[c.positive] for c in cases} & held_out
    assert not {ids[i] for c in cases for i in c.items(len(ids))} & held_out


def test_the_bundle_tells_which_items_it_never_saw(config: Path, tiny_data: Path, tmp_path: Path) -> None:
    run(config, console=Console(file=io.StringIO()))
    events = Dataset.open(tiny_data).histories.interactions
    split = protocol(COLD).split(events)
    assert split.held_out is not None
    meta = json.loads((tmp_path / "adapter" / "palate.json").read_text())
    assert meta["training"]["held_out_items"] == held_out_record(events.item_ids, split.held_out, share=0.2, seed=3)
    assert meta["metrics"][0]["protocol"].startswith("cold-items/1:share=0.2:seed=3, validation item")


def test_a_protocol_that_does_not_exist_is_a_mistake(config: Path) -> None:
    with pytest.raises(ConfigError, match="no protocol is called 'loo-ful'; did you mean 'loo-full'"):
        run(config, ["train.protocol=loo-ful"], console=Console(file=io.StringIO()))


def test_the_bundle_tells_which_users_it_never_saw(config: Path, tiny_data: Path, tmp_path: Path) -> None:
    run(config, ["train.protocol=cold-users:share=0.25:seed=3"], console=Console(file=io.StringIO()))
    events = Dataset.open(tiny_data).histories.interactions
    meta = json.loads((tmp_path / "adapter" / "palate.json").read_text())
    users = held_out_users(events.user_ids, 0.25, 3)
    record = held_out_record(events.user_ids, users, 0.25, 3, "users")
    assert meta["training"]["held_out_users"] == record
    assert record["users"] == round(0.25 * len(events))
    assert meta["training"]["held out"].startswith("the held-out users")
