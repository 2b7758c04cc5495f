"""palate user-data: everything held of a person, as JSON for them.

The name says what comes out. `export` is kept for models (an adapter in another format), and `palate data` is about
data sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from palate.apps.people import Folder, Where, Who, count, look_up, strangers_note
from palate.errors import DataError

HELP = """Write everything that is held of a person as JSON: events, feedback and conversations of the store; with
--data also their rows of a data set folder.

Example: palate user-data --user 42 --data data/mine -o user-42.json
"""


def register(app: typer.Typer) -> None:
    app.command("user-data", help=HELP)(user_data)


def user_data(
    user: Who,
    store: Where = None,
    data: Folder = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; by default standard output.")] = None,
) -> None:
    person = look_up(user, store, data)
    if person.store is not None:
        person.store.close()
    if not (person.in_store or person.in_data or person.forgotten):
        raise DataError(f"nothing is held of a user {user!r}; {strangers_note(person)}")
    held = {
        "user": user,
        "store": person.from_store or None,
        "data": None if person.data is None else {"folder": str(person.data), **person.from_data},
    }
    text = json.dumps(held, ensure_ascii=False, indent=2, default=str)
    if out is None:
        typer.echo(text)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}; name another file with -o") from None
    looked = "no data set folder was looked at"
    if person.data is not None:
        looked = f"{count(sum(person.counts().values()), 'row')} of {person.data}"
    typer.echo(f"{out}: {person.in_words()}; {looked}")
