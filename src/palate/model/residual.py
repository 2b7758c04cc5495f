"""The residual stream wider than the weights: what linear layers add up is not rounded again at every layer.

Measured on a CPU with bfloat16 arithmetic, SmolLM2-135M, 840 title tokens: root mean square distance from float32
scoring 0.107 a token instead of 0.126, at the same speed (docs/notes/2026-11-24-cpu-bfloat16.md). Of a float32 base
the largest distance fell from 1.1e-4 to 7e-5 as its stream became float64 (docs/notes/2026-11-23-exactness.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDER = {torch.bfloat16: torch.float32, torch.float32: torch.float64}


def widen(body: Any) -> bool:
    """Let a backbone take input embeddings wider than its weights; False where its architecture does not.

    Linear layers read the stream through norms alone, so it is enough that these, and the rotary tables, give back
    the dtype of the weights. That is known of the RMS norms of transformers, which compute in float32 anyway. Safe to
    call again.
    """
    if getattr(body, "palate_wide", False):
        return True
    layers = getattr(body, "layers", ())
    norms = [m for m in body.modules() if "norm" in type(m).__name__.lower()]
    if not layers or not all(hasattr(layer, "input_layernorm") for layer in layers):
        return False  # OLMo 2 and its like: linear layers read the stream itself
    if not all(type(m).__name__.endswith("RMSNorm") and not isinstance(m, nn.RMSNorm) for m in norms):
        return False
    for norm in norms:
        norm.register_forward_hook(_as_weights)
    for name, module in body.named_modules():
        if name.rpartition(".")[2].startswith("rotary_emb"):
            module.register_forward_hook(lambda _, __, tables: tuple(_narrow(t, body) for t in tables))
    body.palate_wide = True
    return True


def wider(embeds: Tensor) -> Tensor:
    """Input embeddings in the dtype of the stream: a step wider at inference on a CPU. Elsewhere it was not measured,
    and training would keep twice as much of the stream.
    """
    if embeds.device.type != "cpu" or torch.is_grad_enabled():
        return embeds
    return embeds.to(WIDER.get(embeds.dtype, embeds.dtype))


def _as_weights(norm: Any, _: Any, out: Tensor) -> Tensor:
    weight = getattr(norm, "weight", None)
    return out if weight is None else out.to(weight.dtype)


def _narrow(table: Tensor, body: Any) -> Tensor:
    return table.to(body.get_input_embeddings().weight.dtype)
