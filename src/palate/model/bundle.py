"""The adapter bundle `adapters/NAME/`: standard PEFT files, projectors, the item vectors, and what they belong to.

adapter_config.json, adapter_model.safetensors   LoRA, loads in plain `peft`
projectors.safetensors                           projectors and matching head, bfloat16
features.safetensors                             the item vectors it was trained with, float16
palate.json                                      base and its hash, encoders, templates, data, config, metrics
README.md                                        the card
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palate.config import ModelConfig
from palate.errors import BundleError, PalateWarning
from palate.model.card import card
from palate.model.depth import depth_of
from palate.model.hardware import inference_dtype, pick_device
from palate.model.load import load_base, quiet
from palate.model.merge import Merge, merge_lora, wants_merge
from palate.model.model import Model, make_soft
from palate.model.quantize import TORCHAO, quantize
from palate.model.soft import SoftTokens
from palate.schema import Dtype, Features, Quantization

FORMAT = 1
FILES = ("adapter_config.json", "adapter_model.safetensors", "projectors.safetensors", "palate.json")


@dataclass(frozen=True)
class Bundle:
    """A loaded adapter: the model and what `palate.json` says of it."""

    model: Model
    meta: dict[str, Any]
    folder: Path


def save(folder: str | Path, model: Model, meta: Mapping[str, Any]) -> Path:
    """Write a bundle, atomically: the old one stays until the new one is whole.

    meta: JSON-able, what the caller knows: `templates` (name -> hash), `encoders`, `data`, `training`,
    `metrics`. It goes into `palate.json` and onto the card.
    """
    from safetensors.torch import save_file

    if model.merged:
        raise BundleError(f"cannot save {folder}: this model's LoRA is merged into its base; load it with merge=False")
    if model.soft is None or not hasattr(model.lm, "peft_config"):
        raise BundleError("only a model with LoRA and projectors can be saved as a bundle; this is an untuned base")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _save_lora(new, model)
        soft = {n: t.to("cpu", _compact(n, t)).contiguous() for n, t in model.soft.state_dict().items()}
        save_file(soft, new / "projectors.safetensors")
        _save_features(new / "features.safetensors", model.soft.tables())
        whole = {
            "format": FORMAT,
            "base": model.config.base,
            "base_sha256": model.base_digest,
            "model": model.config.model_dump(mode="json"),
            "fingerprints": dict(model.soft.fingerprints),
            **meta,
        }
        _write_meta(new, folder.name, whole)
        new.chmod(0o755)
        for file in new.iterdir():  # temporary folders and safetensors make private files
            file.chmod(0o644)
        _swap(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def record(folder: str | Path, rows: Sequence[Mapping[str, Any]], decision: Mapping[str, Any] | None = None) -> None:
    """Put measured numbers into `palate.json` and onto the card.

    rows: system, protocol, metric, value, low, high, n, seed; a row replaces an older one of the same system,
    protocol, metric and seed. decision: learned weights for mode `fused`, in the place of older ones.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    key = ("system", "protocol", "metric", "seed")
    kept = {tuple(r[k] for k in key): dict(r) for r in [*meta.get("metrics", []), *rows]}
    learned = {} if decision is None else {"decision": dict(decision)}
    _write_meta(folder, folder.name, {**meta, **learned, "metrics": list(kept.values())})


def _write_meta(folder: Path, name: str, meta: Mapping[str, Any]) -> None:
    texts = {"palate.json": json.dumps(meta, indent=2, sort_keys=True) + "\n", "README.md": card(name, meta)}
    for file, text in texts.items():
        fresh = folder / f".{file}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(folder / file)


def _compact(name: str, tensor: torch.Tensor) -> torch.dtype:
    """Weights go to bfloat16; statistics and scalars keep their precision."""
    return torch.bfloat16 if tensor.ndim == 2 and ".scales." not in f".{name}" else tensor.dtype


