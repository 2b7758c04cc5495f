"""RecBole atomic files: NAME.inter, NAME.item and NAME.user with typed headers such as `user_id:token`.

NAME.kg holds facts (head, relation, tail) and NAME.link says which entity an item is: together they become text
fields of the items (see `palate.data.knowledge`). The tails of RecBole's own tables are Freebase ids without names.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pyarrow as pa

from palate.data import columns as col
from palate.data import tables
from palate.data.knowledge import KnowledgeSources
from palate.data.readers import Layout, Reader
from palate.data.rejects import Reject
from palate.data.spec import (
    DatasetSpec,
    InteractionsSpec,
    ItemsSpec,
    KnowledgeSpec,
    LinkSpec,
    Show,
    UsersSpec,
    WordingSpec,
)
from palate.errors import DataError

TYPES = ("token", "float", "token_seq", "float_seq")
TITLES = ("title", "movie_title", "name", "item_name", "product_name", "artist_name", "game_name")
NEW_NAMES = {"movie_title": "title", "release_year": "year", "class": "genres", "genre": "genres"}
KNOWLEDGE = KnowledgeSpec(
    path="NAME.kg", subject="head_id", relation="relation_id", object="tail_id", link=LinkSpec(path="NAME.link")
)
WRONG_LINKS = {
    "524dca2c3d62619688ab99b3ec53ea2acb9b64d38eafec3e02bdd0dc6bb7d948": (
        "not joined: the item ids are those of a later MovieLens (260 is Star Wars there, 50 here), so the facts would "
        "be told of other films"
    ),
}
"""sha256 of a .link file -> why it must not be used. The one of RecBole's ml-100k:
https://github.com/RUCAIBox/RecSysDatasets/issues/130"""
MOVIES = WordingSpec(item="movie", items="movies", verb="watched", person="viewer")


def untyped(table: pa.Table) -> pa.Table:
    """Column names without their `:type`."""
    return table.rename_columns([n.rpartition(":")[0] if n.endswith(TYPES) else n for n in table.column_names])


def _items(table: pa.Table) -> pa.Table:
    """Untyped item columns under common names; film titles get their article back in front."""
    table = untyped(table)
    names = table.column_names
    if "movie_title" in names:
        at = names.index("movie_title")
        table = table.set_column(at, "movie_title", col.move_article(table["movie_title"]))
    free = {new for new in NEW_NAMES.values() if new not in names}
    return table.rename_columns([NEW_NAMES[n] if NEW_NAMES.get(n) in free else n for n in names])


class RecBole(Reader):
    """Tab-separated, unquoted tables whose header names types."""

    name = "recbole"
    about = "NAME.inter, NAME.item and, where there are ones, NAME.user, NAME.kg with NAME.link"

    def sniff(self, path: Path) -> bool:
        return len(list(path.glob("*.inter"))) == 1

    def read(self, path: Path) -> Layout:
        inter = next(iter(sorted(path.glob("*.inter"))), None)
        if inter is None or not inter.with_suffix(".item").is_file():
            found = inter.with_suffix(".item").name if inter else "NAME.inter and NAME.item"
            raise DataError(f"{path}: expected RecBole files, {found} is missing; every item needs a title")
        stem = inter.stem
        items = self._source(inter.with_suffix(".item"), _items)
        events = self._source(inter, untyped)
        user_file = inter.with_suffix(".user")
        users = self._source(user_file, untyped) if user_file.is_file() else None
        spec = self._spec(stem, items, events, users)
        facts, left_out = self._knowledge(inter.with_suffix(".kg"), inter.with_suffix(".link"))
        if facts is not None:
            spec = spec.model_copy(update={"knowledge": KNOWLEDGE})
        return Layout(spec, items, events, users, knowledge=facts, left_out=left_out)

    def _knowledge(self, kg: Path, link: Path) -> tuple[KnowledgeSources | None, list[Reject]]:
        """The tables of facts and links where both are there and fit the items."""
        if not kg.is_file():
            return None, []
        if not link.is_file():
            return None, [
                Reject(kg.name, None, "", "", f"facts are joined through {link.name}, which is missing", "fact")
            ]
        if reason := WRONG_LINKS.get(sha256(link.read_bytes()).hexdigest()):
            return None, [Reject(link.name, None, "item_id", "", reason, "fact")]
        return KnowledgeSources(self._source(kg, untyped), self._source(link, untyped)), []

    def _source(self, path: Path, prepare: object) -> tables.TableSource:
        return tables.TableSource(path, path.name, "csv", "\t", quote=False, prepare=prepare)  # type: ignore[arg-type]

    def _spec(
        self,
        name: str,
        items: tables.TableSource,
        events: tables.TableSource,
        users: tables.TableSource | None,
    ) -> DatasetSpec:
        heads, event_heads = tables.column_names(items), tables.column_names(events)
        title = next((t for t in TITLES if t in heads), None)
        if title is None:
            raise DataError(
                f"{items.name}: expected a title column ({', '.join(TITLES)}), found {', '.join(heads)}; "
                "rename the column that names the item"
            )
        movies = "genres" in heads and "year" in heads
        roles = ("user_id", "item_id", "rating", "timestamp")
        return DatasetSpec(
            name=name,
            wording=MOVIES if movies else WordingSpec(),
            items=ItemsSpec(path=items.name, title=title),
            interactions=InteractionsSpec(
                path=events.name,
                rating="rating" if "rating" in event_heads else None,
                timestamp="timestamp" if "timestamp" in event_heads else None,
                context=tuple(c for c in event_heads if c not in roles),
            ),
            users=None if users is None else UsersSpec(path=users.name),
            show=Show(history=("year",), candidate=("year", "genres")) if movies else Show(),
        )
