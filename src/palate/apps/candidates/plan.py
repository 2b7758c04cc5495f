"""The same chunks as `Cutter`'s, named instead of read: rows of Parquet tables are left to whoever scores them.

Where a chunk ends follows from ids and from how long lists are. In a Parquet table these are columns, so nothing but
ids is looked at one by one, and only once a request. Text tables have to be read to be cut: chunks hold their rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palate.apps.candidates.cells import text
from palate.apps.candidates.chunks import COLUMNS, HISTORY, Chunk, Cutter, _Open, check_columns
from palate.apps.candidates.tables import Bad, Line, Reader, Table
from palate.errors import DataError

BATCH = 65_536
"""Rows of a Parquet table looked at together."""


@dataclass(frozen=True)
class Piece:
    """A chunk to be scored elsewhere. span: its rows of a Parquet table, from 0, the last one not its own.

    bad: rows of a span that are wrong for what came before them; rows: those of a text table. share: of the bytes
    before the chunk's end, 0..1; read: rows so far.
    """

    number: int
    table: Table
    span: tuple[int, int] | None
    bad: tuple[tuple[int, Bad], ...]
    rows: list[Line]
    share: float
    read: int

    def chunk(self) -> Chunk:
        """The chunk, read now if it is in a Parquet table."""
        if self.span is None:
            return Chunk(self.number, self.table, self.rows)
        wrong, past = dict(self.bad), None
        rows: list[Line] = []
        for n, row in Reader(self.table, check_columns, COLUMNS).rows(*self.span):
            if isinstance(row, dict) and row.get("history") is not None:
                if row["history"] == past:
                    row["history"] = past  # rows of one request hold it once
                past = row["history"]
            rows.append((n, wrong.get(n, row)))
        return Chunk(self.number, self.table, rows)


@dataclass(slots=True)
class _Growing:
    """A chunk of a Parquet table that still grows. first: its first row."""

    first: int
    open: _Open = field(default_factory=_Open)
    bad: list[tuple[int, Bad]] = field(default_factory=list)


class Planner(Cutter):
    """Pieces of tables, in order. Raises what `Cutter` raises."""

    def pieces(self) -> Iterator[Piece]:
        number, before = 0, 0
        for table in self.tables:
            for span, bad, rows, share in self._of(table):
                self.share = (before + share * table.size) / self._size
                yield Piece(number, table, span, tuple(bad), rows, self.share, self.read)
                number += 1
            before += table.size

    def _of(self, table: Table) -> Iterator[tuple[tuple[int, int] | None, list[tuple[int, Bad]], list[Line], float]]:
        parquet = table.kind == ".parquet"
        reader = Reader(table, check_columns, COLUMNS)
        if parquet:
            next(iter(reader), None)  # says what is wrong with a table that is none
            try:
                with pq.ParquetFile(table.local or table.open()) as file:
                    if _plain(file.schema_arrow):
                        total = max(1, file.metadata.num_rows)
                        for first, last, bad in self._spans(table, file):
                            yield (first, last), bad, [], last / total
                        return
            except pa.ArrowException as error:
                raise DataError(f"{table.path}: expected a Parquet file: {error}") from None
        for rows in self._cut(reader):
            if parquet:
                bad = [(n, row) for n, row in rows if isinstance(row, Bad)]
                yield (rows[0][0] - 1, rows[-1][0]), bad, [], reader.share
            else:
                yield None, [], rows, reader.share

    def _spans(self, table: Table, file: Any) -> Iterator[tuple[int, int, list[tuple[int, Bad]]]]:
        names = file.schema_arrow.names
        keyed = "request_id" if "request_id" in names else "user_id"
        wide = "candidates" in names
        wanted = {keyed, "user_id", "candidates", "history"} & set(names)
        now, row, past = _Growing(0), 0, None
        for batch in file.iter_batches(BATCH, columns=[n for n in names if n in wanted]):
            held = {name: batch.column(name) for name in batch.schema.names}
            starts, keys = (_every if wide else _changes)(held[keyed], now.open.key)
            users = _texts(held["user_id"], starts) if "user_id" in held else [""] * len(starts)
            weights, past = _weights(held, starts, past, wide)
            sums, done = np.concatenate([[0], np.cumsum(weights)]), 0
            for at, key, user in zip(starts.tolist(), keys, users, strict=True):
                now.open.weight += int(sums[at] - sums[done])
                done = at
                if now.open.full(user):
                    yield now.first, row + at, now.bad
                    now = _Growing(row + at)
                now.open.requests += 1
                now.open.key, now.open.user = None if wide else key, user
                if key and not self._seen.add(key):
                    now.bad.append((row + at + 1, self._again(table, row + at + 1, key, wide)))
                    now.open.weight += 1 - int(weights[at])  # a bad row counts as one
            now.open.weight += int(sums[-1] - sums[done])
            row += len(batch)
            self.read += len(batch)
        if row > now.first:
            yield now.first, row, now.bad


def _plain(schema: pa.Schema) -> bool:
    """Whether the columns a chunk's end follows from are of types whose cells need not be looked at."""

    def is_text(t: pa.DataType) -> bool:
        return bool(pa.types.is_string(t) or pa.types.is_large_string(t))

    def is_list(t: pa.DataType) -> bool:
        listed = pa.types.is_list(t) or pa.types.is_large_list(t)
        return bool(listed and (is_text(t.value_type) or pa.types.is_integer(t.value_type)))

    if len(set(schema.names)) < len(schema.names):
        return False
    for name in {"request_id", "user_id"} & set(schema.names):
        kind = schema.field(name).type
        if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return False
    lists = {"candidates", "history"} & set(schema.names)
    return all(is_text(schema.field(n).type) or is_list(schema.field(n).type) for n in lists)


