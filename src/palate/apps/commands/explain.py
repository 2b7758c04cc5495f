"""palate explain: why an item fits a history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from palate.apps.shared import (
    Adapter,
    AsJson,
    Data,
    Device,
    History,
    Mode,
    Precision,
    Quantize,
    User,
    command_line,
    context,
    load,
    note_stranger,
    print_json,
    titles,
)  # fmt: skip
from palate.errors import ConfigError

HELP = """Show what speaks for an item: each history item, text field and modality (picture, sound, text vector,
behaviour) is left out in turn and the score compared.

-o FILE.html writes a page with pictures and bars, -o FILE.json the numbers.

Example: palate explain "Blade Runner" --history "Alien; Heat" -a adapters/ml-100k -o why.html
"""
ENDINGS = (".html", ".json")


def register(app: typer.Typer) -> None:
    app.command("explain", help=HELP)(explain)


def explain(
    item: Annotated[str, typer.Argument(help="Item, by title or id.")],
    adapter: Adapter,
    user: User = None,
    history: History = None,
    contexts: Annotated[list[str] | None, typer.Option("--context", help="NAME=VALUE, such as time=evening.")] = None,
    new_items: Annotated[
        Path | None, typer.Option("--new-items", help="Table of items added after training, as for score.")
    ] = None,
    data: Data = None,
    mode: Mode = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write it to FILE.html (a page) or FILE.json.")
    ] = None,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    _check(output)
    around = context(contexts)
    rec = load(adapter, data, quantization, device, dtype)
    if new_items is not None:
        from palate.apps.scoring import add_new_items

        add_new_items(rec, new_items)
    chosen = titles(history)
    note_stranger(rec, user, chosen)
    found = rec.explain(item, user, chosen, mode, around)
    if output is not None:
        from palate.evaluate.environment import bundle_fingerprints, manifest, write_beside

        prints = {"data": rec.dataset.fingerprint, "adapter": bundle_fingerprints(rec.meta) if rec.meta else {}}
        made = manifest(command_line(), None, prints)
        try:
            if output.suffix.lower() == ".html":
                output.write_text(found.to_html(), encoding="utf-8", errors="replace")
                write_beside(output, made)
            else:
                whole = json.dumps({**found.to_dict(), "manifest": made}, ensure_ascii=False, indent=2)
                output.write_text(whole + "\n", encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"--output: cannot write {output}: {error.strerror or error}") from None
    if as_json:
        print_json(found.to_dict())
        return
    from rich.console import Console

    Console().print(found)
    if output is not None:
        typer.echo(f"wrote {output}")


def _check(output: Path | None) -> None:
    """ConfigError, before anything is loaded, where a file cannot be written."""
    if output is None:
        return
    if output.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--output: expected a file that ends in .html or .json, got {str(output)!r}")
    if not output.parent.is_dir():
        raise ConfigError(f"--output: expected an existing folder, got {str(output.parent)!r}; make it first")
