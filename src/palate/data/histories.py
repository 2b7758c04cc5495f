"""Histories: who chose what and when, as one set of arrays, with the context and the review of every event."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palate.data import splits
from palate.data.events import Codes, EventTable, gather, is_clean
from palate.data.fingerprint import Hasher
from palate.data.spec import InteractionsSpec
from palate.errors import DataError
from palate.schema import Event, Interactions

Texts = Mapping[str, pa.ChunkedArray]


class Histories:
    """Time-ordered events of all users. `interactions` holds the numbers; texts, which are context and reviews, are
    read when first asked for.

    text_fields: the columns of text; review: the one of them that holds what the user wrote.
    """

    def __init__(
        self,
        interactions: Interactions,
        text_fields: Sequence[str],
        texts: Callable[[], Texts],
        review: str | None = None,
    ) -> None:
        self.interactions = interactions
        self.text_fields = tuple(text_fields)
        self.review = review
        self._read_texts = texts

    @property
    def context_fields(self) -> tuple[str, ...]:
        """The columns of text but the review."""
        return tuple(c for c in self.text_fields if c != self.review)

    def __len__(self) -> int:
        return len(self.interactions)

    def __iter__(self) -> Iterator[str]:
        return iter(self.interactions.user_ids)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self.interactions.user_index

    def user(self, user_id: str) -> int:
        """The user's number; DataError where nobody has this id."""
        try:
            return self.interactions.user_index[user_id]
        except KeyError:
            raise DataError(
                f"expected a user id of the data set, got {user_id!r}; it has {len(self):,} users, "
                f"such as {', '.join(map(repr, self.interactions.user_ids[:3]))}; "
                "for a new user give a history instead"
            ) from None

    def events(self, user_id: str) -> tuple[Event, ...]:
        """The user's events, oldest first; empty for a user who has a profile only. DataError where
        unknown."""
        n = self.user(user_id)
        data = self.interactions
        start, stop = int(data.indptr[n]), int(data.indptr[n + 1])
        contexts = self.context(user_id)
        reviews = self._texts[self.review].slice(start, stop - start).to_pylist() if self.review else None
        return tuple(
            Event(
                data.item_ids[data.items[e]],
                None if np.isnan(data.timestamps[e]) else float(data.timestamps[e]),
                None if np.isnan(data.ratings[e]) else float(data.ratings[e]),
                contexts[e - start],
                reviews[e - start] if reviews else "",
            )
            for e in range(start, stop)
        )

    def context(self, user_id: str) -> tuple[dict[str, str], ...]:
        """The context fields of each of the user's events, oldest first; only fields that hold something."""
        n = self.user(user_id)
        start, stop = int(self.interactions.indptr[n]), int(self.interactions.indptr[n + 1])
        columns = {c: self._texts[c].slice(start, stop - start).to_pylist() for c in self.context_fields}
        return tuple({c: v[e] for c, v in columns.items() if v[e]} for e in range(stop - start))

    def filled(self) -> dict[str, int]:
        """Column of text -> how many events hold something in it."""
        counts = {}
        for name in self.text_fields:
            column = self._texts[name]
            counts[name] = int(pc.sum(pc.not_equal(column, "")).as_py() or 0)
        return counts

    def before(self, time: float) -> Histories:
        """The events before a moment (seconds since 1970), of the same users; see `splits.before`."""
        kept = pa.array(splits.earlier(self.interactions, time))

        def texts() -> Texts:
            return {name: column.filter(kept) for name, column in self._texts.items()}

        return Histories(splits.before(self.interactions, time), self.text_fields, texts, self.review)

    @cached_property
    def _texts(self) -> Texts:
        return self._read_texts()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of users, items, order, times, ratings, context and reviews."""
        data = self.interactions
        hasher = Hasher("histories")
        hasher.names("users", data.user_ids)
        hasher.names("items", data.item_ids)
        hasher.numbers("indptr", data.indptr)
        hasher.numbers("items", data.items)
        hasher.numbers("timestamps", data.timestamps)
        hasher.numbers("ratings", data.ratings)
        for name in self.text_fields:
            hasher.strings(f"context {name}", self._texts[name].chunks)
        return hasher.digest()


def from_events(
    events: EventTable, item_ids: tuple[str, ...], spec: InteractionsSpec, more_users: Sequence[str]
) -> Histories:
    """Histories of checked events; users of `more_users` without any event follow with an empty history."""

    def texts() -> Texts:
        return {c: pa.chunked_array([gather(events.context[c], events.order)]) for c in spec.kept}

    interactions = _interactions(
        events.user_ids, events.users, events.items, (events.timestamps, events.ratings), item_ids, more_users
    )
    return Histories(interactions, spec.kept, texts, spec.review)


def _interactions(
    seen: Sequence[str],
    users: Codes,
    items: Codes,
    values: tuple[np.ndarray, np.ndarray],
    item_ids: tuple[str, ...],
    more_users: Sequence[str],
) -> Interactions:
    have = set(seen)
    user_ids = (*seen, *(u for u in more_users if u not in have))
    indptr = np.zeros(len(user_ids) + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=len(user_ids)), out=indptr[1:])
    return Interactions(user_ids, item_ids, indptr, items.astype(np.int64), *values)


def from_clean(
    path: Path, spec: InteractionsSpec, item_index: Mapping[str, int], more_users: Sequence[str]
) -> Histories | None:
    """Histories of a table that `events.write` wrote, without checking each row again.

    None where the file is not one, or no longer fits the catalogue or the spec: then it is read as any table.
    """
    if not is_clean(path):
        return None
    wanted = [c for c in (spec.user, spec.item, spec.rating, spec.timestamp) if c is not None]
    present = pq.read_schema(path).names
    if not {*wanted, *spec.kept} <= set(present):
        return None
    table = pq.read_table(path, columns=wanted, read_dictionary=[spec.user, spec.item], memory_map=True)
    if any(table[c].null_count for c in (spec.user, spec.item)):
        return None
    coded_users, coded_items = (table[c].unify_dictionaries() for c in (spec.user, spec.item))
    items = _mapped(coded_items, item_index)
    starts, seen = _runs(coded_users)
    if items is None or starts is None:
        return None
    users = np.repeat(np.arange(len(seen), dtype=np.int32), np.diff(starts))
    rows = table.num_rows
    times = _floats(table, spec.timestamp, rows).astype(np.float64)
    keys = np.where(np.isnan(times), -np.inf, times)
    if ((keys[1:] < keys[:-1]) & (users[1:] == users[:-1])).any():
        return None
    ratings = _floats(table, spec.rating, rows).astype(np.float32)
    low, high = spec.rating_range or (-np.inf, np.inf)
    if ((ratings < low) | (ratings > high)).any():
        return None

    opened = _stamp(path)

    def texts() -> Texts:
        if _stamp(path) != opened:
            raise DataError(f"{path}: the table was changed after it was opened; open the data set again")
        columns = pq.read_table(path, columns=list(spec.kept), memory_map=True)
        return {c: columns[c] for c in spec.kept}

    interactions = _interactions(seen, users, items, (times, ratings), tuple(item_index), more_users)
    return Histories(interactions, spec.kept, texts, spec.review)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _floats(table: pa.Table, name: str | None, rows: int) -> np.ndarray:
    if name is None:
        return np.full(rows, np.nan)
    values: np.ndarray = table[name].to_numpy()
    return values


def _indices(coded: pa.ChunkedArray) -> np.ndarray:
    if not coded.num_chunks:
        return np.empty(0, dtype=np.int32)
    return np.concatenate([c.indices.to_numpy(zero_copy_only=False) for c in coded.chunks])


def _names(coded: pa.ChunkedArray) -> list[str]:
    return list(coded.chunk(0).dictionary.to_pylist()) if coded.num_chunks else []


def _mapped(coded: pa.ChunkedArray, index: Mapping[str, int]) -> Codes | None:
    """int32 [E] into the catalogue; None where an item is not in it."""
    table = np.array([index.get(i, -1) for i in _names(coded)], dtype=np.int32)
    codes: Codes = table[_indices(coded)] if len(table) else np.empty(0, dtype=np.int32)
    return None if (codes < 0).any() else codes


def _runs(coded: pa.ChunkedArray) -> tuple[np.ndarray | None, list[str]]:
    """Where each user's events start (and the end), and the users in that order; None where a user comes
    twice."""
    codes = _indices(coded)
    if not len(codes):
        return np.zeros(1, dtype=np.int64), []
    starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1, [len(codes)]])
    firsts = codes[starts[:-1]]
    if len(np.unique(firsts)) != len(firsts):
        return None, []
    names = _names(coded)
    return starts, [names[c] for c in firsts]
