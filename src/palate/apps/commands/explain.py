"""palate explain: why an item fits a history."""

from __future__ import annotations

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
    load,
    note_stranger,
    print_json,
    titles,
)  # fmt: skip

HELP = """Show what in a history speaks for an item: each history item is left out in turn and the score
compared.

Example: palate explain "Blade Runner" --history "Alien; Heat" -a adapters/ml-100k
"""


def register(app: typer.Typer) -> None:
    app.command("explain", help=HELP)(explain)


def explain(
    item: Annotated[str, typer.Argument(help="Item, by title or id.")],
    adapter: Adapter,
    user: User = None,
    history: History = None,
    data: Data = None,
    mode: Mode = None,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    rec = load(adapter, data, quantization, device, dtype)
    chosen = titles(history)
    note_stranger(rec, user, chosen)
    found = rec.explain(item, user, chosen, mode)
    if as_json:
        print_json(found.to_dict())
        return
    from rich.console import Console

    Console().print(found)
