"""Depth pruning: the first N transformer layers of a base, with its final norm and head.

The deep layers of a language model change its hidden states the least (Men et al., 2024, "ShortGPT"; Gromov et al.,
2024, "The unreasonable ineffectiveness of the deeper layers"). A base cut this way should be trained, or measured
with `python -m benchmarks.precision`: scores change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from palate.errors import ConfigError

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def shorten(config: Any, layers: int, base: str) -> Any:
    """A transformers config cut to its first `layers` layers, lists of one entry a layer included, in place.

    Raises ConfigError where the base has fewer, or where its last layers read the keys of earlier ones.
    """
    text = config.get_text_config()
    have = int(text.num_hidden_layers)
    if not 1 <= layers <= have:
        raise ConfigError(f"layers: expected 1 to {have}, as many as {base} has, got {layers}")
    if getattr(text, "num_kv_shared_layers", 0):
        raise ConfigError(f"layers: {base} shares keys and values between its last layers and cannot be cut; use None")
    for name, value in list(vars(text).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == have:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return config


def check_cut(backbone: Any, layers: int, base: str) -> None:
    """ConfigError unless the loaded backbone holds exactly `layers` layers in a list called `layers`."""
    found = getattr(backbone, "layers", None)
    if found is None or len(found) != layers:
        what = "none under that name" if found is None else str(len(found))
        raise ConfigError(f"layers: expected {base} to keep {layers} in `layers`, found {what}; load it whole")


def depth_of(names: Iterable[str]) -> int:
    """How many layers weights of these names reach: 1 + the largest layer number, 0 where they name none."""
    return max((int(found[1]) + 1 for n in names if (found := _LAYER.search(n))), default=0)
