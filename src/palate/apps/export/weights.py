"""The bundle's language model as a plain transformers folder, with LoRA merged or without it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, cast

import torch

from palate import sources
from palate.apps.export.targets import Options
from palate.errors import ConfigError, PalateWarning
from palate.model import bundle as bundles
from palate.model.load import quiet
from palate.schema import Dtype

SHARD = "5GB"
_LOCAL = ("name_or_path", "gguf_file", "is_local", "local_files_only", "_name_or_path", "_attn_implementation")


def load(bundle: Path, options: Options, merge: bool) -> bundles.Bundle:
    """The bundle on its unquantized base, on the CPU: one copy of the weights, beside one layer's sum as it merges."""
    meta = bundles.read_meta(bundle)
    if (kind := meta["model"].get("quantization", "none")) != "none":
        warnings.warn(
            f"{bundle} was trained on a base in {kind}; the export takes the unquantized weights, which its LoRA has "
            "not seen, so scores differ by the quantization's error",
            PalateWarning,
            stacklevel=2,
        )
    dtype = options.dtype or stored_dtype(options.base or meta["model"]["base"])
    return bundles.load(
        bundle, quantization="none", dtype=dtype, device="cpu", base=options.base, layers=options.layers, merge=merge
    )


def stored_dtype(base: str) -> Dtype:
    """What the base's files hold, by its config; bfloat16 where that says nothing."""
    config = json.loads((sources.base_model(base) / "config.json").read_text(encoding="utf-8"))
    found = config.get("dtype") or config.get("torch_dtype")
    return cast(Dtype, found) if found in ("bfloat16", "float16", "float32") else "bfloat16"


def save(lm: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Write a causal LM and its tokenizer; returns facts: architecture, layers, dtype, where its embeddings are."""
    from transformers import GenerationConfig

    ends = getattr(lm.generation_config, "eos_token_id", None)
    kept = ends if ends is not None else tokenizer.eos_token_id
    # a base's own sampling (top_k, top_p, temperature) would cut beams and rankings without a word
    lm.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=kept, pad_token_id=tokenizer.pad_token_id
    )
    with quiet():
        lm.save_pretrained(folder, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json"):
        _without_places(folder / name)
    config = lm.config.get_text_config()
    return {
        "architecture": type(lm).__name__,
        "layers": int(config.num_hidden_layers),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "vocabulary": int(lm.get_input_embeddings().weight.shape[0]),
        "width": int(lm.get_input_embeddings().weight.shape[1]),
        "embeddings": _embeddings(lm, folder),
    }


def _without_places(path: Path) -> None:
    """No machine path and no option of this one run in a saved config; a tokenizer class that older readers know."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in _LOCAL:
        config.pop(key, None)
    if config.get("tokenizer_class") == "TokenizersBackend":  # transformers 5's name of what 4 and 5 read by this one
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def _embeddings(lm: Any, folder: Path) -> dict[str, Any]:
    """Which tensor of which file holds the token embeddings, and what its rows are multiplied by."""
    table = lm.get_input_embeddings()
    name = next(n for n, p in lm.named_parameters(remove_duplicate=False) if p is table.weight)
    index = folder / "model.safetensors.index.json"
    file = "model.safetensors"
    if index.is_file():
        file = json.loads(index.read_text(encoding="utf-8"))["weight_map"][name]
    ids = torch.arange(min(8, len(table.weight)))
    rows, seen = table.weight[ids].float(), table(ids).float()
    scale = float(seen.norm() / rows.norm())
    if not torch.allclose(seen, rows * scale, rtol=0.02, atol=1e-6):
        raise ConfigError(f"{type(lm).__name__}: expected token embeddings that are rows times one number")
    return {"file": file, "tensor": name, "scale": 1.0 if abs(scale - 1) < 1e-3 else scale}
