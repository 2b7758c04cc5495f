"""Records: a table with one row an id, kept as Arrow text columns and read one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from palate.data import columns as col
from palate.data.rejects import RejectLog
from palate.data.tables import Chunk, TableSource, require, stream
from palate.schema import Bools, Ints


@dataclass(frozen=True)
class Records:
    """Cleaned rows. ids: N ids in file order; columns: name -> large_string [N], empty where nothing is
    known; lines: int64 [N], where each row stood; total: rows the file had, bad ones included."""

    ids: tuple[str, ...]
    columns: dict[str, pa.Array]
    lines: Ints
    total: int
    file: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Id -> row."""
        return {i: n for n, i in enumerate(self.ids)}

    def row(self, n: int, names: Sequence[str]) -> dict[str, str]:
        """The named fields of row n that hold something."""
        return {name: value for name in names if (value := self.columns[name][n].as_py())}

    def filled(self, name: str) -> int:
        """How many rows hold something in a column."""
        return int(len(self.ids) - np.count_nonzero(col.is_empty(self.columns[name])))


def load(
    src: TableSource,
    id_column: str,
    wanted: Sequence[str] | None,
    log: RejectLog,
    *,
    title: str | None = None,
) -> Records:
    """Read a table of records.

    wanted: columns to keep; None keeps all but the id. title: a column that must hold something.
    Rejected: rows with an empty id or title, and rows whose id an earlier row has (the first is kept).
    Raises DataError for a missing column, TooManyRejects past the log's limit.
    """
    parts: dict[str, list[pa.Array]] = {}
    ids: list[pa.Array] = []
    lines: list[Ints] = []
    before = 0
    before_rejects = log.rows[src.name]
    for n, chunk in enumerate(stream(src, log)):
        if n == 0:
            _require_all(chunk, src.name, id_column, wanted, title)
        names = [c for c in chunk.table.column_names if c != id_column] if wanted is None else list(wanted)
        kept = _keep(chunk, src.name, id_column, title, log)
        rows = pa.array(np.flatnonzero(kept))
        ids.append(col.ids(_column(chunk, id_column)).take(rows))
        for name in dict.fromkeys([*([title] if title else []), *names]):
            cells = col.titles(_column(chunk, name)) if name == title else col.prose(_column(chunk, name))
            if name not in parts:  # a JSON key may turn up late: the rows before it have nothing there
                parts[name] = [_blank(before)] if before else []
            parts[name].append(cells.take(rows))
        lines.append(chunk.lines[kept])
        before += len(rows)
        for name in parts.keys() - {title, *names}:
            parts[name].append(_blank(len(rows)))
    columns = {name: _concat(chunks) for name, chunks in parts.items()}
    records = _unique(src.name, id_column, _concat(ids), columns, lines, log)
    total = len(records) + log.rows[src.name] - before_rejects
    log.settle(src.name, total)
    return replace(records, total=total)


def _blank(rows: int) -> pa.Array:
    return pa.array([""] * rows, pa.large_string())


def _concat(chunks: list[pa.Array]) -> pa.Array:
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.large_string())


def _column(chunk: Chunk, name: str) -> pa.Array | pa.ChunkedArray:
    if name in chunk.table.column_names:
        return chunk.table[name]
    return pa.nulls(chunk.table.num_rows, pa.large_string())


def _require_all(chunk: Chunk, file: str, id_column: str, wanted: Sequence[str] | None, title: str | None) -> None:
    require(chunk.table, id_column, file, "id")
    if title:
        require(chunk.table, title, file, "title")
    for name in wanted or ():
        require(chunk.table, name, file, "text or media" if title else "profile")


def _keep(chunk: Chunk, file: str, id_column: str, title: str | None, log: RejectLog) -> Bools:
    """bool [rows]: rows with an id and a title; the others are rejected."""
    bad = col.is_empty(col.ids(_column(chunk, id_column)))
    log.add_rows(file, chunk.lines[bad], id_column, [""] * int(bad.sum()), "empty id")
    if title:
        untitled = col.is_empty(col.titles(_column(chunk, title))) & ~bad
        names = col.ids(_column(chunk, id_column)).filter(pa.array(untitled)).to_pylist()
        log.add_rows(file, chunk.lines[untitled], title, [f"item {n}" for n in names], "empty title")
        bad |= untitled
    kept: Bools = ~bad
    return kept


def _unique(
    file: str, id_column: str, ids: pa.Array, columns: dict[str, pa.Array], parts: list[Ints], log: RejectLog
) -> Records:
    """Keep the first row of each id."""
    lines = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    if not first.all():
        again = ids.filter(pa.array(~first)).to_pylist()
        log.add_rows(file, lines[~first], id_column, again, "duplicate id, the first row is kept")
        mask = pa.array(first)
        ids, lines = ids.filter(mask), lines[first]
        columns = {name: cells.filter(mask) for name, cells in columns.items()}
    return Records(tuple(ids.to_pylist()), columns, lines, len(ids), file)
