"""Bad rows: each with file, line, column, value and reason, written beside the output, counted against a
limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from palate.errors import DataError, TooManyRejects


@dataclass(frozen=True, slots=True)
class Reject:
    """One bad row."""

    file: str
    line: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" + (f", column {self.column}" if self.column else "")
        return f"{where}: {self.reason}"


class Rejects:
    """Collects bad rows of `source`; past `limit` rows it raises TooManyRejects that quotes the last one.

    path: a JSON lines file that gets every bad row, made when the first one comes; None keeps only the count.
    """

    def __init__(self, source: Path, path: Path | None = None, limit: int = 0) -> None:
        self.source, self.path, self.limit = source, path, limit
        self.count = 0
        self.first: list[Reject] = []
        self.expect: Callable[[list[str]], str | None] | None = None
        self._file: IO[str] | None = None

    def columns(self, names: list[str], line: int = 1) -> None:
        """Check the header with `expect`; raises DataError that names file and line."""
        wrong = self.expect(names) if self.expect else None
        if wrong:
            raise DataError(f"{self.source}, line {line}: {wrong}")

    def add(self, line: int, column: str, value: Any, reason: str) -> None:
        """Take one bad row. Raises TooManyRejects past the limit."""
        reject = self.note(line, column, value, reason)
        self.count += 1
        if self.count > self.limit:
            more = f" ({self.count} bad rows)" if self.count > 1 else ""
            raise TooManyRejects(f"{reject}{more}; mend the row, or allow bad rows with --max-rejects")

    def note(self, line: int, column: str, value: Any, reason: str) -> Reject:
        """Write a line to the rejects file without counting it as a row."""
        reject = Reject(str(self.source), line, column, str(value)[:200], reason)
        if len(self.first) < 10:
            self.first.append(reject)
        if self.path is not None:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8")
            self._file.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
        return reject

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
