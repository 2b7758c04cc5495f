"""`palate export`: a bundle as files that other engines serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from palate.apps import shared
from palate.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from palate.schema import Dtype


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export")(export)


def export(
    bundle: Annotated[str, typer.Argument(help="Adapter bundle: a folder, or hub:ORG/NAME.", metavar="BUNDLE")],
    to: Annotated[str, typer.Option("--to", help="hf (merged transformers folder), vllm, sglang or gguf.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write; new, empty or an earlier export.")],
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="bfloat16, float16 or float32; by default as the base's files.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="vllm, sglang: one merged model in place of base and adapter.")
    ] = False,
    base: Annotated[str | None, typer.Option("--base", help="Another place of the same base.")] = None,
    layers: Annotated[int | None, typer.Option("--layers", help="Only the first this many layers.", min=1)] = None,
    converter: Annotated[
        Path | None,
        typer.Option(
            "--converter", help="gguf: llama.cpp's convert_hf_to_gguf.py; by default a pinned one is fetched."
        ),
    ] = None,
    outtype: Annotated[
        str, typer.Option("--outtype", help="gguf: auto (as --dtype), f32, f16, bf16 or q8_0.")
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Write a bundle for another engine: merged weights, LoRA beside its base, or GGUF; see docs/exporting.md.

    Example: palate export adapters/ml-100k --to vllm --merge -o exports/ml-100k
    """
    known = [d for d in shared.DTYPES if d != "auto"]
    if dtype is not None and dtype not in known:
        raise ConfigError(f"--dtype: expected {', '.join(known)}, got {dtype!r}; {did_you_mean(dtype, known)}")
    with shared.spinner(f"exporting {bundle}"):
        from palate.apps.export.run import export as run
        from palate.apps.export.targets import Options

        options = Options(cast("Dtype | None", dtype), base, layers, merge, converter, outtype)
        note = run(bundle, to, out, options, force)
    if as_json:
        shared.print_json(note)
        return
    _print(note, out)


def _print(note: dict[str, Any], out: Path) -> None:
    model = note["model"]
    held = "LoRA merged" if model["lora"] == "merged" else "LoRA beside it"
    typer.echo(f"{out}: {model['architecture']}, {model['layers']} layers, {model['dtype']}, {held}")
    for line in note["lost"]:
        typer.echo(f"lost: {line}")
    typer.echo(f"{out / 'README.md'} says how to serve it")
