"""Remove a person from a data set folder, or show what it holds of them; every other row stays byte for byte.

Text tables are copied record by record in their own spelling, Parquet batch by batch; a table takes the old one's
place whole. The bytes of the old file are the file system's to reuse.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palate.data import columns as col
from palate.data import tables
from palate.data.events import DUPLICATE
from palate.data.formats import BLOCK, as_text, open_bytes
from palate.data.rejects import REJECTS_FILE, Reject
from palate.data.spec import DatasetSpec
from palate.data.tables import TableSource
from palate.errors import DataError, did_you_mean

Row = dict[str, Any]
MARK = "\ufeff"
"""The byte-order mark."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Rows of each table that held the person, and lines of rejects.jsonl (a failed import's too) with theirs."""

    interactions: int
    users: int
    rejects: int

    def __bool__(self) -> bool:
        return bool(self.interactions or self.users or self.rejects)


def held(folder: str | Path, user: str) -> dict[str, list[Row]]:
    """What a data set folder holds of a user: the rows of each table and the lines of rejects.jsonl.

    Raises DataError where the folder or a table cannot be read.
    """
    return _each(Path(folder).expanduser(), user, write=False)


def forget(folder: str | Path, user: str) -> Removed:
    """Remove a user's rows from the interactions, the user table and rejects.jsonl of a data set folder.

    A table without such rows is left alone. Stopped half-way, a further call goes on. Raises DataError as `held`.
    """
    found = _each(Path(folder).expanduser(), user, write=True)
    return Removed(**{name: len(rows) for name, rows in found.items()})


def _each(folder: Path, user: str, write: bool) -> dict[str, list[Row]]:
    spec = DatasetSpec.of(folder)
    found: dict[str, list[Row]] = {"interactions": [], "users": [], "rejects": []}
    lines: set[tuple[str, int]] = set()
    columns = {spec.interactions.path: spec.interactions.user}
    if spec.users is not None:
        columns[spec.users.path] = spec.users.id
    for name, table in (("interactions", spec.interactions), ("users", spec.users)):
        if table is None:
            continue
        src = tables.source(folder, table)
        copy = _copy_parquet if src.kind == "parquet" else _copy_text
        rows = _rewrite(src.path, partial(copy, src, columns[src.name], user), write)
        lines |= {(src.name, line) for line, _ in rows}
        found[name] = [row for _, row in rows]
    whole = folder.resolve()
    # that of the data set, and the one an import that failed has left beside it
    for path in (whole / REJECTS_FILE, whole.parent / f"{whole.name}.{REJECTS_FILE}"):
        if path.is_file():
            shows = partial(_shows, user=user, lines=lines, columns=columns)
            rows = _rewrite(path, partial(_copy_rejects, path, shows), write)
            found["rejects"] += [row for _, row in rows]
    return found


Found = list[tuple[int, Row]]
"""Rows taken out, each with its line."""
Copy = Callable[[IO[bytes] | None], Found]


def _rewrite(path: Path, copy: Copy, write: bool) -> Found:
    """What `copy` takes out of a file; with `write`, the file without it takes the place of the old one."""
    found = copy(None)
    if not write or not found:
        return found
    path = path.resolve()
    part = path.with_name(f".{path.name}.partial")
    try:
        with part.open("wb") as out:
            found = copy(out)
            out.flush()
            os.fsync(out.fileno())
        shutil.copymode(path, part)
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written anew: {error.strerror or error}; it is as it was") from None
    finally:
        part.unlink(missing_ok=True)
    return found


# --- text tables ------------------------------------------------------------------------------------------


def _copy_text(src: TableSource, column: str, user: str, out: IO[bytes] | None) -> Found:
    """Copy a text table without a user's records."""
    found: Found = []
    with _texts(src, out) as (lines, write):
        records = _json_records(lines) if src.kind == "jsonl" else _csv_records(lines, src, column)
        for line, raw, row in records:
            if row is not None and _is(user, row.get(column), row.get(None)):
                found.append((line, {k: v for k, v in row.items() if k is not None}))
            else:
                write(raw)
    return found


def _is(user: str, value: Any, rest: Sequence[str] | None) -> bool:
    """Whether a record is the user's. rest: all values of one with too few or too many, which could be anywhere."""
    values = [value] if rest is None else rest
    return any((as_text(v) or "").strip() == user for v in values)


