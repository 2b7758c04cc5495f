"""How many positions a pack may have: what the memory at hand allows, halved where that was too much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from palate.errors import PalateError, RequestError
from palate.model import Model

LEAST = 256
"""Packs smaller than this are not tried."""
MOST = {"cpu": 3072, "cuda": 16384}
"""On two CPU cores packs of 2,800 tokens were 5% faster than of 2,048, of 4,096 no faster; CUDA was not measured."""


@dataclass(frozen=True, slots=True)
class Budget:
    """tokens: positions in a pack at most; chosen: whether the caller set it."""

    tokens: int
    chosen: bool

    @classmethod
    def of(cls, model: Model, max_tokens: int | None) -> Budget:
        """The caller's number, or as many as fit a quarter of the device's free memory (a half on CUDA)."""
        if max_tokens is not None:
            if max_tokens < 1:
                raise RequestError(f"max_tokens: expected 1 or more, got {max_tokens}")
            return cls(max_tokens, True)
        device = model.device
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0] // 2
        else:
            free = psutil.virtual_memory().available // 4
        fit = free // bytes_per_token(model.lm.config, next(model.lm.parameters()).element_size())
        most = MOST.get(device.type, MOST["cpu"])
        return cls(max(LEAST, min(most, 1 << max(0, int(fit).bit_length() - 1))), False)

    def halved(self, error: BaseException) -> Budget:
        """Half of it. Raises PalateError, with the first cause, where there is no sense in going on."""
        if self.tokens < 2 * LEAST:
            raise PalateError(
                f"out of memory in a pack of {self.tokens} tokens; use a smaller base, quantization='nf4' or a "
                "device with more memory"
            ) from error
        return replace(self, tokens=self.tokens // 2)


def bytes_per_token(config: Any, element: int) -> int:
    """Activations alive at once in a forward without gradients, per position, from the base's widths."""
    text = config.get_text_config()
    width, inner = text.hidden_size, getattr(text, "intermediate_size", 4 * text.hidden_size)
    # residual, its norm in float32, attention's four matrices, the two halves of the MLP and their product
    return int(element * (8 * width + 4 * inner) + 8 * width)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
