"""`dataset.yaml`: which files a data set folder has, and what their columns mean."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, model_validator

from palate.config import Config
from palate.errors import DataError
from palate.schema import Wording

SPEC_FILE = "dataset.yaml"


class TableSpec(Config):
    """What every table has: a path inside the folder and, for text tables, how it is written."""

    path: str
    encoding: str = "utf-8"
    separator: str | None = None
    """Between columns of a text table; None takes the comma (.csv) or the tab (.tsv). May be longer, as
    `::`."""
    quote: bool = True
    """Whether `"` encloses values of a text table."""


class ItemsSpec(TableSpec):
    """The item table: one row an item."""

    id: str = "item_id"
    title: str = "title"
    text: tuple[str, ...] | None = None
    """Text fields beside the title; None takes every column that is not the id, the title or media."""
    media: dict[str, str] = Field(default_factory=dict)
    """Modality -> column that holds a file path relative to the folder."""


class InteractionsSpec(TableSpec):
    """The interaction table: one row an event. The order of rows breaks ties in time."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    timestamp: str | None = None
    """Seconds or milliseconds since 1970, or ISO 8601 (UTC where no zone is given)."""
    context: tuple[str, ...] = ()
    """Further columns kept as text with each event: time of day, place, device, ..."""
    review: str | None = None
    """What the user wrote about the item: a further column, or one of `context`."""
    rating_range: tuple[float, float] | None = None
    """Lowest and highest legal rating; a rating outside is rejected."""

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns kept as text with each event: context and review."""
        return tuple(dict.fromkeys([*self.context, *([self.review] if self.review else [])]))


class LinkSpec(TableSpec):
    """Which entity of the knowledge table an item is: one row an item."""

    item: str = "item_id"
    entity: str = "entity_id"


class NamesSpec(TableSpec):
    """What the entities of the knowledge table are called: one row an entity."""

    entity: str = "entity_id"
    name: str = "name"


class KnowledgeSpec(TableSpec):
    """A knowledge table, one fact a row: (subject, relation, object). What it says of items become text fields."""

    subject: str = "subject"
    relation: str = "relation"
    object: str = "object"
    link: LinkSpec | None = None
    """None where subjects are item ids."""
    names: NamesSpec | None = None
    relations: dict[str, str] | None = None
    """Relation -> the field it fills; others are left out. None takes every relation, under its last part:
    film.film.directed_by fills directed_by."""
    literal: tuple[str, ...] = ()
    """Relations whose objects are values, never entities: a year is not the item of that id."""
    most: int = Field(5, ge=1)
    """Objects one field of one item takes, the first in file order."""


class UsersSpec(TableSpec):
    """The user table: one row a user."""

    id: str = "user_id"
    profile: tuple[str, ...] | None = None
    """Profile fields; None takes every column but the id."""


class WordingSpec(Config):
    """The nouns and verbs of the domain (see `schema.Wording`)."""

    item: str = "item"
    items: str = "items"
    verb: str = "chose"
    person: str = "user"

    def wording(self) -> Wording:
        return Wording(self.item, self.items, self.verb, self.person)


class Show(Config):
    """Fields a prompt writes beside the title: of history items and of candidates."""

    history: tuple[str, ...] = ()
    candidate: tuple[str, ...] = ()


class DatasetSpec(Config):
    """The whole of `dataset.yaml`."""

    name: str = Field(min_length=1)
    language: str = "en"
    source: str = ""
    """Where the data came from and under which licence, for people to read."""
    wording: WordingSpec = WordingSpec()
    items: ItemsSpec
    interactions: InteractionsSpec
    users: UsersSpec | None = None
    knowledge: KnowledgeSpec | None = None
    show: Show = Show()

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> Self:
        items, events = self.items, self.interactions
        told = self.knowledge
        for table, names in (
            ("items", [items.id, items.title, *(items.text or ()), *items.media.values()]),
            ("interactions", [events.user, events.item, events.rating, events.timestamp, *events.kept]),
            ("interactions", list(events.context)),
            ("users", [self.users.id, *(self.users.profile or ())] if self.users else []),
            ("knowledge", [told.subject, told.relation, told.object] if told else []),
        ):
            named = [n for n in names if n is not None]
            twice = sorted({n for n in named if named.count(n) > 1})
            if twice:
                raise ValueError(f"{table}: column {twice[0]!r} is named twice; give each column one role")
        return self

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read the spec of a data set folder.

        Raises DataError where the folder has no dataset.yaml, ConfigError where a key is wrong.
        """
        path = folder / SPEC_FILE
        if not path.is_file():
            raise DataError(
                f"expected a data set folder with a {SPEC_FILE} at {folder}, found "
                f"{'none in that folder' if folder.is_dir() else 'no such folder'}; "
                "make one with: palate data import NAME_OR_PATH --out DIR"
            )
        return cls.load(path)

    def write(self, folder: Path) -> None:
        """Write dataset.yaml; what equals its default is left out."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        (folder / SPEC_FILE).write_text(text, encoding="utf-8")
