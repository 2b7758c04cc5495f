"""Where encoders run, and how to keep loading libraries quiet."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from palate.errors import ConfigError


def pick(device: str = "auto") -> str:
    """`auto` is the first CUDA device, else the CPU. Raises ConfigError for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"expected a device such as 'cpu' or 'cuda:0', got {device!r}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch sees no CUDA device; use device: cpu")
    return device


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading bars and reports of transformers, then restore them."""
    from transformers.utils import logging as hf

    bars, level, disabled = hf.is_progress_bar_enabled(), hf.get_verbosity(), logging.root.manager.disable
    hf.disable_progress_bar()
    hf.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
