"""LoRA added into the weights of its base: no further products at inference, and nothing left to train."""

from __future__ import annotations

from typing import Any, Literal

import torch

from palate.errors import ConfigError
from palate.schema import Quantization

Merge = bool | Literal["auto"]


def wants_merge(merge: Merge, quantization: Quantization) -> bool:
    """`auto` merges, but not for int8 and nf4: those bases are quantized as they are read, before LoRA is there."""
    if isinstance(merge, bool):
        return merge
    if merge != "auto":
        raise ConfigError(f"merge: expected 'auto', True or False, got {merge!r}")
    return quantization not in ("int8", "nf4")


@torch.no_grad()
def merge_lora(lm: Any) -> Any:
    """Add the active LoRA weights into the base's; returns the plain causal LM.

    The sum W + BA is taken in float32, whatever the base's precision, and rounded once (Hu et al., 2021, section 4.1).
    Raises ConfigError where LoRA sits on a weight that is also the token embedding: a sum would change both.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    embedding = lm.get_input_embeddings().weight
    for name, layer in lm.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        base = layer.get_base_layer()
        if base.weight is embedding:
            raise ConfigError(f"{name}: LoRA on a weight tied to the embeddings cannot be merged; use merge=False")
        kept = base.weight.dtype
        layer.to(torch.float32)
        layer.merge(safe_merge=True)
        base.to(kept)
    return lm.unload()
