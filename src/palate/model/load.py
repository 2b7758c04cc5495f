"""The base: any causal LM transformers knows, whole or cut, in any precision, with or without fresh LoRA weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from palate import sources
from palate.config import LoraConfig, ModelConfig
from palate.errors import ConfigError
from palate.model import depth, quantize
from palate.model.attention import register
from palate.model.hardware import BALANCED, pick_device, pick_dtype


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading bars of transformers and bitsandbytes' line per layer and call, then restore."""
    from transformers.utils import logging as hf

    bars, level, root = hf.is_progress_bar_enabled(), hf.get_verbosity(), logging.root.manager.disable
    hf.disable_progress_bar()
    hf.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # PEFT still asks for an attribute that transformers 5 renamed; nothing a user could mend
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logging.disable(root)
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()


def load_base(
    config: ModelConfig, device: str = "auto", *, dtype: torch.dtype | None = None, late: bool = False
) -> tuple[Any, Any, str]:
    """Load a causal LM and its tokenizer, frozen and in eval mode.

    device: as for `pick_device`; "balanced" spreads the layers over all CUDA devices. dtype: what to compute in;
    None takes the config's. late: leave the quantization to the caller (`quantize.quantize`), who merges LoRA first.
    Returns (model, tokenizer, sha256 of the base folder). Remote code never runs. Raises SourceError where
    the source cannot be had and ConfigError where it holds no causal LM or cannot be loaded as asked.
    """
    place = pick_device(device)
    dtype = dtype or pick_dtype(config.dtype, place)
    quantize.check(config.quantization, dtype, place)
    folder = sources.base_model(config.base)
    register()
    reading = None if late else quantize.reading_config(config.quantization, dtype)
    how = {"dtype": dtype, "quantization_config": reading, "device_map": _map(device, place, reading)}
    lm, tokenizer = _read(folder, config, how)
    if not hasattr(lm, "hf_device_map"):
        lm.to(place)
    if config.layers is not None:
        depth.check_cut(getattr(lm, lm.base_model_prefix), config.layers, config.base)
    if reading is None and not late:
        quantize.quantize(lm, config.quantization)
    lm.set_attn_implementation(register())
    lm.requires_grad_(False)
    lm.eval()
    return lm, tokenizer, sources.digest(folder)


def _map(device: str, place: torch.device, reading: Any) -> Any:
    """accelerate's device map: where each part of the base goes as it is read; None: it is moved when whole."""
    if device == BALANCED:
        return BALANCED
    return None if reading is None else {"": place}


def _read(folder: Path, config: ModelConfig, how: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    options = {"trust_remote_code": False, "local_files_only": True}
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            if config.layers is not None:
                whole = AutoConfig.from_pretrained(folder, **options)
                how["config"] = depth.shorten(whole, config.layers, config.base)
            return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **how, **options), tokenizer
        except (OSError, ValueError) as error:
            raise ConfigError(f"{config.base}: expected a causal language model of transformers: {error}") from error


def add_lora(lm: Any, config: LoraConfig, seed: int) -> Any:
    """Wrap the base with fresh LoRA weights (fp32 masters), the same for the same seed."""
    with quiet(), torch.random.fork_rng(devices=[]):
        from peft import LoraConfig as PeftLora
        from peft import get_peft_model

        torch.manual_seed(seed)
        return get_peft_model(
            lm,
            PeftLora(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=config.targets,
                task_type="CAUSAL_LM",
            ),
        )
