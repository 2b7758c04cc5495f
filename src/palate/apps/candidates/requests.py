"""Candidate files: what to score for whom, in Parquet, CSV or JSON lines.

Long form, one row a candidate; the rows of a request stand together:

    request_id, user_id, item_id

Row form, one row a request; user_id, history and context are optional:

    request_id, user_id, history, context, candidates

Without a column request_id a request is named after its user. Both forms may have a column adapter: which of the loaded
adapters answers the request; empty for the first. Further columns of both: query, what the user asks for in their own
words, and profile, a mapping such as `{"age": "24"}`.

`history` and `candidates` are lists in Parquet and JSON lines; in CSV a cell holds a JSON list (`["50",
"181"]`) or ids separated by spaces or `|`. A history entry may also be `{"item_id": ..., "timestamp": ...,
"rating": ..., "review": ...}`. `context` is a mapping such as `{"time": "evening"}`; an adapter whose config derives
context reads a time (`{"time": "2026-07-24T20:15+02:00"}`), and may be given `timezone` and `hemisphere` with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from palate.apps.candidates.cells import parse_context, parse_history, parse_ids, text
from palate.apps.candidates.chunks import COLUMNS, Chunk, check_columns, key_of
from palate.apps.candidates.rejects import Rejects
from palate.apps.candidates.tables import Bad, Reader, Row, find_tables
from palate.errors import RequestError, did_you_mean, spelt
from palate.recommender.shelf import Shelf
from palate.schema import Request


def precheck(*places: str | Path) -> None:
    """Look for candidate files and read the first one's header, before anything slow is loaded. Raises DataError."""
    next(iter(Reader(find_tables(*places)[0], check_columns, COLUMNS)), None)


@dataclass
class _Open:
    """A long-form request whose rows are still coming. request is None until one of them is right."""

    line: int
    key: str
    request: Request | None
    items: dict[str, None]


class Parser:
    """Requests of chunks, each checked against the catalogue. adapters: names the column adapter may hold."""

    def __init__(self, shelf: Shelf, adapters: Collection[str] = ()) -> None:
        self.shelf, self.adapters = shelf, adapters

    def parse(self, chunk: Chunk) -> tuple[list[Request], Rejects]:
        """The chunk's requests, in order, and its bad rows. Depends on the chunk alone."""
        rejects = Rejects(chunk.table.path)
        return list(_Pass(self, rejects).requests(chunk)), rejects


class _Pass:
    """One walk over a chunk."""

    def __init__(self, parser: Parser, rejects: Rejects) -> None:
        self.shelf, self.adapters, self.rejects = parser.shelf, parser.adapters, rejects

    def requests(self, chunk: Chunk) -> Iterator[Request]:
        now: _Open | None = None
        for line, row in chunk.rows:
            if isinstance(row, Bad):
                self.rejects.bad(line, row)
            elif "candidates" in row:
                if (request := self._row_request(line, row)) is not None:
                    yield request
            else:
                key = key_of(row)
                if now is None or key != now.key:
                    yield from self._close(now)
                    now = _Open(line, key, None, {})
                if now.request is None:
                    now.request = self._head(line, row)
                if now.request is not None:
                    self._add(now, now.request, line, row)
        yield from self._close(now)

    def _add(self, now: _Open, request: Request, line: int, row: Row) -> None:
        item_id = text(row.get("item_id"))
        if (adapter := text(row.get("adapter"))) != (first := request.adapter):
            self.rejects.add(line, "adapter", adapter, f"the request's first row has {first!r}; expected one adapter")
        elif item_id in now.items:
            self.rejects.add(line, "item_id", item_id, f"item listed twice in request {request.request_id!r}")
        elif self._known(line, "item_id", [item_id]):
            now.items[item_id] = None

    def _close(self, now: _Open | None) -> Iterator[Request]:
        if now is None or now.request is None:
            return
        if now.items:
            yield replace(now.request, candidates=tuple(now.items))
        else:
            reason = f"no valid candidate left in {now.request.request_id!r}"
            self.rejects.add(now.line, "item_id", "", reason, counts=False)

    def _row_request(self, line: int, row: Row) -> Request | None:
        head = self._head(line, row)
        if head is None:
            return None
        try:
            ids = parse_ids(row["candidates"])
        except ValueError as error:
            self.rejects.add(line, "candidates", row["candidates"], str(error))
            return None
        if not ids:
            self.rejects.add(line, "candidates", "", "candidates are empty; give at least one item id")
            return None
        twice = next((i for n, i in enumerate(ids) if i in ids[:n]), None) if len(set(ids)) < len(ids) else None
        if twice is not None:
            self.rejects.add(line, "candidates", twice, "item listed twice in one request")
            return None
        return replace(head, candidates=ids) if self._known(line, "candidates", ids) else None

    def _head(self, line: int, row: Row) -> Request | None:
        """Everything of a request but its candidates; None (and a reject) where it is wrong."""
        request_id = key_of(row)
        if not request_id:
            column = "request_id" if "request_id" in row else "user_id"
            self.rejects.add(line, column, "", f"{column} is empty")
            return None
        for column in ("request_id", "user_id"):
            value = text(row.get(column))
            if spelt(value) != value:
                reason = f"{column} holds half of a character (a lone surrogate), which no table can; write it whole"
                self.rejects.add(line, column, value, reason)
                return None
        column = "history"
        try:
            history = parse_history(row.get("history"))
            column = "context"
            context = parse_context(row.get("context"))
            column = "profile"
            profile = parse_context(row.get("profile"))
        except ValueError as error:
            self.rejects.add(line, column, row[column], str(error))
            return None
        if not self._known(line, "history", [e.item_id for e in history]):
            return None
        adapter = text(row.get("adapter"))
        if adapter and adapter not in self.adapters:
            reason = f"no adapter is called {adapter!r}; {did_you_mean(adapter, self.adapters)}"
            self.rejects.add(line, "adapter", adapter, reason)
            return None
        user, query = text(row.get("user_id")) or None, text(row.get("query"))
        return Request(request_id, user, history, (), context, profile, query, adapter)

    def _known(self, line: int, column: str, ids: Sequence[str]) -> bool:
        for item_id in ids:
            if not item_id:
                self.rejects.add(line, column, "", "item id is empty")
                return False
            if item_id not in self.shelf:
                try:
                    self.shelf.check(item_id)
                except RequestError as error:
                    self.rejects.add(line, column, item_id, str(error))
                return False
        return True
