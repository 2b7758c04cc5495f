"""Weights in fewer bits: int8 and nf4 by bitsandbytes, int4 and fp8 by torchao.

int8 and nf4 are quantized as transformers reads the base, layer by layer. int4 and fp8 are quantized in place once the
base is whole and LoRA merged, so the unquantized base must fit first. The embeddings and the head stay as they are.
"""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from palate.errors import ConfigError, PalateWarning
from palate.model.hardware import capability
from palate.schema import Quantization

TORCHAO = {"int4": (8, 0), "fp8": (8, 9)}
"""The kinds torchao does, and the CUDA compute capability each needs."""
GROUP = 64
"""Weights of a row that share one int4 scale."""
OUTLIER = 6.0
"""Activations beyond this are multiplied unquantized by int8 (Dettmers et al., 2022, "LLM.int8()")."""


def check(kind: Quantization, dtype: torch.dtype, device: torch.device) -> None:
    """Fail before the base is read where `kind` cannot work here; say what is slow. Raises ConfigError."""
    if kind == "int8":
        # it would log one line for every layer of every call
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        if device.type == "cpu":
            warnings.warn(
                "int8 on a CPU works but is several times slower than no quantization; nf4 is not",
                PalateWarning,
                stacklevel=4,
            )
    if kind in ("int8", "nf4") and find_spec("bitsandbytes") is None:
        raise ConfigError(f"quantization {kind!r} needs bitsandbytes; run `pip install bitsandbytes`")
    if kind not in TORCHAO:
        return
    if find_spec("torchao") is None:
        raise ConfigError(f"quantization {kind!r} needs torchao; run `pip install torchao`")
    major, minor = TORCHAO[kind]
    if capability(device) < (major, minor):
        got = ".".join(map(str, capability(device))) if device.type == "cuda" else f"the device {device}"
        raise ConfigError(
            f"quantization {kind!r}: expected a CUDA device of compute capability {major}.{minor} or more, got {got}; "
            "use nf4 or none"
        )
    if dtype != torch.bfloat16:
        raise ConfigError(f"quantization {kind!r} computes in bfloat16, got {dtype}; use dtype='bfloat16'")


def reading_config(kind: Quantization, dtype: torch.dtype) -> Any:
    """What transformers is told to quantize a base as it reads it; None for the kinds done afterwards."""
    if kind not in ("int8", "nf4"):
        return None
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=OUTLIER)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )


def quantize(lm: Any, kind: Quantization) -> None:
    """Quantize the linears of a whole causal LM in place, but neither its head nor LoRA's own."""
    head = lm.get_output_embeddings()
    chosen = {
        name: module
        for name, module in lm.named_modules()
        if type(module) is nn.Linear and module is not head and "lora_" not in name
    }
    if kind in TORCHAO:
        from torchao.quantization import quantize_

        quantize_(lm, _torchao_config(kind), filter_fn=lambda module, name: name in chosen)
    elif kind != "none":
        for name, module in chosen.items():
            lm.set_submodule(name, _bitsandbytes(module, kind))


def _torchao_config(kind: str) -> Any:
    from torchao import quantization as ao

    if kind == "int4":
        # torch's own int4 kernel (tinygemm); the other layouts need further packages
        return ao.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    return ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow())


def _bitsandbytes(linear: nn.Linear, kind: str) -> nn.Module:
    """The same linear, its weight quantized with the settings of `reading_config`."""
    from bitsandbytes import nn as bnb

    weight, bias = linear.weight.data, linear.bias
    small: nn.Module
    if kind == "int8":
        small = bnb.Linear8bitLt(
            linear.in_features, linear.out_features, bias is not None, has_fp16_weights=False, threshold=OUTLIER
        )
        small.weight = bnb.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        small = bnb.Linear4bit(
            linear.in_features, linear.out_features, bias is not None, compute_dtype=weight.dtype, quant_type="nf4"
        )
        small.weight = bnb.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
    if bias is not None:
        small.bias = nn.Parameter(bias.data, requires_grad=False)
    return small.train(linear.training).to(weight.device)
