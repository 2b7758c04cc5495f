"""The base under test, twice over the same weights: Palate's model and a stock transformers one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from palate import sources
from palate.config import ModelConfig
from palate.errors import BundleError, ConfigError
from palate.model import Model, bundle
from palate.model.hardware import DTYPES
from palate.model.hardware import pick_dtype as best_dtype
from palate.schema import Dtype

_QWEN3 = {
    "vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "attention_bias": False, "bos_token_id": 151_643, "eos_token_id": 151_645, "hidden_act": "silu",
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        **_QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "tie_word_embeddings": True,
    },
    "qwen3-1.7b": {
        **_QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        **_QWEN3, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""The numbers of the published config.json files of Qwen3-0.6B, Qwen3-1.7B and Qwen3-8B."""


@dataclass
class Base:
    """What a run measures.

    model: Palate's; lm: stock transformers with its own `sdpa` attention. Both hold the same tensors, so no
    memory is spent twice. source: None for random weights.
    """

    model: Model
    lm: Any
    name: str
    source: str | None
    dtype: Dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def width(self) -> int:
        return int(self.lm.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        return int(self.lm.config.vocab_size)

    @property
    def body(self) -> int:
        """Parameters without embeddings and output head."""
        apart = {
            id(p) for m in (self.lm.get_input_embeddings(), self.lm.get_output_embeddings()) for p in m.parameters()
        }
        return sum(p.numel() for p in self.lm.parameters() if id(p) not in apart)

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weights": "random" if self.source is None else "real",
            "dtype": self.dtype,
            "parameters": sum(p.numel() for p in self.lm.parameters()),
            "parameters_without_embeddings": self.body,
        }


def load(options: argparse.Namespace, dtype: Dtype | None = None) -> Base:
    """The base that the flags name, on their device. dtype: overrules the flag's (the float32 reference)."""
    dtype = dtype or pick_dtype(options)
    if options.model_shape:
        return _random(options.model_shape, dtype, options.device, options.seed)
    from transformers import AutoModelForCausalLM

    folder = sources.base_model(options.base)
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation="sdpa")
    lm.to(options.device).eval()
    config = ModelConfig(base=options.base, dtype=dtype)
    model = Model.create(config, {}, device=options.device, adapter=False)
    _share(lm, model.lm)
    # a folder's path is the user's own business
    name = f"path:{folder.name}" if options.base.startswith("path:") else options.base
    return Base(model, lm, name, options.base, dtype)


def pick_dtype(options: argparse.Namespace) -> Dtype:
    """`auto` is what Palate computes in on this device: bfloat16 where it is native, else float32."""
    chosen = best_dtype(options.dtype, torch.device(options.device))
    return "bfloat16" if chosen is torch.bfloat16 else "float32"


def _random(shape: str, dtype: Dtype, device: str, seed: int) -> Base:
    from transformers import AutoModelForCausalLM, Qwen3Config

    from palate.model.attention import register

    twins = []
    for attention in ("sdpa", register()):
        torch.manual_seed(seed)
        with torch.device(device):
            lm = AutoModelForCausalLM.from_config(
                Qwen3Config(**SHAPES[shape]), dtype=DTYPES[dtype], attn_implementation=attention
            )
        twins.append(lm.eval().requires_grad_(False))
        _share(twins[0], lm)
    config = ModelConfig(base=shape, dtype=dtype)
    model = Model(twins[1], None, None, config, "random weights")
    return Base(model.eval(), twins[0], shape, None, dtype)


def _share(source: Any, target: Any) -> None:
    """Let two models of one shape hold the same tensors."""
    theirs = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        theirs[name].data = parameter.data


def adapter(options: argparse.Namespace, items: tuple[str, ...], dtype: Dtype) -> Model | str:
    """The adapter of the flags on its base; or words that say why there is none."""
    folder = Path(options.adapter)
    if options.model_shape:
        return "random weights have no adapter"
    if not (folder / "palate.json").is_file():
        return f"there is no adapter {folder.name!r} here; name one with --adapter"
    try:
        return bundle.load(
            folder,
            items=items,
            device=options.device,
            base=options.base,
            dtype=dtype,
        ).model
    except BundleError as error:
        return str(error)


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that cannot be run here, before any work."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: expected a CUDA device, torch sees none; run with --device cpu")
    for name in ("requests", "prefix", "candidates", "repeats"):
        if getattr(options, name, 1) < 1:
            raise ConfigError(f"--{name}: expected 1 or more, got {getattr(options, name)}")
