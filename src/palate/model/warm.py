"""A warm start: the weights of a trained adapter in a model that is about to be trained on."""

from __future__ import annotations

from pathlib import Path

from palate.errors import BundleError
from palate.model import bundle
from palate.model.load import quiet
from palate.model.model import Model

ALIKE = ("layers", "lora", "fusion", "soft_tokens", "hidden", "matching")
"""Settings of a model that decide which weights there are."""


def start_from(model: Model, folder: str | Path) -> list[str]:
    """Put an adapter's LoRA, projectors and matching head in the place of fresh ones; nothing else of it is taken.

    Vectors and their tables stay those of `model`: items and interactions that came later are in them. Returns the
    modalities whose encoders were others, or fitted on other interactions, when the adapter was trained; what was
    learned of those may have to be learned anew. Raises BundleError where base, shape or modalities differ.
    """
    folder = Path(folder)
    meta = bundle.read_meta(folder)
    bundle.check_base(folder, meta, model.config.base, model.base_digest)
    theirs, mine = meta["model"], model.config.model_dump(mode="json")
    for key in ALIKE:
        if theirs.get(key, mine[key]) != mine[key]:
            raise BundleError(
                f"{folder} was trained with model.{key} {theirs[key]}, expected {mine[key]} as in the config"
            )
    if model.soft is None:
        raise BundleError(f"{folder}: expected a model with soft tokens to put its projectors into, got none")
    fingerprints = meta["fingerprints"]
    if set(fingerprints) != set(model.soft.fingerprints):
        raise BundleError(
            f"{folder} was trained with the modalities {sorted(fingerprints)}, expected "
            f"{sorted(model.soft.fingerprints)} as in the config"
        )
    bundle.load_projectors(folder, model.soft)
    with quiet():
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        state = load_file(folder / "adapter_model.safetensors")
        done = set_peft_model_state_dict(model.lm, state, adapter_name=model.adapter)
    if odd := [*done.unexpected_keys, *(k for k in done.missing_keys if "lora_" in k)]:
        raise BundleError(f"{folder}: its LoRA weights do not fit this base, first {odd[0]!r}")
    return sorted(m for m, f in model.soft.fingerprints.items() if fingerprints[m] != f)
