"""The LoRA of a bundle as the PEFT folder that engines load beside a base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palate.errors import BundleError
from palate.model.depth import depth_of

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank may be (0.32, config/lora.py: MaxLoRARanks)."""
_KEPT = (
    "peft_type", "task_type", "r", "lora_alpha", "target_modules", "lora_dropout", "bias", "fan_in_fan_out",
    "inference_mode", "use_rslora", "use_dora", "modules_to_save", "init_lora_weights", "peft_version",
)  # fmt: skip


def write(bundle: Path, folder: Path, layers: int) -> dict[str, Any]:
    """Write adapter_config.json and adapter_model.safetensors for a base of `layers` layers.

    The keys are PEFT's own (`base_model.model.` + module + `.lora_A.weight`), which vLLM and SGLang read. Returns
    facts: rank, alpha, targets, the rank an engine must allow. Raises BundleError for a kind of LoRA that these
    engines refuse.
    """
    from safetensors.torch import load_file, save_file

    config = json.loads((bundle / "adapter_config.json").read_text(encoding="utf-8"))
    state = load_file(bundle / "adapter_model.safetensors")
    _check(bundle, config, list(state))
    kept = {n: t for n, t in state.items() if depth_of([n]) <= layers}
    folder.mkdir()
    save_file(kept, folder / "adapter_model.safetensors", {"format": "pt"})
    rank, targets = int(config["r"]), sorted(config["target_modules"])
    short = {k: config[k] for k in _KEPT if k in config}
    short |= {"target_modules": targets, "base_model_name_or_path": "../base"}
    (folder / "adapter_config.json").write_text(json.dumps(short, indent=2) + "\n", encoding="utf-8")
    allow = next((r for r in RANKS if r >= rank), None)
    return {"rank": rank, "alpha": config["lora_alpha"], "targets": targets, "max_lora_rank": allow or rank}


def _check(bundle: Path, config: dict[str, Any], names: list[str]) -> None:
    """BundleError for what vLLM 0.32 (lora/peft_helper.py) or SGLang 0.5.23 (lora/lora_manager.py) refuse."""
    told = {
        "use_dora": "DoRA",
        "modules_to_save": "trained whole modules",
        "lora_bias": "LoRA biases",
        "rank_pattern": "a rank of its own for some modules",
        "alpha_pattern": "a scale of its own for some modules",
        "layer_replication": "replicated layers",
    }
    odd = [what for key, what in told.items() if config.get(key)]
    if config.get("peft_type") != "LORA":
        odd.append(f"peft_type {config.get('peft_type')!r}")
    if not isinstance(config.get("target_modules"), list):
        odd.append("target modules by pattern")
    if strange := [n for n in names if ".lora_A.weight" not in n and ".lora_B.weight" not in n]:
        odd.append(f"the tensor {strange[0]!r}")
    if odd:
        raise BundleError(
            f"{bundle}: expected plain LoRA on linear layers, which serving engines take, got {', '.join(odd)}; export "
            "merged weights (--merge, or --to hf)"
        )
