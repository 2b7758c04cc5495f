"""Tables from CSV, TSV, JSON Lines, Parquet or Arrow batches, as streams of bounded chunks with line
numbers."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from palate.data import formats
from palate.data.rejects import RejectLog
from palate.data.spec import TableSpec
from palate.errors import DataError, did_you_mean
from palate.schema import Ints

Kind = Literal["csv", "jsonl", "parquet", "arrow"]
KINDS: dict[str, tuple[Kind, str]] = {
    ".csv": ("csv", ","),
    ".tsv": ("csv", "\t"),
    ".jsonl": ("jsonl", ""),
    ".ndjson": ("jsonl", ""),
    ".parquet": ("parquet", ""),
    ".pq": ("parquet", ""),
}
BATCH = 65_536
"""Rows of Parquet or Arrow read at a time, at least."""
LONGEST = 1 << 20
BATCH_BYTES = 16 << 20
"""Narrow tables are read in longer batches: so many rows or bytes at most."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table. lines: int64 [rows], where each row starts in its file, from 1 (the header
    counts; for Parquet and Arrow it is the row's number)."""

    table: pa.Table
    lines: Ints


@dataclass(frozen=True)
class TableSource:
    """Where a table comes from and how it is written.

    name: what rejects call it. header: column names where the file has no header line. columns: the only
    columns wanted (None: all). prepare: renames or derives columns, row by row (it must not add or drop
    rows). batches: gives Arrow batches instead of a file (kind "arrow").
    """

    path: Path
    name: str
    kind: Kind
    separator: str = ","
    quote: bool = True
    encoding: str = "utf-8"
    header: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    prepare: Callable[[pa.Table], pa.Table] | None = field(default=None, compare=False)
    batches: Callable[[], Iterator[pa.RecordBatch]] | None = field(default=None, compare=False)


def source(folder: Path, spec: TableSpec) -> TableSource:
    """The table a spec names, checked to lie inside the folder and to be of a known kind."""
    path = folder / spec.path
    try:
        inside = not Path(spec.path).is_absolute() and path.resolve().is_relative_to(folder.resolve())
        there = inside and path.is_file()
    except (OSError, ValueError) as error:  # too long, or text that no file system can spell
        raise DataError(f"{folder}: expected the path of a table, got {spec.path[:80]!r}: {error}"[:400]) from None
    if not inside:
        raise DataError(f"{folder}: expected table paths inside the folder, got {spec.path!r}; copy the table in")
    if not there:
        raise DataError(
            f"{folder}: expected a table at {spec.path!r}, found none; "
            f"{did_you_mean(spec.path, (p.name for p in folder.iterdir() if p.is_file()))}"
        )
    kind, separator = kind_of(path)
    return TableSource(path, spec.path, kind, spec.separator or separator, spec.quote, spec.encoding)


def kind_of(path: Path) -> tuple[Kind, str]:
    """Format and default separator by file name (`.gz` looks one suffix further)."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    if not suffixes or suffixes[-1] not in KINDS:
        raise DataError(
            f"{path.name}: expected a table ending in {', '.join(KINDS)} (text tables also with .gz), "
            f"got {''.join(path.suffixes) or 'no ending'!r}; rename or convert it"
        )
    return KINDS[suffixes[-1]]


def stream(src: TableSource, log: RejectLog) -> Iterator[Chunk]:
    """Chunks of a table, at least one (maybe without rows, so that its columns are known).

    Rows that cannot be read at all (ragged, not JSON) go to `log`.
    Raises DataError where the whole file cannot be read: empty, wrong encoding, corrupt.
    """
    try:
        for chunk in _raw(src, log):
            table = chunk.table if src.prepare is None else src.prepare(chunk.table)
            yield Chunk(table, chunk.lines)
    except (pa.ArrowException, OSError, EOFError, zlib.error, csv.Error, UnicodeError) as error:
        raise DataError(
            f"{src.name}: cannot be read as {src.kind}: {' '.join(str(error).split())}; "
            "check that the file is whole and that its ending tells its format"
        ) from None


def _raw(src: TableSource, log: RejectLog) -> Iterator[Chunk]:
    if src.kind == "csv":
        pairs = formats.read_csv(src, log)
    elif src.kind == "jsonl":
        pairs = formats.read_jsonl(src, log)
    else:
        pairs = _arrow(src)
    for table, lines in pairs:
        yield Chunk(table, lines)


def _arrow(src: TableSource) -> Iterator[tuple[pa.Table, Ints]]:
    if src.batches is not None:
        batches = src.batches()
        empty = None
    else:
        file = pq.ParquetFile(src.path, memory_map=True)
        known = set(file.schema_arrow.names)
        wanted = None if src.columns is None else [c for c in src.columns if c in known]
        empty = file.schema_arrow.empty_table()
        batches = file.iter_batches(batch_size=_batch(file.metadata), columns=wanted)
    row = 1
    for batch in batches:
        if batch.num_rows:
            batch.validate(full=True)  # text that is not UTF-8 would only be met much later
            yield pa.Table.from_batches([batch]), np.arange(row, row + batch.num_rows, dtype=np.int64)
            row += batch.num_rows
            empty = None
    if empty is not None and row == 1:
        yield empty, np.empty(0, dtype=np.int64)


def _batch(facts: pq.FileMetaData) -> int:
    """Rows to read at a time: as many as make a good batch of bytes."""
    size = sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
    return int(min(LONGEST, max(BATCH, BATCH_BYTES * facts.num_rows // max(1, size))))


def column_names(src: TableSource) -> tuple[str, ...]:
    """The columns of a table, read from its first chunk, after `prepare`."""
    chunk = next(stream(src, RejectLog(max_rejects=2**62)), None)
    return () if chunk is None else tuple(chunk.table.column_names)


def require(table: pa.Table, column: str, where: str, role: str) -> None:
    """DataError unless the table has the column."""
    if column not in table.column_names:
        raise DataError(
            f"{where}: expected a column {column!r} ({role}), found "
            f"{', '.join(table.column_names) or 'none'}; {did_you_mean(column, table.column_names)}; "
            f"name it under `{role}` in dataset.yaml"
        )
