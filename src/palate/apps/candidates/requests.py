"""Candidate files: what to score for whom, in Parquet, CSV or JSON lines, read in bounded memory.

Long form, one row a candidate; the rows of a request stand together:

    request_id, user_id, item_id

Row form, one row a request; user_id, history and context are optional:

    request_id, user_id, history, context, candidates

Both forms may have a column adapter: which of the loaded adapters answers the request; empty for the first. Further
columns of both: query, what the user asks for in their own words, and profile, a mapping such as `{"age": "24"}`.

`history` and `candidates` are lists in Parquet and JSON lines; in CSV a cell holds a JSON list (`["50",
"181"]`) or ids separated by spaces or `|`. A history entry may also be `{"item_id": ..., "timestamp": ...,
"rating": ..., "review": ...}`. `context` is a mapping such as `{"time": "evening"}`; an adapter whose config derives
context reads a time (`{"time": "2026-07-24T20:15+02:00"}`), and may be given `timezone` and `hemisphere` with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palate.apps.candidates.cells import parse_context, parse_history, parse_ids, text
from palate.apps.candidates.rejects import Rejects
from palate.apps.candidates.seen import SeenIds
from palate.apps.candidates.tables import check_file, read_rows
from palate.errors import DataError, RequestError, did_you_mean
from palate.recommender.shelf import Shelf
from palate.schema import Request


def precheck(path: Path) -> None:
    """Read a candidate file's header, before anything slow is loaded. Raises DataError where it is wrong."""
    check_file(path)
    rejects = Rejects(path, limit=1 << 30)
    rejects.expect = _check_columns
    next(read_rows(path, rejects), None)


@dataclass
class _Open:
    """A long-form request whose rows are still coming."""

    line: int
    request: Request
    items: dict[str, None]


class CandidateFile:
    """Requests of a candidate file, each checked against the catalogue.

    Bad rows go to `rejects` (which raises TooManyRejects past its limit). `rows` counts rows read so far.
    adapters: names the column adapter may hold. Raises DataError for missing columns and for a long-form request
    whose rows do not stand together.
    """

    def __init__(self, path: Path, shelf: Shelf, rejects: Rejects, adapters: Collection[str] = ()) -> None:
        self.path, self.shelf, self.rejects, self.adapters = path, shelf, rejects, adapters
        self.rows = 0
        self._seen = SeenIds()
        rejects.expect = _check_columns

    def __iter__(self) -> Iterator[Request]:
        open_: _Open | None = None
        for line, row in read_rows(self.path, self.rejects):
            self.rows += 1
            if "candidates" in row:
                if (request := self._row_request(line, row)) is not None:
                    yield request
                continue
            request_id = text(row.get("request_id"))
            if open_ is not None and request_id != open_.request.request_id:
                yield from self._close(open_)
                open_ = None
            if open_ is None:
                head = self._head(line, row)
                if head is None:
                    continue
                if not self._seen.add(head.request_id):
                    raise DataError(
                        f"{self.path}, line {line}, column request_id: request {head.request_id!r} comes "
                        "again after other requests; the rows of one request must stand together, so "
                        "sort the file by request_id"
                    )
                open_ = _Open(line, head, {})
            self._add(open_, line, row)
        if open_ is not None:
            yield from self._close(open_)

    def _add(self, open_: _Open, line: int, row: Mapping[str, Any]) -> None:
        item_id = text(row.get("item_id"))
        if (adapter := text(row.get("adapter"))) != (first := open_.request.adapter):
            self.rejects.add(line, "adapter", adapter, f"the request's first row has {first!r}; expected one adapter")
        elif item_id in open_.items:
            self.rejects.add(line, "item_id", item_id, f"item listed twice in request {open_.request.request_id!r}")
        elif self._known(line, "item_id", [item_id]):
            open_.items[item_id] = None

    def _close(self, open_: _Open) -> Iterator[Request]:
        if open_.items:
            yield replace(open_.request, candidates=tuple(open_.items))
        else:
            self.rejects.note(open_.line, "item_id", "", f"no valid candidate left in {open_.request.request_id!r}")

    def _row_request(self, line: int, row: Mapping[str, Any]) -> Request | None:
        head = self._head(line, row)
        if head is None:
            return None
        if not self._seen.add(head.request_id):
            self.rejects.add(
                line, "request_id", head.request_id, "this request_id was used before; each must be unique"
            )
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

    def _head(self, line: int, row: Mapping[str, Any]) -> Request | None:
        """Everything of a request but its candidates; None (and a reject) where it is wrong."""
        request_id = text(row.get("request_id"))
        if not request_id:
            self.rejects.add(line, "request_id", "", "request_id is empty")
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


def _check_columns(names: list[str]) -> str | None:
    """What is wrong with a candidate file's columns, or None."""
    known = set(names)
    if "request_id" in known and ("candidates" in known) != ("item_id" in known):
        return None
    if {"candidates", "item_id"} <= known:
        return "expected either item_id (a row a candidate) or candidates (a row a request), got both columns"
    missing = [] if "request_id" in known else ["request_id"]
    if not known & {"candidates", "item_id"}:
        missing.append("item_id (a row a candidate) or candidates (a row a request)")
    return f"missing column {' and '.join(missing)}; the file has: {', '.join(names) or 'no columns'}"
