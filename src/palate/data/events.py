"""Events: the interaction table read once, checked row by row, as arrays of codes in time order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from palate.data import columns as col
from palate.data.rejects import RejectLog
from palate.data.spec import InteractionsSpec
from palate.data.tables import Chunk, TableSource, require, stream
from palate.schema import Bools, Floats, Ints

Codes = NDArray[np.int32]
DUPLICATE = "duplicate event (same user, item and time), the first is kept"
WRITE_ROWS = 262_144
MARK = b"palate"
LAYOUT = b"events 1: cleaned, by user, oldest first"


@dataclass(frozen=True)
class EventTable:
    """Checked events, E of them, by user (in order of first appearance) and oldest first, ties in file order.

    user_ids: the users seen; users: int32 [E] into them; items: int32 [E] into the catalogue;
    timestamps: float64 [E] and ratings: float32 [E], NaN unknown; order: int64 [E] into `context`'s rows;
    context: one large_string column a context field and one of reviews, in file order.
    """

    user_ids: tuple[str, ...]
    users: Codes
    items: Codes
    timestamps: NDArray[np.float64]
    ratings: Floats
    order: Ints
    context: Mapping[str, pa.ChunkedArray]
    total: int

    def __len__(self) -> int:
        return len(self.users)

    def context_rows(self, name: str, start: int, stop: int) -> pa.Array:
        """A context column of events start..stop, in this table's order."""
        return gather(self.context[name], self.order[start:stop])


class _Collector:
    """Gathers the good rows of all chunks; context text may be spilled to a file to bound memory."""

    def __init__(self, spec: InteractionsSpec, item_index: Mapping[str, int], file: str, log: RejectLog) -> None:
        self.spec, self.item_index, self.file, self.log = spec, item_index, file, log
        self.items = pa.array(list(item_index), pa.large_string())
        self.users: list[pa.DictionaryArray] = []
        self.parts: list[tuple[Codes, NDArray[np.float64], Floats, Ints]] = []

    def add(self, chunk: Chunk) -> pa.Table:
        """Check a chunk and keep its good rows; returns their context columns."""
        table, spec = chunk.table, self.spec
        users, items = col.ids(_cells(table, spec.user)), col.ids(_cells(table, spec.item))
        times, bad_time = self._optional(table, spec.timestamp, col.times)
        ratings, bad_rating = self._optional(table, spec.rating, col.numbers)
        known = _codes(items, self.item_index, self.items)
        kept = np.ones(len(chunk.lines), dtype=bool)
        for name, bad, reason in (
            (spec.user, col.is_empty(users), "empty id"),
            (spec.item, col.is_empty(items), "empty id"),
            (spec.item, known < 0, "unknown item"),
            (spec.timestamp, bad_time, "expected a time: seconds or milliseconds since 1970, or ISO 8601"),
            (spec.rating, bad_rating, "expected a finite number"),
            (spec.rating, self._outside(ratings), f"rating outside {spec.rating_range}"),
        ):
            self._reject(chunk, name, kept & bad, reason)
            kept &= ~bad
        rows = pa.array(np.flatnonzero(kept))
        self.users.append(users.take(rows).dictionary_encode())
        floats = ratings[kept].astype(np.float32)
        self.parts.append((known[kept], times[kept], floats, chunk.lines[kept]))
        return pa.table({c: col.text(_cells(table, c)).take(rows) for c in spec.kept})

    def _optional(self, table: pa.Table, name: str | None, parse: Any) -> tuple[NDArray[np.float64], Bools]:
        if name is None or name not in table.column_names:
            return np.full(table.num_rows, np.nan), np.zeros(table.num_rows, dtype=bool)
        values, bad = parse(table[name])
        return values, bad

    def _outside(self, ratings: NDArray[np.float64]) -> Bools:
        if self.spec.rating_range is None:
            return np.zeros(len(ratings), dtype=bool)
        low, high = self.spec.rating_range
        outside: Bools = (ratings < low) | (ratings > high)
        return outside

    def _reject(self, chunk: Chunk, name: str | None, bad: Bools, reason: str) -> None:
        if name is not None and bad.any():
            values = col.text(_cells(chunk.table, name)).filter(pa.array(bad)).to_pylist()
            self.log.add_rows(self.file, chunk.lines[bad], name, values, reason)


