"""Tables as rows with their lines: Parquet, CSV and JSON lines, files or URLs, streamed in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from palate.errors import DataError

FORMATS = (".parquet", ".csv", ".jsonl")
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
"""How text tables may be compressed."""
BATCH = 4096
"""Rows of a Parquet table held at once."""

Row = dict[str, Any]
Check = Callable[[list[str]], str | None]
"""What is wrong with a table's columns, or None."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be used. `column` is empty where the row as a whole is wrong."""

    column: str
    value: str
    reason: str


Line = tuple[int, Row | Bad]
"""A row with its line: lines of text files (the last one a row touches) and rows of Parquet, from 1."""


@dataclass(frozen=True)
class Table:
    """A file. path: as people know it; fs, at: the fsspec file system and the file's place in it; size: bytes.

    stamp: another where the file has changed: its time of change, its ETag, or what else the file system knows.
    """

    path: str
    fs: Any
    at: str
    size: int
    stamp: str

    @property
    def kind(self) -> str:
        """One of FORMATS."""
        return kind_of(self.path)

    @property
    def local(self) -> Path | None:
        """The file on this machine's disk, None for one elsewhere."""
        return Path(self.at) if "file" in _protocols(self.fs) else None

    def open(self) -> IO[bytes]:
        """The file's bytes. Raises DataError where they cannot be had."""
        try:
            file: IO[bytes] = self.fs.open(self.at, "rb")
        except Exception as error:  # each file system has errors of its own
            raise _unreadable(self.path, error) from error
        return file


def kind_of(path: str | Path) -> str:
    """A table's format by its extension, compression left out. Raises DataError for another one."""
    names = [s.lower() for s in Path(str(path)).suffixes]
    kind = names[-1] if names else ""
    if kind in PACKED and len(names) > 1 and names[-2] != ".parquet":
        kind = names[-2]
    if kind not in FORMATS:
        raise DataError(
            f"{path}: expected a file ending in {', '.join(FORMATS)}, got {Path(str(path)).suffix or 'none'}"
        )
    return kind


def find_tables(*places: str | Path) -> list[Table]:
    """The tables that files, folders, globs and fsspec URLs name; those of a folder or glob by name.

    In folders, names that begin with `_` or `.` and files of other formats are passed over. Raises DataError for a
    place without a table, for an empty file, and for one named twice.
    """
    found: dict[str, Table] = {}
    for place in places:
        for table in _expand(str(place)):
            if table.path in found:
                raise DataError(f"{table.path}: named twice; name each table once")
            found[table.path] = table
    return list(found.values())


def _expand(place: str) -> list[Table]:
    from fsspec.core import url_to_fs

    try:
        fs, at = url_to_fs(place)
        if not fs.exists(at):
            matches = sorted(p for p in fs.glob(at) if fs.isfile(p) and _is_table(p)) if set("*?[") & set(at) else []
            if not matches:
                raise DataError(f"expected a table at {place}, found nothing there")
            return [_table(place, fs, p) for p in matches]
        if not fs.isdir(at):
            kind_of(place.partition("::")[0])
            return [_table(place, fs, at, whole=True)]
        inside = sorted(p for p in fs.find(at) if _is_table(p[len(at) :]))
    except DataError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise _unreadable(place, error) from error
    if not inside:
        raise DataError(f"{place}: expected a folder with tables ({', '.join(FORMATS)}), found none in it")
    return [_table(place, fs, p) for p in inside]


def _is_table(path: str) -> bool:
    parts = [p for p in path.split("/") if p]
    try:
        kind_of(path)
    except DataError:
        return False
    return not any(p.startswith(("_", ".")) for p in parts)


def _table(place: str, fs: Any, at: str, whole: bool = False) -> Table:
    about = fs.info(at)
    size = about.get("size")
    if size == 0:
        raise DataError(f"{place if whole else at}: expected a table, the file is empty")
    stamps = (about.get(k) for k in ("ETag", "etag", "mtime", "LastModified", "last_modified", "created"))
    path = place if whole else (at if "file" in _protocols(fs) else fs.unstrip_protocol(at))
    return Table(path, fs, at, int(size or 0), str(next((s for s in stamps if s), "")))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _unreadable(path: str, error: Exception) -> DataError:
    told = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return DataError(f"{path}: cannot be read: {told}")


