"""Catalog: the items, in file order, found by id or by a title as a person types it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

from palate.data.fingerprint import Hasher
from palate.data.records import Records
from palate.data.titles import YEAR, Lookup, Triples, key, keys, loose, looses
from palate.errors import DataError, did_you_mean
from palate.schema import Ints, Item

ROWS = 4_096
"""Items made at a time."""
NEAR = 200
"""Titles that share most letter triples with the typed one and are compared letter by letter."""


class Catalog(Mapping[str, Item]):
    """Item id -> Item, in file order. N items; `index` is the index space of every other table.

    written: text fields that were added to the table (see `with_fields`); the fingerprint leaves them out.
    """

    def __init__(
        self,
        records: Records,
        title: str,
        text: Sequence[str],
        media: Mapping[str, str],
        folder: Path,
        written: Sequence[str] = (),
    ) -> None:
        self.records = records
        self.title_column = title
        self.text_fields = tuple(text)
        self.media_columns = dict(media)
        self.folder = folder
        self.written = tuple(written)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """N ids in file order."""
        return self.records.ids

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the table has a column for."""
        return tuple(self.media_columns)

    def index(self, item_id: str) -> int:
        """The item's place in `item_ids`; DataError where the catalogue has no such item."""
        try:
            return self.records.index[item_id]
        except KeyError:
            near = did_you_mean(item_id, self.item_ids[:10_000], 5)
            raise DataError(f"expected an item id of the catalogue, got {item_id!r}; {near}") from None

    def __getitem__(self, item_id: str) -> Item:
        return self.at(self.records.index[item_id])

    def at(self, n: int) -> Item:
        """Item number n."""
        title = self.records.columns[self.title_column][n].as_py()
        media = self.records.row(n, list(self.media_columns.values()))
        return Item(
            self.item_ids[n],
            title,
            self.records.row(n, self.text_fields),
            {m: self.folder / media[c] for m, c in self.media_columns.items() if c in media},
        )

    def rows(self, places: Ints | None = None) -> Rows:
        """The items at these places (None: all, in file order), which are not made before they are looked at."""
        return Rows(self, places)

    def values(self) -> ValuesView[Item]:
        """The items in file order, read in blocks."""
        return Items(self)

    def _block(self, places: Ints) -> Iterator[Item]:
        """Items of some rows, read column by column: several times as fast as one by one."""
        taken = pa.array(places)

        def cells(name: str) -> list[str]:
            found: list[str] = self.records.columns[name].take(taken).to_pylist()
            return found

        texts = [(name, cells(name)) for name in self.text_fields]
        media = [(m, cells(c)) for m, c in self.media_columns.items()]
        for at, (n, title) in enumerate(zip(places.tolist(), cells(self.title_column), strict=True)):
            yield Item(
                self.item_ids[n],
                title,
                {name: column[at] for name, column in texts if column[at]},
                {m: self.folder / column[at] for m, column in media if column[at]},
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self.item_ids)

    def __len__(self) -> int:
        return len(self.records)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.records.index

    @property
    def titles(self) -> pa.Array:
        """large_string [N]."""
        return self.records.columns[self.title_column]

    def with_fields(self, fields: Mapping[str, Mapping[str, str]]) -> Catalog:
        """The catalogue with further text fields: field -> item id -> text; an item that is not named has none.

        Raises DataError where a field is already there or an item is not.
        """
        taken = {"item_id", "title", *self.records.columns}
        added = {}
        for name, texts in fields.items():
            if not name.strip() or name in taken:
                raise DataError(
                    f"expected a new name for a text field, got {name!r}; the items have {', '.join(self.text_fields)}"
                )
            for item_id in texts.keys() - self.records.index.keys():
                self.index(item_id)  # raises, with the nearest id
            added[name] = pa.array([texts.get(i, "") for i in self.item_ids], pa.large_string())
        records = replace(self.records, columns={**self.records.columns, **added})
        return Catalog(
            records,
            self.title_column,
            (*self.text_fields, *added),
            self.media_columns,
            self.folder,
            (*self.written, *added),
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of ids, titles, text fields and media paths, in file order."""
        hasher = Hasher("catalog")
        hasher.names("id", self.item_ids)
        hasher.strings("title", [self.titles])
        for name in self.text_fields:
            if name not in self.written:
                hasher.strings(f"text {name}", [self.records.columns[name]])
        for modality, column in sorted(self.media_columns.items()):
            hasher.strings(f"media {modality}", [self.records.columns[column]])
        return hasher.digest()

    # --- titles as people type them ------------------------------------------------------------------

    @cached_property
    def _keys(self) -> pa.Array:
        """large_string [N]: each title in the form in which titles are compared."""
        return keys(self.titles)

    @cached_property
    def _exact(self) -> Lookup:
        return Lookup(self._keys)

    @cached_property
    def _loose(self) -> Lookup:
        """Titles without brackets and without a leading article."""
        return Lookup(looses(self._keys))

    @cached_property
    def _triples(self) -> Triples:
        return Triples(self._keys)

    def find(self, title: str, k: int = 5, cutoff: float = 0.6) -> list[tuple[str, float]]:
        """Items whose title is nearest to a typed one, best first, as (item id, score in 0..1).

        1.0: the same but for capitals, accents' encoding, spaces, a trailing article and a right or absent
        year; 0.95: the same but for a leading article or a part in brackets; below: difflib's ratio
        (Ratcliff and Obershelp), at least `cutoff`. A year typed in brackets prefers items of that year.
        Equal scores keep file order.
        """
        typed = key(title)
        year = YEAR.search(title)
        if not typed:
            return []
        scores: dict[int, float] = {}
        for n in self._exact.get(typed):
            scores[n] = 1.0 if self._year_fits(n, year) else 0.9
        for n in self._loose.get(loose(typed)):
            scores.setdefault(n, 0.95 if self._year_fits(n, year) else 0.85)
        if not scores:
            scores = {n: r for n, r in self._near(typed) if r >= cutoff}
        best = sorted(scores, key=lambda n: (-scores[n], n))[:k]
        return [(self.item_ids[n], scores[n]) for n in best]

    def _year_fits(self, n: int, year: re.Match[str] | None) -> bool:
        if year is None:
            return True
        own = YEAR.search(self.titles[n].as_py())
        column = self.records.columns.get("year")
        known = own.group(1) if own else column[n].as_py() if column is not None else ""
        return not known or known == year.group(1)

    def _near(self, typed: str) -> list[tuple[int, float]]:
        """(row, ratio) of the titles that share the most letter triples with `typed`."""
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(typed)
        found = []
        for n in self._triples.nearest(typed, NEAR).tolist():
            matcher.set_seq1(self._keys[n].as_py())
            found.append((n, matcher.ratio()))
        return found


class Rows(Sequence[Item]):
    """The items of a catalogue at some places: made when they are looked at, in blocks where all are.

    item_ids: their ids.
    """

    def __init__(self, catalog: Catalog, places: Ints | None = None) -> None:
        self._catalog, self._places = catalog, places

    @property
    def item_ids(self) -> tuple[str, ...]:
        ids = self._catalog.item_ids
        return ids if self._places is None else tuple(ids[n] for n in self._places.tolist())

    def __len__(self) -> int:
        return len(self._catalog) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Item | Rows:
        if isinstance(at, slice):
            places = np.arange(len(self), dtype=np.int64) if self._places is None else self._places
            return Rows(self._catalog, places[at])
        if not -len(self) <= at < len(self):
            raise IndexError(f"expected a row below {len(self)}, got {at}")
        at %= len(self)
        return self._catalog.at(at if self._places is None else int(self._places[at]))

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), ROWS):
            stop = min(start + ROWS, len(self))
            places = np.arange(start, stop) if self._places is None else self._places[start:stop]
            yield from self._catalog._block(places)


class Items(ValuesView[Item]):
    """The values of a mapping that has `rows`, as a catalogue does: read in blocks, not one by one."""

    def __iter__(self) -> Iterator[Item]:
        return iter(self._mapping.rows(np.arange(len(self))))  # type: ignore[attr-defined]
