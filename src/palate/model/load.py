"""The base: any causal LM transformers knows, in bf16, int8 or nf4, with or without fresh LoRA weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from palate import sources
from palate.config import LoraConfig
from palate.errors import ConfigError, PalateWarning
from palate.model.attention import register
from palate.schema import Quantization

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises ConfigError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"expected a device such as 'cpu' or 'cuda:0', got {device!r}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch sees no CUDA device; use device='cpu'")
    return chosen


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


def _quantization(kind: Quantization, dtype: torch.dtype) -> Any:
    if kind == "none":
        return None
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )


def load_base(base: str, *, quantization: Quantization, dtype: str, device: torch.device) -> tuple[Any, Any, str]:
    """Load a causal LM and its tokenizer, frozen and in eval mode.

    Returns (model, tokenizer, sha256 of the base folder). Remote code never runs. Raises SourceError where
    the source cannot be had and ConfigError where it holds no causal LM.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = sources.base_model(base)
    register()
    options = {"trust_remote_code": False, "local_files_only": True}
    if quantization == "int8":
        # it would log one line for every layer of every call
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        if device.type == "cpu":
            warnings.warn(
                "int8 on a CPU works but is several times slower than bfloat16; nf4 is not", PalateWarning, stacklevel=2
            )
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            lm = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                quantization_config=_quantization(quantization, DTYPES[dtype]),
                device_map={"": device} if quantization != "none" else None,
                **options,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"{base}: expected a causal language model of transformers: {error}") from error
    if quantization == "none":
        lm.to(device)
    lm.set_attn_implementation(register())
    lm.requires_grad_(False)
    lm.eval()
    return lm, tokenizer, sources.digest(folder)


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
