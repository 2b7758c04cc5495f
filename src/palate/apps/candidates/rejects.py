"""Bad rows: each with file, line, column, value and reason, counted against a limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from palate.apps.candidates.tables import Bad
from palate.errors import TooManyRejects, spelt


@dataclass(frozen=True, slots=True)
class Reject:
    """One bad row. counts: False for what follows from other rejects, such as a request without a row left."""

    file: str
    line: int
    column: str
    value: str
    reason: str
    counts: bool = True

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" + (f", column {self.column}" if self.column else "")
        return f"{where}: {self.reason}"

    def told(self) -> dict[str, Any]:
        """As a line of a rejects file."""
        return {n: getattr(self, n) for n in ("file", "line", "column", "value", "reason")}


class Rejects(list[Reject]):
    """The bad rows of one table, as they come."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def add(self, line: int, column: str, value: Any, reason: str, counts: bool = True) -> None:
        self.append(Reject(self.file, line, spelt(column), spelt(str(value)[:200]), spelt(reason), counts))

    def bad(self, line: int, bad: Bad) -> None:
        self.add(line, bad.column, bad.value, bad.reason)


class Limit:
    """Counts bad rows; more than `most` of them are too many."""

    def __init__(self, most: int, count: int = 0) -> None:
        self.most, self.count = most, count

    def take(self, rejects: Iterable[Reject]) -> None:
        """Raises TooManyRejects that quotes the first one past the limit."""
        for reject in rejects:
            self.count += reject.counts
            if self.count > self.most:
                more = f" ({self.count} bad rows)" if self.count > 1 else ""
                raise TooManyRejects(f"{reject}{more}; mend the row, or allow bad rows with --max-rejects")
