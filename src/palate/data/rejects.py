"""Bad rows: counted, listed in `rejects.jsonl`, and too many of them stop the work."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from palate.errors import DataError, TooManyRejects

REJECTS_FILE = "rejects.jsonl"
SHOWN = 5
"""Bad rows that an error text shows, and a report lists first."""
MAX_CHARS = 200
FLOOR = 100
SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Reject:
    """One bad row (kind `row`: left out), one bad medium (kind `media`: its item stays), or `count` sound facts that
    have no place among the items (kind `fact`), `value` being one of them."""

    file: str
    line: int | None
    column: str
    value: str
    reason: str
    kind: Literal["row", "media", "fact"] = "row"
    count: int = 1

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}, line {self.line}"
        column = f", column {self.column!r}" if self.column else ""
        return f"{where}{column}: {self.reason}, got {self.value!r}"


class RejectLog:
    """Collects rejects; every one goes to `path` at once, the first few also stay in memory.

    max_rejects: whole number = rows a table may lose; fraction below 1 = share of its rows; None = 1% of its
    rows, at least 100 rows, and never more than half of the table. Bad media never count towards it.
    ends_at: where the file will lie in the end, for error texts.
    """

    def __init__(self, path: Path | None = None, max_rejects: float | None = None, ends_at: Path | None = None) -> None:
        if max_rejects is not None and not (
            0 <= max_rejects < 1 or (max_rejects >= 1 and float(max_rejects).is_integer())
        ):
            raise DataError(
                f"max_rejects: expected a whole number of rows or a share below 1, got {max_rejects!r}; "
                "write 500 for rows or 0.05 for five percent"
            )
        self.path = path
        self.ends_at = ends_at or path
        self.max_rejects = max_rejects
        self.first: list[Reject] = []
        self.reasons: Counter[tuple[str, str, str]] = Counter()
        """(kind, file, reason) -> how many."""
        self.rows: Counter[str] = Counter()
        """File -> rejected rows."""
        self._out: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def total(self) -> int:
        """Rejected rows of all tables, bad media not counted."""
        return sum(self.rows.values())

    @property
    def media(self) -> int:
        """Bad media."""
        return sum(n for (kind, _, _), n in self.reasons.items() if kind == "media")

    def add(self, reject: Reject) -> None:
        """Record one reject."""
        self.reasons[reject.kind, reject.file, reject.reason] += reject.count
        if reject.kind == "row":
            self.rows[reject.file] += 1
        if len(self.first) < SHOWN:
            self.first.append(reject)
        if self.path is not None:
            if self._out is None:
                self._out = self.path.open("w", encoding="utf-8")
            values = {k: v for k, v in asdict(reject).items() if k != "count" or v != 1}
            self._out.write(json.dumps(values, ensure_ascii=False) + "\n")

    def add_rows(self, file: str, lines: Iterable[int], column: str, values: Iterable[Any], reason: str) -> None:
        """Record many bad rows that share a column and a reason."""
        for line, value in zip(lines, values, strict=True):
            text = "" if value is None else str(value)
            self.add(Reject(file, int(line), column, text[:MAX_CHARS], reason))

    def settle(self, file: str, total: int) -> None:
        """Raise TooManyRejects if a table of `total` rows (bad ones included) lost more than the limit."""
        lost = self.rows[file]
        limit = self._limit(total)
        if lost <= limit:
            return
        self.close()
        shown = "\n".join(f"  {r}" for r in self.first if r.file == file) or "\n".join(
            f"  {n} x {reason}" for (kind, f, reason), n in self.reasons.most_common() if f == file
        )
        kept = f"; all of them are in {self.ends_at}" if self.ends_at is not None else ""
        raise TooManyRejects(
            f"{file}: {lost:,} of {total:,} rows are bad, more than the limit of {limit:,}{kept}. "
            f"The first:\n{shown}\n"
            "mend the table, or allow more with max_rejects (--max-rejects N, or a share such as 0.2)"
        )

    def _limit(self, total: int) -> int:
        if self.max_rejects is None:
            return min(max(FLOOR, int(total * SHARE)), total // 2)
        if self.max_rejects < 1:
            return int(total * self.max_rejects)
        return int(self.max_rejects)

    def close(self) -> None:
        """Flush and close the file; where nothing was rejected there is none."""
        if self._out is not None:
            self._out.close()
            self._out = None


def read_rejects(path: Path) -> Iterator[Reject]:
    """The rejects that an import left behind; none where there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Reject(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}, line {number}: expected a reject as JSON, got {error}") from None
