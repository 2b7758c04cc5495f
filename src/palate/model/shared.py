"""Several adapters on one base: its weights are in memory once, and each adapter's LoRA stays apart from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palate.config import ModelConfig
from palate.errors import BundleError
from palate.model.bundle import Bundle, check_base, put_on, read_meta
from palate.model.hardware import inference_dtype
from palate.model.model import Model
from palate.schema import Dtype, Quantization


def attach(
    model: Model,
    folder: str | Path,
    *,
    items: Sequence[str] | None = None,
    quantization: Quantization | None = None,
    dtype: Dtype | None = None,
    layers: int | None = None,
) -> Bundle:
    """Load a further adapter onto the base of a loaded one, which goes on working as before.

    items: as for `bundle.load`. quantization, dtype, layers: what the base was loaded with; None: as this adapter
    was trained, which must be how the base was loaded then. The new model shares `lm` and tokenizer with the old
    one; projectors, matching head and item vectors are its own. Raises BundleError where anything does not fit, and
    the base is left as it was.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    if model.merged:
        raise BundleError(
            f"cannot add {folder}: the first adapter's LoRA is merged into the base; load it with merge=False"
        )
    if not hasattr(model.lm, "peft_config"):
        raise BundleError(f"cannot add {folder} to an untuned base; load an adapter first, with merge=False")
    config = ModelConfig.parse(meta["model"], f"{folder}/palate.json: model")
    trained = config.layers
    changes = {"base": model.config.base, "quantization": quantization, "layers": layers}
    config = config.model_copy(update={k: v for k, v in changes.items() if v is not None})
    check_base(folder, meta, config.base, model.base_digest)
    _check_alike(model, folder, config, dtype)
    name = f"adapter-{len(model.lm.peft_config)}"
    try:
        soft, lm = put_on(model.lm, folder, meta, config, (trained, layers), name)
    except BaseException:
        if name in model.lm.peft_config:
            model.lm.delete_adapter(name)
        raise
    added = Model(lm, model.tokenizer, soft, config, model.base_digest, name)
    if items is not None:
        soft.align(items)
    added.eval()
    return Bundle(added, meta, folder)


def detach(model: Model) -> None:
    """Take the LoRA of an attached model off the base again; the model is of no use afterwards."""
    model.lm.delete_adapter(model.adapter)


def _check_alike(model: Model, folder: Path, config: ModelConfig, dtype: Dtype | None) -> None:
    """BundleError where the adapter, loaded alone, would have its base held in another way."""
    computed = inference_dtype(dtype, config.dtype, model.device)
    for option, wanted, got in (
        ("quantization", config.quantization, model.config.quantization),
        ("layers", config.layers, model.config.layers),
        ("dtype", str(computed).removeprefix("torch."), str(model.dtype).removeprefix("torch.")),
    ):
        if wanted != got:
            raise BundleError(
                f"{folder}: expected a base with {option}={wanted!r}, as it was trained, but the one loaded has "
                f"{got!r}; load all adapters with one {option}="
            )