@contextmanager
def _texts(src: TableSource, out: IO[bytes] | None) -> Iterator[tuple[Iterator[str], Callable[[str], object]]]:
    """The lines of a table with their ends, and how a line is written: in the table's encoding, zipped as it was."""
    with ExitStack() as stack:
        raw = stack.enter_context(open_bytes(src.path))
        try:
            text = io.TextIOWrapper(cast(Any, raw), encoding=src.encoding, newline="", errors="surrogateescape")
        except LookupError:
            raise DataError(f"{src.name}: no encoding is called {src.encoding!r}; try latin-1 or gb18030") from None
        if out is None:
            yield iter(text), lambda line: None
            return
        zipped = src.path.suffix.lower() == ".gz"
        sink = stack.enter_context(gzip.GzipFile(fileobj=out, mode="wb")) if zipped else out
        writer = io.TextIOWrapper(cast(Any, sink), encoding=src.encoding, newline="", errors="surrogateescape")
        yield iter(text), writer.write
        writer.flush()
        writer.detach()


Records = Iterator[tuple[int, str, dict[Any, Any] | None]]
"""(line from 1, the record as it is spelt, its values by column); the values of a malformed one are under None."""


def _csv_records(lines: Iterator[str], src: TableSource, column: str) -> Records:
    taken: list[str] = []

    def noted() -> Iterator[str]:
        for number, line in enumerate(lines):
            taken.append(line)
            yield line if number else line.removeprefix(MARK)

    header: list[str] = []
    line = 1
    limit = csv.field_size_limit(BLOCK)
    try:
        for values in _parsed(noted(), src):
            raw, at = "".join(taken), line
            line += len(taken)
            taken.clear()
            if not header:
                header = [name.strip() for name in values]
                if column not in header:
                    choice = did_you_mean(column, header)
                    raise DataError(f"{src.name}: expected a column {column!r}, found {', '.join(header)}; {choice}")
                yield at, raw, None
            elif len(values) == len(header):
                yield at, raw, dict(zip(header, values, strict=True))
            else:
                yield at, raw, {None: values, "record": raw.rstrip("\r\n")}
    except csv.Error as error:
        raise DataError(f"{src.name}: cannot be read as a table: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _parsed(lines: Iterator[str], src: TableSource) -> Iterator[list[str]]:
    if len(src.separator) > 1:
        return (line.rstrip("\r\n").split(src.separator) for line in lines)
    if not src.quote:
        return csv.reader(lines, delimiter=src.separator, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=src.separator)


def _json_records(lines: Iterator[str]) -> Records:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.removeprefix(MARK), parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            row = None
        yield number, line, row if isinstance(row, dict) else None


# --- Parquet, rejects -------------------------------------------------------------------------------------


def _copy_parquet(src: TableSource, column: str, user: str, out: IO[bytes] | None) -> Found:
    """Copy a Parquet table without a user's rows: its schema, the marks of its writer and its compression stay."""
    found: Found = []
    try:
        with pq.ParquetFile(src.path, memory_map=True) as file, ExitStack() as stack:
            schema = file.schema_arrow
            tables.require(schema.empty_table(), column, src.name, "user")
            writer = None
            if out is not None:
                writer = stack.enter_context(pq.ParquetWriter(out, schema, compression=_compression(file)))
            row = 1
            for batch in file.iter_batches(batch_size=tables.BATCH):
                mask = pc.equal(col.ids(batch.column(column)), user)
                rows = pc.indices_nonzero(mask).to_pylist()
                found += [(row + n, values) for n, values in zip(rows, batch.filter(mask).to_pylist(), strict=True)]
                if writer is not None:
                    writer.write_batch(batch.filter(pc.invert(mask)))
                row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{src.name}: cannot be read as parquet: {' '.join(str(error).split())}") from None
    return found


def _compression(file: pq.ParquetFile) -> str:
    if not file.metadata.num_row_groups or not file.metadata.num_columns:
        return "zstd"
    name = str(file.metadata.row_group(0).column(0).compression).lower()
    return {"uncompressed": "none", "lz4_raw": "lz4"}.get(name, name)


def _copy_rejects(path: Path, shows: Callable[[Reject], bool], out: IO[bytes] | None) -> Found:
    found: Found = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                theirs = shows(Reject(**row))
            except (ValueError, TypeError):
                theirs = False
            if theirs:
                found.append((number, row))
            elif out is not None:
                out.write(line)
    return found


def _shows(reject: Reject, user: str, lines: set[tuple[str, int]], columns: dict[str, str]) -> bool:
    """Whether a reject is about a row of the user's: one just taken out, or one of the tables this set was made of."""
    if (reject.file, reject.line) in lines:
        return True
    if reject.kind != "row":
        return False
    if reject.reason == DUPLICATE:
        return f"{reject.value} ".startswith(f"{user} ")
    if reject.column == "":  # a whole record, as it was spelt
        return re.search(rf"(?<!\w){re.escape(user)}(?!\w)", reject.value) is not None
    return reject.column in columns.values() and reject.value.strip() == user
