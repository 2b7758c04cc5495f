"""The catalogue with items added after training laid over it, and the search for what a person typed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, ValuesView
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from palate.data import Catalog
from palate.data.catalog import Items
from palate.errors import RequestError, did_you_mean
from palate.recommender.filters import Test, condition_test
from palate.recommender.titlekeys import TitleIndex
from palate.recommender.titlekeys import plain as plain
from palate.schema import Bools, Ints, Item

_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")
NEAR_IDS = 50_000
"""Near ids are sought among this many at most."""


class Shelf(Mapping[str, Item]):
    """Items by id: the catalogue's in its order, then the added ones. `index` is the place in that order."""

    def __init__(self, base: Catalog) -> None:
        self.base = base
        self._columns: dict[str, list[str]] = {}
        self._coded: dict[str, tuple[NDArray[np.int32], pa.Array]] = {}
        self._added: dict[str, Item] = {}
        self._place: dict[str, int] = {}  # of the added items: the catalogue has an index of its own
        self._frozen: tuple[str, ...] | None = None
        self._titles: TitleIndex | None = None

    def __getitem__(self, item_id: str) -> Item:
        return self._added[item_id] if item_id in self._added else self.base[item_id]

    def __iter__(self) -> Iterator[str]:
        return chain(self.base, self._added)

    def __len__(self) -> int:
        return len(self.base) + len(self._added)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.base or item_id in self._added

    @property
    def item_ids(self) -> tuple[str, ...]:
        if not self._added:
            return self.base.item_ids
        if self._frozen is None:
            self._frozen = (*self.base.item_ids, *self._added)
        return self._frozen

    def rows(self, places: Ints) -> Iterator[Item]:
        """The items at these places (rising), the catalogue's read in blocks."""
        known = places[places < len(self.base)]
        added = list(self._added.values())
        return chain(self.base.rows(known), (added[n - len(self.base)] for n in places[len(known) :].tolist()))

    def values(self) -> ValuesView[Item]:
        """The items in shelf order, read in blocks."""
        return Items(self)

    @property
    def added(self) -> tuple[str, ...]:
        """Ids of the items added after training, oldest first."""
        return tuple(self._added)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the text fields: the catalogue's, then those only added items carry."""
        extra = (field for item in self._added.values() for field in item.text)
        return tuple(dict.fromkeys([*self.base.text_fields, *extra]))

    def column(self, field: str) -> list[str]:
        """One field of every item as text, in shelf order; empty where an item has none."""
        if field not in self._columns:
            if field == "item_id":
                cells = list(self.base.item_ids)
            elif field == "title":
                cells = self.base.titles.to_pylist()
            elif field in self.base.text_fields:
                cells = [c or "" for c in self.base.records.columns[field].to_pylist()]
            else:
                cells = [""] * len(self.base)
            self._columns[field] = cells
        cells = self._columns[field]
        for item_id in list(self._added)[len(cells) - len(self.base) :]:
            cells.append(_cell(self._added[item_id], field))
        return cells

    def mask(self, filters: Mapping[str, Any] | None) -> Bools:
        """Which items satisfy every filter (see `palate.recommender.filters`): bool [N] in shelf order.

        Raises RequestError for an unknown field or a condition that says nothing.
        """
        legal = np.ones(len(self), dtype=bool)
        for field, condition in (filters or {}).items():
            if field == "not" and isinstance(condition, Mapping):
                legal &= ~self.mask(condition)
                continue
            if field not in (*self.fields, "title", "item_id"):
                raise RequestError(f"no field of the catalogue is called {field!r}; {did_you_mean(field, self.fields)}")
            legal &= self._passed(field, condition_test(condition, field))
        return legal

    def _passed(self, field: str, test: Test) -> Bools:
        """The items whose cell passes a test: many share a text, and each distinct one is put to the test once."""
        codes, texts = self._codes(field)
        passed = np.array([test(text) for text in texts.to_pylist()], dtype=np.bool_)
        tail = np.array([test(_cell(item, field)) for item in self._added.values()], dtype=np.bool_)
        return np.concatenate([passed[codes], tail])

    def _codes(self, field: str) -> tuple[NDArray[np.int32], pa.Array]:
        """A field of the catalogue's items as numbers, int32 [N], into its distinct texts: large_string."""
        if field not in self._coded:
            if field == "item_id":
                cells = pa.array(self.base.item_ids, pa.large_string())
            elif field == "title":
                cells = self.base.titles
            elif field in self.base.text_fields:
                cells = self.base.records.columns[field]
            else:
                return np.zeros(len(self.base), dtype=np.int32), pa.array([""], pa.large_string())
            coded = pc.fill_null(cells, "").dictionary_encode()
            self._coded[field] = coded.indices.to_numpy(zero_copy_only=False), coded.dictionary
        return self._coded[field]

    def index(self, item_id: str) -> int:
        return self._place[item_id] if item_id in self._place else self.base.records.index[item_id]

    def check_new(self, item: Item) -> None:
        """Raise RequestError where an item cannot be added: its id is taken or its title empty."""
        if item.item_id in self:
            raise RequestError(f"item id {item.item_id!r} is taken by {self[item.item_id].title!r}; choose another")
        if not item.title.strip():
            raise RequestError(f"item {item.item_id!r}: expected a title, got an empty text")

    def add(self, item: Item) -> None:
        """Add an item. Raises RequestError where its id is taken or its title empty."""
        self.check_new(item)
        self._added[item.item_id] = item
        self._place[item.item_id] = len(self) - 1
        self._frozen = None
        if self._titles is not None:
            self._titles.add(item.title, item.item_id)

    def new_id(self) -> str:
        """An id no item has."""
        n = len(self._added) + 1
        while f"new-{n}" in self:
            n += 1
        return f"new-{n}"

    # --- search -------------------------------------------------------------------------------------

    @property
    def titles(self) -> Mapping[str, list[str]]:
        """Plain title -> ids of the items that carry it, in shelf order."""
        if self._titles is None:
            self._titles = TitleIndex(self.base.titles, self.base.item_ids)
            for item in self._added.values():
                self._titles.add(item.title, item.item_id)
        return self._titles

    def lookup(self, text: str) -> str | None:
        """The item a text names exactly: an id, a title, or a title with its year in brackets; else None.

        Several items of one title: the first in catalogue order, or the one of the year given.
        """
        if text in self:  # an id may have blanks around it
            return text
        text = text.strip()
        if text in self:
            return text
        if ids := self.titles.get(plain(text)):
            return ids[0]
        if year := _YEAR.search(text):
            ids = self.titles.get(plain(_YEAR.sub("", text)), [])
            return next((i for i in ids if any(v.strip()[:4] == year[1] for v in self[i].text.values())), None)
        return None

    def near(self, text: str, limit: int = 3) -> list[str]:
        """Titles that look like `text`, nearest first."""
        own = get_close_matches(plain(text), [plain(i.title) for i in self._added.values()], n=limit, cutoff=0.6)
        found = [i.title for i in self._added.values() if plain(i.title) in own]
        found += [self.base[i].title for i, _ in self.base.find(text, k=limit)]
        return list(dict.fromkeys(found))[:limit]

    def find(self, text: str) -> str:
        """The id of the item a text names. Raises RequestError with the nearest titles."""
        found = self.lookup(str(text))
        if found is None:
            near = self.near(str(text))
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "no title comes near it"
            raise RequestError(f"no item of the catalogue has the id or title {str(text)!r}; {hint}")
        return found

    def check(self, item_id: str, what: str = "item") -> None:
        """Raise RequestError where the id is unknown, with the nearest id or the id of that title."""
        if item_id in self:
            return
        if by_title := self.lookup(item_id):
            hint = f"items are named by id here: {self[by_title].title!r} has the id {by_title!r}"
        else:
            names = list(islice((i for i in self if i[:1] == item_id[:1]), NEAR_IDS))
            # numbers that look alike name nothing alike
            close = [] if item_id.isdigit() else get_close_matches(item_id, names, n=1, cutoff=0.6)
            shown = ", ".join(map(repr, islice(self, 3)))
            hint = f"did you mean {close[0]!r}?" if close else f"ids look like {shown}"
        raise RequestError(f"unknown {what} {item_id!r}; {hint}")


def _cell(item: Item, field: str) -> str:
    """One field of an item as text; empty where it has none."""
    return {"title": item.title, "item_id": item.item_id}.get(field, item.text.get(field, ""))
