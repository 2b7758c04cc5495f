"""palate forget: remove a person from the store and, where asked, from a data set folder."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from palate.apps.people import Folder, Person, Where, Who, cached_copy, count, look_up, strangers_note, trained_on
from palate.apps.shared import AsJson, print_json
from palate.errors import ConfigError, DataError

HELP = """Remove a person: their events, feedback and conversations from the store; with --data also their rows from
a data set folder.

What remains in the store is a salted hash of the id, by which a running server ignores what its data set still
holds of the person. Adapters that were trained on their rows are told: only training again removes what was learned.

Example: palate forget --user 42 --data data/mine
"""


def register(app: typer.Typer) -> None:
    app.command("forget", help=HELP)(forget)


def forget(
    user: Who,
    store: Where = None,
    data: Folder = None,
    adapters: Annotated[
        list[Path] | None,
        typer.Option("-a", "--adapter", help="Adapters to check besides those under adapters/; repeat for more."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    person = look_up(user, store, data)
    if not (person.in_store or person.in_data) and (person.store is None or data is not None) and not person.forgotten:
        raise DataError(f"nothing is held of a user {user!r}; {strangers_note(person)}")
    learned = trained_on(person.data, adapters or ()) if person.data else {}
    if not as_json:
        for line in _found(person):
            typer.echo(line)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise ConfigError("forget removes for good and cannot ask here; add --yes to go ahead")
        typer.confirm("Remove all of this for good?", abort=True)
    gone = _remove(person)
    copy = cached_copy(person.data, user) if person.data else None
    if as_json:
        told = {"trained_on_data_that_held_them": learned if person.in_data else {}}
        print_json({"user": user, **gone, **told, "copy_that_holds_them": str(copy) if copy else None})
        return
    typer.echo(f"Forgotten: {user}.")
    if copy is not None:
        typer.echo(f"The cache has another copy with rows of theirs: palate forget --user {user} --data {copy}")
    for line in _learned(person, learned):
        typer.echo(line)


def _found(person: Person) -> list[str]:
    """What is going to be removed, and where nobody looked."""
    if person.store is None:
        lines = ["store: none here; name one with --store"]
    else:
        lines = [f"store {person.store.where}: {person.in_words()}"]
        if person.forgotten:
            lines[0] += " (forgotten before)"
    if person.data is None:
        return [*lines, "data set folders: not looked at; name one with --data"]
    rows = person.counts()
    held = f"{count(rows['interactions'], 'interaction')}, {count(rows['users'], 'user row')}"
    return [*lines, f"data set {person.data}: {held}, {count(rows['rejects'], 'rejected row')}"]


def _remove(person: Person) -> dict[str, Any]:
    """The store first: from then on a running server ignores what the data set holds."""
    from palate.data.forget import forget as forget_rows

    gone: dict[str, Any] = {"store": None, "data": None}
    if person.store is not None:
        with person.store as store:
            gone["store"] = asdict(store.forget(person.user))
    if person.data is not None:
        gone["data"] = asdict(forget_rows(person.data, person.user))
    return gone


def _learned(person: Person, learned: dict[str, str]) -> list[str]:
    """Which adapters have seen the person's rows."""
    if person.data is None:
        return ["Adapters: not checked; with --data those trained on that data set are told."]
    if not person.in_data:
        return []
    lines = []
    for name, which in learned.items():
        when = (
            "on rows of theirs"
            if which == "this"
            else "on an earlier state of this data set, maybe with rows of theirs"
        )
        lines.append(f"{name} was trained {when}: train it again if what it learned should go too.")
    return lines or ["No adapter under adapters/ (or named with -a) was trained on this data set."]
