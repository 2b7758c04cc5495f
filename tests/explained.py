"""What the tests of explanations share: a tiny recommender in which every part of an item moves the score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facade import toy_features
from palate import Dataset, Recommender
from palate.config import ModelConfig
from palate.model import Model
from palate.recommender import Part
from palate.schema import Features

ALIENS, HISTORY = "13", ("1", "2", "12", "14")
MODALITIES = ("behaviour", "image")
Gone = set[tuple[str, str]]


def make(base: Path, data: Path, fusion: str = "model", **meta: Any) -> Recommender:
    """A recommender over random toy features in which all parts count, with a small prompt budget."""
    dataset = Dataset.open(data)
    config = ModelConfig.parse(
        {"base": f"path:{base}", "dtype": "float32", "hidden": 16, "matching": 8, "fusion": fusion}, "tiny"
    )
    model = Model.create(config, tables(dataset), device="cpu")
    assert model.soft is not None
    torch.manual_seed(3)
    with torch.no_grad():  # large enough that every part of an item moves the score by more than rounding
        for p in model.soft.matching.parameters():
            p.normal_(std=0.7)
    return Recommender(model, dataset, {"prompt": {"max_tokens": 700, "max_history": 20}, **meta})


def tables(dataset: Dataset, gone: Gone = frozenset()) -> dict[str, Features]:  # type: ignore[assignment]
    """Toy tables in which every item has both modalities, but for `gone`: (item id, modality)."""
    made = {}
    rng = np.random.default_rng(11)
    for m, t in sorted(toy_features(dataset).items()):
        vectors = rng.standard_normal(t.vectors.shape).astype(np.float32)
        present = np.array([(i, m) not in gone for i in t.item_ids])
        made[m] = Features(m, t.item_ids, vectors * present[:, None], present, t.fingerprint)
    return made


def named(parts: Sequence[Part], of: str) -> dict[str, float]:
    return {p.name: p.value for p in parts if p.of == of}
