"""What `palate forget` and `palate user-data` have in common: where a person may be held, looked up in one go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from palate.store import Store

Who = Annotated[str, typer.Option("--user", "-u", help="The person's id.")]
Where = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store of palate serve: a file, or a URL such as postgresql://user@host/name; by default "
        "$PALATE_STORE, else palate.db in your data folder.",
    ),
]
Folder = Annotated[Path | None, typer.Option("--data", help="Also this data set folder.")]


@dataclass
class Person:
    """What is held of one person. store: None where none was named and the default one is not there."""

    user: str
    store: Store | None
    data: Path | None
    from_store: dict[str, Any] = field(default_factory=dict)
    from_data: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def events(self) -> int:
        return len(self.from_store.get("events", ()))

    @property
    def sessions(self) -> int:
        return len(self.from_store.get("sessions", ()))

    @property
    def turns(self) -> int:
        return sum(len(s["turns"]) for s in self.from_store.get("sessions", ()))

    def in_words(self) -> str:
        """What the store holds."""
        return f"{count(self.events, 'event')}, {count(self.sessions, 'conversation')}, {count(self.turns, 'message')}"

    @property
    def forgotten(self) -> bool:
        return bool(self.from_store.get("forgotten"))

    @property
    def in_store(self) -> bool:
        return bool(self.events or self.sessions)

    @property
    def in_data(self) -> bool:
        return any(self.from_data.values())

    def counts(self) -> dict[str, int]:
        """Rows of the data set folder: table -> how many."""
        return {name: len(rows) for name, rows in self.from_data.items()}


def count(n: int, one: str) -> str:
    """How many of something: 1 event, 2 events."""
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


def look_up(user: str, where: str | None, data: Path | None) -> Person:
    """Find a person. DataError where a store or folder that was named is missing, or there is none at all."""
    from palate.data.forget import held
    from palate.store import Store
    from palate.store.connect import default_path

    if data is not None:
        data = data.expanduser()
    rows = {} if data is None else held(data, user)
    store: Store | None
    try:
        store = Store.open(where, create=False)
    except DataError:
        if where is not None or data is None or default_path().exists():
            raise
        store = None
    person = Person(user, store, data, from_data=rows)
    if store is not None:
        person.from_store = store.export(user)
    return person


def strangers_note(person: Person) -> str:
    """The end of an error text: whom the data set knows under a like name."""
    if person.data is None:
        return "check the id, or name a data set folder with --data"
    from palate.data import Dataset

    known = Dataset.open(person.data, strict=False).histories.interactions.user_ids
    return f"check the id; {did_you_mean(person.user, known, 3)}"


def cached_copy(data: Path, user: str) -> Path | None:
    """The copy of a data set that Palate keeps in its cache, where it is another folder and holds the person."""
    from palate.data.forget import held
    from palate.data.spec import DatasetSpec
    from palate.sources import cache_dir

    copy = cache_dir() / "data" / DatasetSpec.of(data).name
    if not (copy / "dataset.yaml").is_file() or copy.resolve() == data.resolve():
        return None
    return copy if any(held(copy, user).values()) else None


def trained_on(data: Path, named: Sequence[Path] = ()) -> dict[str, str]:
    """Adapters that were trained on a data set folder -> "this" (as it is now) or "earlier" (as it once was).

    Looked at are those under adapters/ and those `named`; adapters of other data sets are left out. DataError where a
    named folder is no adapter.
    """
    from palate.data import Dataset

    dataset = Dataset.open(data, strict=False)
    found = {}
    near = [p.parent for p in sorted(Path("adapters").glob("*/palate.json"))]
    for folder in dict.fromkeys([*named, *near]):
        try:
            told = json.loads((folder / "palate.json").read_text(encoding="utf-8"))["data"]
            fingerprint, name = told["fingerprint"], told["name"]
        except (OSError, ValueError, KeyError, TypeError):
            if folder in named:
                raise DataError(f"expected an adapter's folder with a palate.json, got {folder}") from None
            continue
        if fingerprint == dataset.fingerprint:
            found[str(folder)] = "this"
        elif name == dataset.name:
            found[str(folder)] = "earlier"
    return found
