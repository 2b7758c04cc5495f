"""Chunks: a candidate file cut between requests, by its raw rows alone.

A chunk is what is scored and written in one go. Where it begins and ends depends on nothing but the tables, so the same
chunks come out whoever reads them: a run that goes on after a crash, one of several processes, or a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from palate.apps.candidates.cells import text
from palate.apps.candidates.seen import SeenIds
from palate.apps.candidates.tables import Bad, Line, Reader, Row, Table
from palate.errors import DataError

WEIGHT = 20_000
"""A chunk is closed, between two users if it can, at so many candidates; HISTORY history items count as one."""
REQUESTS = 1024
"""A chunk is closed when it has so many requests."""
HISTORY = 10
COLUMNS = ("request_id", "user_id", "item_id", "candidates", "history", "context", "profile", "query", "adapter")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of one table, requests whole. number: from 0 over all tables."""

    number: int
    table: Table
    rows: list[Line]

    @property
    def span(self) -> tuple[int, int]:
        """The first and, one past it, the last row of a Parquet table, from 0."""
        return self.rows[0][0] - 1, self.rows[-1][0]


@dataclass(slots=True)
class _Open:
    """A chunk that still grows. key: the long-form request its last row is of."""

    rows: list[Line] = field(default_factory=list)
    weight: int = 0
    requests: int = 0
    key: str | None = None
    user: str = ""
    history: object = None

    def full(self, user: str) -> bool:
        """Whether to close it before a request of this user: one user's requests share their prompt."""
        enough = self.weight >= WEIGHT or self.requests >= REQUESTS
        return enough and (not user or user != self.user or self.weight >= 2 * WEIGHT)


class Cutter:
    """Chunks of tables, in order. share: how much of the bytes is read, 0..1; read: rows so far.

    Raises DataError for columns that are no candidate file's and for a long-form request whose rows do not stand
    together, in one file. A row-form request whose id came before is a bad row.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tables
        self.read = 0
        self.share = 0.0
        self._seen = SeenIds()
        self._size = sum(t.size for t in tables) or 1

    def __iter__(self) -> Iterator[Chunk]:
        number, before = 0, 0
        for table in self.tables:
            reader = Reader(table, check_columns, COLUMNS)
            for rows in self._cut(reader):
                self.share = (before + reader.share * table.size) / self._size
                yield Chunk(number, table, rows)
                number += 1
            before += table.size

    def _cut(self, reader: Reader) -> Iterator[list[Line]]:
        now = _Open()
        for line, row in reader:
            self.read += 1
            if isinstance(row, Bad):
                if now.key is None and now.full(""):
                    yield now.rows
                    now = _Open()
                now.rows.append((line, row))
                now.weight += 1
                continue
            wide = "candidates" in row
            key, user = key_of(row), text(row.get("user_id"))
            if wide or key != now.key:
                if now.full(user):
                    yield now.rows
                    now = _Open()
                now.requests += 1
                now.key, now.user, now.history = None if wide else key, user, None
                if key and not self._seen.add(key):
                    row = self._again(reader.table, line, key, wide)
            now.rows.append((line, row))
            now.weight += 1 if isinstance(row, Bad) else _weight(now, row)
        if now.rows:
            yield now.rows

    def _again(self, table: Table, line: int, key: str, wide: bool) -> Bad:
        if wide:
            return Bad("request_id", key, "this request_id was used before; each must be unique")
        raise DataError(
            f"{table.path}, line {line}, column request_id: request {key!r} comes again after other requests; the rows "
            "of one request must stand together in one file, so sort by request_id"
        )


def key_of(row: Row) -> str:
    """The request a row is of: its request_id, or where there is no such column its user."""
    return text(row["request_id"] if "request_id" in row else row.get("user_id"))


def _weight(now: _Open, row: Row) -> int:
    """What a row counts. Long-form rows that repeat their history share it, so that it is in memory once."""
    history = row.get("history")
    if history and "candidates" not in row:
        if history == now.history:
            row["history"] = now.history
            return 1
        now.history = history
    listed = _length(row["candidates"]) if "candidates" in row else 1
    return max(1, listed + _length(history) // HISTORY)


def _length(cell: object) -> int:
    """About how many ids a list cell holds, without parsing it."""
    if isinstance(cell, str):
        return 1 + cell.count(",") + cell.count("|") + cell.count(" ")
    return len(cell) if isinstance(cell, list) else 1


def check_columns(names: list[str]) -> str | None:
    """What is wrong with a candidate file's columns, or None."""
    known = set(names)
    named = bool(known & {"request_id", "user_id"})
    if named and ("candidates" in known) != ("item_id" in known):
        return None
    if {"candidates", "item_id"} <= known:
        return "expected either item_id (a row a candidate) or candidates (a row a request), got both columns"
    missing = [] if named else ["request_id (or user_id)"]
    if not known & {"item_id", "candidates"}:
        missing.append("item_id (a row a candidate) or candidates (a row a request)")
    return f"missing column {' and '.join(missing)}; the file has: {', '.join(names) or 'no columns'}"
