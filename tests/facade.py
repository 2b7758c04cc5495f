"""What the tests of the facade share: a tiny bundle over the tiny data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palate.data import Dataset
from palate.schema import Features


def tiny_bundle(folder: Path, base: Path, data: Path, extra: Mapping[str, Any] | None = None) -> Path:
    """A saved bundle with random LoRA and projectors over toy image and behaviour vectors."""
    from palate import prompting
    from palate.config import ModelConfig
    from palate.model import Model, bundle

    dataset = Dataset.open(data)
    config = ModelConfig.parse({"base": f"path:{base}", "dtype": "float32", "hidden": 16, "matching": 8}, "tiny")
    model = Model.create(config, toy_features(dataset), device="cpu")
    names = ("sequence", "next_item", "yes_no", "letters")
    meta: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "encoders": {},
        "templates": {n: prompting.load(n, "en").hash for n in names},
        "prompt": {"max_tokens": 700, "max_history": 20},
        "metrics": {},
        **(extra or {}),
    }
    return bundle.save(folder, model, meta)


def toy_features(dataset: Dataset) -> dict[str, Features]:
    """Two tables of random vectors; only items with a picture have an image row."""
    ids = dataset.catalog.item_ids
    rng = np.random.default_rng(5)
    has = np.array([bool(dataset.catalog[i].media) for i in ids])
    image = rng.standard_normal((len(ids), 6)).astype(np.float32) * has[:, None]
    behaviour = rng.standard_normal((len(ids), 5)).astype(np.float32)
    return {
        "image": Features("image", ids, image, has, "toy-image"),
        "behaviour": Features("behaviour", ids, behaviour, np.ones(len(ids), bool), "toy-behaviour"),
    }
