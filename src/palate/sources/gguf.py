"""GGUF to a plain folder: dequantized once to bf16 safetensors, with the tokenizer and its chat template."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from palate.errors import SourceError
from palate.sources.cache import Manifest, record_payload
from palate.sources.progress import progress_bar

CONVERSION = 1
"""Raise it when the converted files change: old conversions are then made anew."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No log lines and no progress bars of transformers inside; both are restored after."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    shown = getattr(reader, "tqdm", None)  # the GGUF reader draws a bar of its own, past the switch above
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if shown is not None:
        reader.tqdm = partial(shown, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if shown is not None:
            reader.tqdm = shown


def fill(folder: Path, file: Path, source: str, origin: str, progress: bool = True) -> Manifest:
    """Convert the GGUF at `file` into `folder`; the manifest's `origin` is the digest of the file."""
    out = folder / file.stem
    with progress_bar(f"converting {file.name} to bf16", None, progress):
        try:
            convert(file, out)
        except Exception as error:
            # a reader of a stranger's bytes fails in any way there is: struct, index, value, key errors
            raise SourceError(
                f"{file.name}: transformers cannot read this GGUF file "
                f"({type(error).__name__}: {error}); "
                "use a safetensors folder of the same model (hub: or path:) or another quantization"
            ) from error
    return Manifest(source=source, payload=out.name, files=record_payload(out), origin=origin)


def convert(file: Path, out: Path) -> None:
    """Write config, weights (bf16) and tokenizer of the GGUF at `file` to the folder `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        _mend_tokenizer(tokenizer, file, model.config)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    _clean_config(out / "config.json")
    _clean_tokenizer_config(out / "tokenizer_config.json")
    for file in out.iterdir():  # safetensors writes for the owner alone; a shared cache follows the umask
        file.chmod((out / "config.json").stat().st_mode)


def _mend_tokenizer(tokenizer: Any, file: Path, config: Any) -> None:
    """Put back what GGUF holds only as a name: SmolLM splits every digit, and its context length."""
    from tokenizers import pre_tokenizers

    if _pre_tokenizer_name(file) == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest:
        tokenizer.model_max_length = longest


def _pre_tokenizer_name(file: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field is not None else ""


def _clean_config(path: Path) -> None:
    """A plain dense model: no trace of quantization, float32 noise of GGUF (9.9999997e-06) rounded."""
    import numpy as np

    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    for key, value in config.items():
        if isinstance(value, float):
            config[key] = float(str(np.float32(value)))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _clean_tokenizer_config(path: Path) -> None:
    """No machine path and no loading option of this one run in the saved tokenizer."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "gguf_file", "is_local", "local_files_only"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
