"""What the engines' targets share: base and adapter, or merged weights, and the tables of soft tokens beside them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from palate.apps.export import adapter, soft, weights
from palate.apps.export.targets import Options
from palate.errors import PalateWarning

LOST = (
    "projectors: soft tokens of the items known at export time are in soft_tokens.safetensors; a new item needs a new "
    "export",
    "matching head in the engine: matching.safetensors is applied by the client to hidden states",
)


def write(bundle: Path, folder: Path, options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write `base/` and `adapter/`, or `model/` (options.merge), and the tables. Returns facts: model, more."""
    loaded = weights.load(bundle, options, merge=options.merge).model
    more: dict[str, Any] = {"soft": soft.write(loaded, folder)}
    place = "model" if options.merge else "base"
    # a PEFT model gives its base back as it was: the LoRA tensors go, the weights stay where they are
    lm = loaded.lm if options.merge else loaded.lm.unload()
    facts = weights.save(lm, loaded.tokenizer, folder / place)
    if facts["embeddings"]["scale"] != 1:
        warnings.warn(
            f"{facts['architecture']} multiplies its token embeddings by {facts['embeddings']['scale']:.4g}, and "
            "engines differ in whether they do so to embeddings from outside; compare scores before trusting them",
            PalateWarning,
            stacklevel=2,
        )
    if not options.merge:
        more["adapter"] = adapter.write(bundle, folder / "adapter", facts["layers"])
    return {"folder": place, "lora": "merged" if options.merge else "adapter", **facts}, more