def _save_lora(folder: Path, model: Model) -> None:
    from peft import get_peft_model_state_dict

    state = {
        n: t.to("cpu", torch.bfloat16)
        for n, t in get_peft_model_state_dict(model.lm, adapter_name=model.adapter, save_embedding_layers=False).items()
    }
    config = model.lm.peft_config[model.adapter]
    kept = config.base_model_name_or_path
    # the source's name, never a path of the machine that trained it
    config.base_model_name_or_path = model.config.base
    try:
        from safetensors.torch import save_file

        save_file({n: t.contiguous() for n, t in state.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
        was = config.inference_mode
        config.inference_mode = True
        config.save_pretrained(str(folder))
        config.inference_mode = was
    finally:
        config.base_model_name_or_path = kept


def _save_features(path: Path, tables: Mapping[str, Features]) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    item_ids: tuple[str, ...] = ()
    for m, t in tables.items():
        arrays[f"{m}.vectors"] = t.vectors.astype(np.float16)
        arrays[f"{m}.present"] = t.present
        item_ids = t.item_ids
    tokens = {m: t.tokens for m, t in tables.items()}
    save_file(arrays, path, {"item_ids": json.dumps(item_ids), "tokens": json.dumps(tokens)})


def tables(folder: str | Path) -> dict[str, Features]:
    """The item vectors an adapter was trained with: modality -> Features, float32 from half precision."""
    folder = Path(folder)
    return _load_features(folder / "features.safetensors", read_meta(folder)["fingerprints"])


def _load_features(path: Path, fingerprints: Mapping[str, str]) -> dict[str, Features]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        facts = file.metadata() or {}
        told = json.loads(facts.get("item_ids", "[]"))
        item_ids = tuple(told) if isinstance(told, list) and all(isinstance(i, str) for i in told) else None
        tokens = json.loads(facts.get("tokens", "{}"))  # bundles of the first version have none: one token a row
        tables = {}
        for m, fingerprint in fingerprints.items():
            vectors = file.get_tensor(f"{m}.vectors").astype(np.float32)
            present = file.get_tensor(f"{m}.present")
            if not np.isfinite(vectors).all():
                raise BundleError(f"{path}: the {m} vectors hold NaN or infinity")
            if item_ids is None or not len(set(item_ids)) == len(item_ids) == len(vectors) == len(present):
                raise BundleError(
                    f"{path}: expected a row for each of its item ids (unlike texts), got {len(vectors):,} {m} vectors "
                    f"for item_ids {str(told)[:80]}; restore the file or train again"
                )
            tables[m] = Features(m, item_ids, vectors, present, fingerprint, tokens.get(m, 1))
    return tables


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; a reader sees the old bundle or the new one."""
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(folder)


def read_meta(folder: str | Path) -> dict[str, Any]:
    """`palate.json` of a bundle. Raises BundleError where the folder is no bundle of a format known here."""
    folder = Path(folder)
    missing = [f for f in FILES if not (folder / f).is_file()]
    if missing:
        raise BundleError(f"{folder}: expected an adapter bundle, found no {', '.join(missing)}")
    try:
        meta = json.loads((folder / "palate.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder}/palate.json is not valid JSON: {error}") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        came = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise BundleError(f"{folder}/palate.json: expected format {FORMAT}, got {came!r}; use a matching Palate")
    for key, kind in (("base", str), ("base_sha256", str), ("model", dict), ("fingerprints", dict)):
        if not isinstance(meta.get(key), kind):
            raise BundleError(
                f"{folder}/palate.json: expected {key!r} as a {kind.__name__}, got {type(meta.get(key)).__name__}; "
                "the bundle is damaged, get it anew"
            )
    return meta


def load(
    folder: str | Path,
    *,
    items: Sequence[str] | None = None,
    quantization: Quantization | None = None,
    dtype: Dtype | None = None,
    device: str = "auto",
    base: str | None = None,
    layers: int | None = None,
    merge: Merge = "auto",
) -> Bundle:
    """Load an adapter onto its base, for inference.

    items: the catalogue's item ids; the feature tables are reordered to them, items the adapter has not seen
    start without media. quantization: None keeps the one it was trained with. dtype: what to compute in; None is
    as trained where the device multiplies that natively, else float32; "auto" is the device's own best. base:
    another place to find the same base; its hash must match. layers: only the first this many; LoRA weights of
    later ones are left out with a warning. merge: add LoRA into the weights, in float32; "auto" does so but for
    int8 and nf4. Merged and quantized, the sum is quantized: the unquantized base must fit first.

    Raises BundleError where anything does not fit, saying what differs, and ConfigError for options that cannot work.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    config = ModelConfig.parse(meta["model"], f"{folder}/palate.json: model")
    trained = config.layers
    changes = {"base": base, "quantization": quantization, "layers": layers}
    config = config.model_copy(update={k: v for k, v in changes.items() if v is not None})
    merged = wants_merge(merge, config.quantization)
    late = merged or config.quantization in TORCHAO
    computed = inference_dtype(dtype, config.dtype, pick_device(device))
    lm, tokenizer, digest = load_base(config, device, dtype=computed, late=late)
    check_base(folder, meta, config.base, digest)
    soft, lm = put_on(lm, folder, meta, config, (trained, layers))
    lm = merge_lora(lm) if merged else lm
    if late:
        quantize(lm, config.quantization)
    model = Model(lm, tokenizer, soft, config, digest)
    model.merged = merged
    if items is not None:
        soft.align(items)
    model.eval()
    return Bundle(model, meta, folder)


def check_base(folder: Path, meta: Mapping[str, Any], base: str, digest: str) -> None:
    """BundleError where the base called `base` is not the one the bundle was trained on."""
    if digest != meta["base_sha256"]:
        raise BundleError(
            f"{folder} was trained on base {meta['base']!r} with sha256 {meta['base_sha256'][:12]}, but "
            f"{base!r} has {digest[:12]}; load it on its own base or train a new adapter"
        )


def put_on(
    lm: Any,
    folder: Path,
    meta: Mapping[str, Any],
    config: ModelConfig,
    depth: tuple[int | None, int | None],
    name: str = "default",
) -> tuple[SoftTokens, Any]:
    """A bundle's projectors with their tables, and `lm` with its LoRA under `name`.

    depth: layers the adapter was trained on and layers asked for. Raises BundleError where a file is damaged or does
    not fit.
    """
    try:
        _check_depth(folder, *depth)
        tables = _load_features(folder / "features.safetensors", meta["fingerprints"])
        soft = make_soft(config, tables, lm, seed=0)
        load_projectors(folder, soft)
        return soft, _load_lora(folder, lm, name)
    except (BundleError, PalateWarning):
        raise
    except Exception as error:
        raise BundleError(f"{folder}: its files are damaged or belong to another base: {error}") from error


def load_projectors(folder: Path, soft: torch.nn.Module) -> None:
    """Put a bundle's projectors and matching head into `soft`, with the statistics they were trained with."""
    from safetensors.torch import load_file

    state = load_file(folder / "projectors.safetensors")
    bad = [n for n, t in state.items() if not torch.isfinite(t).all()]
    if bad:
        raise BundleError(f"{folder}/projectors.safetensors: {bad[0]} holds NaN or infinity")
    soft.load_state_dict({n: t.float() for n, t in state.items()})


def _check_depth(folder: Path, trained: int | None, asked: int | None) -> None:
    """LoRA weights past the last layer that is kept: a warning where fewer layers were asked for, else an error."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
        reach = depth_of(file.keys())
    if asked is not None and asked > (trained or asked):
        raise BundleError(f"layers: {folder} was trained on the first {trained} layers, got {asked}; expected no more")
    kept = asked or trained
    if kept is None or reach <= kept:
        return
    if asked is None:
        raise BundleError(
            f"{folder} says its base has {kept} layers, but holds LoRA weights of {reach}; "
            f"load it with layers={kept} to leave the others out"
        )
    warnings.warn(
        f"{folder}: LoRA weights of layers {kept} to {reach - 1} are left out, because layers={kept} was asked for",
        PalateWarning,
        stacklevel=4,
    )


def _load_lora(folder: Path, lm: Any, name: str) -> Any:
    with quiet(), warnings.catch_warnings():
        from peft import PeftModel

        warnings.filterwarnings("error", "Found missing adapter keys")  # peft would leave such layers without LoRA
        if hasattr(lm, "peft_config"):
            lm.load_adapter(str(folder), name, is_trainable=False)
        else:
            lm = PeftModel.from_pretrained(lm, str(folder), name, is_trainable=False)
    if odd := next(filter(None, (_kind(m, name) for m in lm.modules())), ""):
        raise BundleError(
            f"{folder}/adapter_config.json: expected plain LoRA, got {odd} of peft's; restore the file or train a new "
            "adapter"
        )
    mine = ((n, p) for n, p in lm.named_parameters() if "lora_" in n and f".{name}." in n)
    bad = [n for n, p in mine if not torch.isfinite(p).all()]
    if bad:
        raise BundleError(f"{folder}/adapter_model.safetensors: {bad[0]} holds NaN or infinity")
    return lm


def _kind(module: torch.nn.Module, name: str) -> str:
    """What LoRA of a layer is beyond plain LoRA (DoRA, aLoRA, a bias ...): peft cannot merge all of it. Else empty."""
    if name in getattr(module, "lora_variant", ()):
        return type(module.lora_variant[name]).__name__.removesuffix("LinearVariant")  # type: ignore[index]
    return "lora_bias" if getattr(module, "lora_bias", {}).get(name) else ""


def check_templates(meta: Mapping[str, Any], templates: Mapping[str, str]) -> None:
    """Compare template hashes (name -> sha256) with the adapter's own; BundleError names the first that differs."""
    trained: Mapping[str, str] = meta.get("templates", {})
    odd = sorted(n for n, h in templates.items() if n in trained and trained[n] != h)
    if odd:
        raise BundleError(
            f"prompt template {odd[0]!r} has changed since the adapter was trained "
            f"(sha256 {trained[odd[0]][:12]}, now {templates[odd[0]][:12]}); restore it or train again"
        )


def check_encoders(meta: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Compare encoder fingerprints with those of the adapter's item vectors; BundleError names the odd one."""
    for modality, trained in meta["fingerprints"].items():
        now = fingerprints.get(modality, trained)
        if now != trained:
            raise BundleError(
                f"the {modality} encoder differs from the one this adapter was trained with "
                f"(fingerprint {now[:24]}, trained with {trained[:24]}); use that encoder or train again"
            )
