"""A tiny model with soft tokens for one modality and a LoRA that counts, for the engine's unit tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from palate.config import LoraConfig, ModelConfig
from palate.model import Model
from palate.schema import Features

ITEMS = tuple("abcdef")


def adapted(base: Path, soft_tokens: int) -> Model:
    """A float32 model on `base`; every item has an image vector of 8 numbers and so `soft_tokens` soft tokens."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(len(ITEMS), 8)).astype(np.float32)
    tables = {"image": Features("image", ITEMS, vectors, np.ones(len(ITEMS), dtype=bool), "image-test")}
    config = ModelConfig(
        base=f"path:{base}", dtype="float32", soft_tokens=soft_tokens, hidden=16, matching=8, lora=LoraConfig(rank=4)
    )
    built = Model.create(config, tables, device="cpu", seed=5)
    with torch.no_grad():  # LoRA starts as the identity; make it count
        for name, p in built.trainable().items():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return built