def _texts(column: pa.Array, rows: np.ndarray) -> list[str]:
    return [text(value) for value in column.take(pa.array(rows)).to_pylist()]


def _every(column: pa.Array, key: str | None) -> tuple[np.ndarray, list[str]]:
    rows = np.arange(len(column))
    return rows, _texts(column, rows)


def _changes(column: pa.Array, key: str | None) -> tuple[np.ndarray, list[str]]:
    """The rows whose id, as text, is another than the one before, and those ids. key: the last id before, if any."""
    differs = pc.fill_null(pc.not_equal(column[1:], column[:-1]), True).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(np.concatenate([[True], differs]))
    starts, keys = [], []
    for row, found in zip(rows.tolist(), _texts(column, rows), strict=True):
        if found != key:
            starts.append(row)
            keys.append(found)
            key = found
    return np.array(starts, dtype=np.int64), keys


def _lengths(column: pa.Array) -> np.ndarray:
    """`chunks._length` of every cell: int64 [n]."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        marks = [pc.count_substring(column, mark) for mark in ",| "]
        counts = sum(pc.fill_null(m, 0).to_numpy(zero_copy_only=False).astype(np.int64) for m in marks)
        return np.asarray(1 + counts, dtype=np.int64)
    found = pc.fill_null(pc.list_value_length(column), 1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def _weights(
    held: dict[str, pa.Array], starts: np.ndarray, past: pa.Array | None, wide: bool
) -> tuple[np.ndarray, pa.Array | None]:
    """What each row counts, as `chunks._weight` has it: int64 [n]; and the history that the last request goes on with.

    past: that of the request which the first rows may belong to, one row.
    """
    size = len(next(iter(held.values())))
    history = held.get("history")
    if wide:
        listed = _lengths(held["candidates"])
        return np.maximum(1, listed if history is None else listed + _lengths(history) // HISTORY), None
    if history is None:
        return np.ones(size, dtype=np.int64), None
    if past is None:
        past = pa.nulls(1, history.type)
    rows = pa.concat_arrays([past, history])  # row 0 is the one before
    there = pc.fill_null(pc.not_equal(rows, ""), False) if _is_text(rows) else pc.fill_null(_lengths_of(rows), False)
    there = there.to_numpy(zero_copy_only=False)
    begins = np.zeros(size + 1, dtype=np.int64)
    begins[starts + 1] = starts + 1
    begins = np.maximum.accumulate(begins)
    latest = np.maximum.accumulate(np.where(there, np.arange(size + 1), -1))
    before = np.concatenate([[-1], latest[:-1]])
    asked = np.flatnonzero(there & (before >= begins))
    asked = asked[asked > 0]
    full = np.where(there, 1 + _lengths(rows) // HISTORY, 1)
    full[asked[_same(rows, asked, before[asked])]] = 1
    last = int(latest[-1])
    return full[1:], rows.slice(last, 1) if last >= begins[-1] else None


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _lengths_of(column: pa.Array) -> pa.Array:
    """Whether a list holds anything; null where it is null."""
    return pc.greater(pc.list_value_length(column), 0)


def _same(column: pa.Array, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether cells are equal, pair by pair: bool [n]. None of them is null or empty."""
    if _is_text(column):
        equal = pc.equal(column.take(pa.array(rows)), column.take(pa.array(others)))
        return np.asarray(equal.to_numpy(zero_copy_only=False), dtype=bool)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    equal = lengths[rows] == lengths[others]
    rows, others, sizes = rows[equal], others[equal], lengths[rows[equal]]
    if not len(rows):
        return np.asarray(equal)
    ends = np.cumsum(sizes)
    inside = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    values = column.flatten()
    one = values.take(pa.array(np.repeat(begins[rows], sizes) + inside))
    other = values.take(pa.array(np.repeat(begins[others], sizes) + inside))
    both = pc.and_(pc.is_null(one), pc.is_null(other))
    alike = pc.fill_null(pc.equal(one, other), both).to_numpy(zero_copy_only=False)
    equal[equal] = np.logical_and.reduceat(alike, ends - sizes)
    return np.asarray(equal)