class Reader:
    """The rows of one table with their lines. `share` says how much of it is read, 0..1.

    columns: those wanted; None: all. Rows that cannot be parsed come as Bad. Raises DataError for a file that is no
    table and for columns that `check` finds wrong.
    """

    def __init__(self, table: Table, check: Check, columns: Sequence[str] | None = None) -> None:
        self.table, self.check, self.columns = table, check, columns
        self.share = 0.0

    def __iter__(self) -> Iterator[Line]:
        read = {".parquet": self._parquet, ".csv": self._csv, ".jsonl": self._jsonl}[self.table.kind]
        try:
            yield from read()
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(f"{self.table.path}: expected UTF-8 text, got byte {byte:#x}; save it as UTF-8") from None
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise _unreadable(self.table.path, error) from error
        self.share = 1.0

    def _checked(self, names: list[str], line: int = 1) -> None:
        wrong = self.check(names)
        if wrong:
            raise DataError(f"{self.table.path}, line {line}: {wrong}")

    def _parquet(self) -> Iterator[Line]:
        yield from self.rows(0, None)

    def rows(self, first: int, end: int | None) -> Iterator[Line]:
        """Rows first .. end - 1 (None: to the last) of a Parquet table; whole row groups before them are not read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.table.local or self.table.open()) as file:
                names = file.schema_arrow.names
                self._checked(names)
                wanted = None if self.columns is None else [n for n in names if n in self.columns]
                total, at = file.metadata.num_rows, 0
                groups: list[int] = []
                last = total if end is None else min(end, total)
                start = 0
                for group in range(file.metadata.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    if at + size > first and at < last:
                        start = start if groups else at
                        groups.append(group)
                    at += size
                line = start
                for batch in file.iter_batches(BATCH, row_groups=groups, columns=wanted):
                    if line + len(batch) <= first:
                        line += len(batch)
                        continue
                    for row in batch.to_pylist():
                        line += 1
                        if line > last:
                            return
                        if line > first:
                            yield line, row
                    self.share = line / max(1, total)
        except pa.ArrowException as error:
            raise DataError(f"{self.table.path}: expected a Parquet file: {error}") from None

    def _text(self, newline: str | None) -> Iterator[tuple[IO[str], IO[bytes]]]:
        """The file as text, and the raw bytes below it, whose position tells how far reading is."""
        from fsspec.compression import compr

        with self.table.open() as raw:
            packed = PACKED.get(Path(self.table.path).suffix.lower())
            stream = compr[packed](raw, mode="rb") if packed else raw
            with io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline) as text:
                yield text, raw

    def _told(self, raw: IO[bytes]) -> None:
        self.share = raw.tell() / self.table.size if self.table.size else 0.0

    def _csv(self) -> Iterator[Line]:
        csv.field_size_limit(1 << 28)  # a 10,000-item history in one cell is legal
        for file, raw in self._text(""):
            rows = csv.reader(file)
            try:
                names = [n.strip() for n in next(rows, [])]
                self._checked(names)
                for cells in rows:
                    if not cells:
                        continue
                    if len(cells) != len(names):
                        reason = f"expected {len(names)} cells, got {len(cells)}"
                        yield rows.line_num, Bad("", str(len(cells)), reason)
                        continue
                    yield rows.line_num, dict(zip(names, cells, strict=True))
                    if not rows.line_num % BATCH:
                        self._told(raw)
            except csv.Error as error:
                raise DataError(f"{self.table.path}: not a CSV table: {error}") from None

    def _jsonl(self) -> Iterator[Line]:
        for file, raw in self._text(None):
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    yield line, Bad("", text.strip()[:80], f"not JSON: {error}")
                    continue
                if not isinstance(row, dict):
                    yield line, Bad("", text.strip()[:80], "expected a JSON object")
                    continue
                self._checked(list(row), line)
                yield line, row
                if not line % BATCH:
                    self._told(raw)