def collect(
    src: TableSource,
    spec: InteractionsSpec,
    item_index: Mapping[str, int],
    log: RejectLog,
    spill: Path | None = None,
) -> EventTable:
    """Read and check the interaction table in chunks.

    In memory stay 24 bytes an event and, once a chunk, the ids of its users; context text goes to the file `spill`
    where one is given and is memory-mapped from there. Raises DataError for a missing column, TooManyRejects past the
    log's limit.
    """
    collector = _Collector(spec, item_index, src.name, log)
    before = log.rows[src.name]
    schema = pa.schema([(c, pa.large_string()) for c in spec.kept])
    held: list[pa.Table] = []
    with ExitStack() as stack:
        writer = None
        for n, chunk in enumerate(stream(src, log)):
            if n == 0:
                _require_all(chunk, src.name, spec)
            context = collector.add(chunk)
            if spec.kept and spill is not None:
                writer = writer or stack.enter_context(pa.ipc.new_file(str(spill), schema))
                writer.write_table(context.cast(schema))
            elif spec.kept:
                held.append(context.cast(schema))
    if spec.kept and spill is not None:
        context = pa.ipc.open_file(pa.memory_map(str(spill))).read_all()
    else:
        context = pa.concat_tables(held) if held else schema.empty_table()
    return _ordered(collector, context, src.name, log, before)


def _require_all(chunk: Chunk, file: str, spec: InteractionsSpec) -> None:
    require(chunk.table, spec.user, file, "user")
    require(chunk.table, spec.item, file, "item")
    for role, name in (("timestamp", spec.timestamp), ("rating", spec.rating)):
        if name is not None:
            require(chunk.table, name, file, role)
    for name in spec.kept:
        require(chunk.table, name, file, "review" if name == spec.review else "context")


def _ordered(collector: _Collector, context: pa.Table, file: str, log: RejectLog, before: int) -> EventTable:
    """Sort by user and time and take off duplicates."""
    users, ids = _users(collector.users)
    collector.users.clear()
    dtypes = (np.int32, np.float64, np.float32, np.int64)
    empty = tuple(np.empty(0, dtype=d) for d in dtypes)
    items, times, ratings, lines = (np.concatenate(arrays) for arrays in zip(empty, *collector.parts, strict=True))
    collector.parts.clear()
    order, twice = time_order(users, items, times)
    if twice.any():
        rows = np.sort(order[twice])
        item_ids = list(collector.item_index)
        values = [f"{ids[users[r]]} {item_ids[items[r]]} {_time(times[r])}".rstrip() for r in rows]
        log.add_rows(file, lines[rows], collector.spec.item, values, DUPLICATE)
        order = order[~twice]
    total = len(order) + log.rows[file] - before
    log.settle(file, total)
    columns = {name: context[name] for name in context.column_names}
    return EventTable(ids, users[order], items[order], times[order], ratings[order], order, columns, total)


def _time(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.15g}"


def time_order(users: Codes, items: Codes, times: NDArray[np.float64]) -> tuple[Ints, Bools]:
    """(order int64 [E], duplicate bool [E] in that order): by user, oldest first, ties in file order.

    An event without a time counts as older than all with one, so it is never taken for the newest.
    """
    keys = np.where(np.isnan(times), -np.inf, times)
    order = np.lexsort((keys, users)).astype(np.int64)
    u, k = users[order], keys[order]
    tie = (u[1:] == u[:-1]) & (k[1:] == k[:-1])
    twice = np.zeros(len(order), dtype=bool)
    touching = np.flatnonzero(np.concatenate([tie, [False]]) | np.concatenate([[False], tie]))
    if len(order) and len(touching):
        run = np.concatenate([[0], np.cumsum(~tie)])[touching]
        inner = np.lexsort((items[order[touching]], run))
        r, i = run[inner], items[order[touching]][inner]
        same = (r[1:] == r[:-1]) & (i[1:] == i[:-1])
        twice[touching[inner[1:][same]]] = True
    return order, twice


