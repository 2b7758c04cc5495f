"""The learning rate over a run."""

from __future__ import annotations

import math

FLOOR = 0.1
"""The last rate as a share of the peak."""


def rate(step: int, total: int, warmup: float) -> float:
    """Factor on the peak rate for optimizer step `step` (from 0) of `total`.

    Linear from 1 / warm-up steps to 1, then half a cosine down to FLOOR at the last step. A function of the
    step alone, so a resumed run needs no scheduler state.
    """
    warm = round(warmup * total)
    if step < warm:
        return (step + 1) / warm
    along = (step - warm) / max(1, total - 1 - warm)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))