def _cells(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    if name in table.column_names:
        return table[name]
    return pa.nulls(table.num_rows, pa.large_string())


def _codes(ids: pa.Array, index: Mapping[str, int], known: pa.Array) -> Codes:
    """int32 [rows]: each id's number, -1 where the index has none. known: the ids of the index, in its order.

    Many ids at once are looked up by Arrow, which reads all of `known` first; a few in the index itself. Either way a
    table of E events costs time in proportion to E and the size of the index, not to their product.
    """
    coded = ids.dictionary_encode()
    if len(known) <= 8 * len(coded.dictionary):
        found = pc.fill_null(pc.index_in(coded.dictionary, known), -1).to_numpy(zero_copy_only=False)
        table: Codes = found.astype(np.int32)
    else:
        table = np.array([index.get(i, -1) for i in coded.dictionary.to_pylist()], dtype=np.int32)
    taken: Codes = table[coded.indices.to_numpy(zero_copy_only=False)]
    return taken


def _users(parts: list[pa.DictionaryArray]) -> tuple[Codes, tuple[str, ...]]:
    """int32 [E], each event's user, and the users in order of first appearance."""
    if not parts:
        return np.empty(0, dtype=np.int32), ()
    coded = pa.chunked_array(parts).unify_dictionaries()
    codes = np.concatenate([c.indices.to_numpy(zero_copy_only=False) for c in coded.chunks]).astype(np.int32)
    return codes, tuple(coded.chunk(0).dictionary.to_pylist())


def gather(column: pa.ChunkedArray, rows: Ints) -> pa.Array:
    """Rows of a chunked column in any order, chunk by chunk, so that no copy of the whole column is made."""
    if not len(rows):
        return pa.array([], column.type)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.concatenate([[0], np.cumsum([len(c) for c in column.chunks])])
    cuts = np.searchsorted(ordered, starts)
    parts = [
        chunk.take(pa.array(ordered[a:b] - start))
        for chunk, start, a, b in zip(column.chunks, starts[:-1], cuts[:-1], cuts[1:], strict=True)
        if b > a
    ]
    back = np.empty(len(rows), dtype=np.int64)
    back[order] = np.arange(len(rows))
    return pa.concat_arrays(parts).take(pa.array(back))


def write(events: EventTable, item_ids: tuple[str, ...], spec: InteractionsSpec, path: Path) -> None:
    """Write cleaned events as Parquet in their order, in blocks; the file is marked as clean."""
    fields = [pa.field(spec.user, pa.string()), pa.field(spec.item, pa.string())]
    if spec.rating is not None:
        fields.append(pa.field(spec.rating, pa.float32()))
    if spec.timestamp is not None:
        fields.append(pa.field(spec.timestamp, pa.float64()))
    fields += [pa.field(c, pa.large_string()) for c in spec.kept]
    schema = pa.schema(fields, metadata={MARK: LAYOUT})
    with pq.ParquetWriter(path, schema, compression="zstd", dictionary_pagesize_limit=8 << 20) as writer:
        for block in _blocks(events, item_ids, spec, schema):
            writer.write_table(block)


def is_clean(path: Path) -> bool:
    """Whether `write` wrote the file; False also where it is no Parquet file, which whoever reads it will tell."""
    try:
        return path.suffix == ".parquet" and (pq.read_schema(path).metadata or {}).get(MARK) == LAYOUT
    except (pa.ArrowException, OSError):
        return False


def _blocks(
    events: EventTable, item_ids: tuple[str, ...], spec: InteractionsSpec, schema: pa.Schema
) -> Iterator[pa.Table]:
    users, items = pa.array(events.user_ids, pa.string()), pa.array(item_ids, pa.string())
    for start in range(0, len(events), WRITE_ROWS):
        stop = min(start + WRITE_ROWS, len(events))
        arrays = [
            users.take(pa.array(events.users[start:stop])),
            items.take(pa.array(events.items[start:stop])),
        ]
        if spec.rating is not None:
            arrays.append(pa.array(events.ratings[start:stop], pa.float32(), from_pandas=True))
        if spec.timestamp is not None:
            arrays.append(pa.array(events.timestamps[start:stop], pa.float64(), from_pandas=True))
        arrays += [events.context_rows(c, start, stop) for c in spec.kept]
        yield pa.table(arrays, schema=schema)
