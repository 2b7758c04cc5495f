"""Tables as rows with their lines: Parquet, CSV and JSON lines, streamed in bounded memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palate.apps.candidates.rejects import Rejects
from palate.errors import DataError

FORMATS = (".parquet", ".csv", ".jsonl")
Row = tuple[int, dict[str, Any]]


def suffix(path: Path) -> str:
    """The file's format by its extension. Raises DataError for another one."""
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: expected a file ending in {', '.join(FORMATS)}, got {path.suffix or 'none'}")
    return path.suffix.lower()


def check_file(path: Path) -> str:
    """The format of a table that is there and not empty. Raises DataError otherwise, before anything is
    loaded.
    """
    kind = suffix(path)
    if not path.is_file():
        raise DataError(f"expected a table at {path}, found nothing there")
    if not path.stat().st_size:
        raise DataError(f"{path}: expected a table, the file is empty")
    return kind


def read_rows(path: Path, rejects: Rejects) -> Iterator[Row]:
    """(line, row) of any table file, streamed. `line` counts lines in text files and rows in Parquet, from 1.

    Rows that cannot be parsed go to `rejects`. Raises DataError for a missing, empty or unreadable file.
    """
    kind = check_file(path)
    read = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}[kind]
    yield from read(path, rejects)


def _read_parquet(path: Path, rejects: Rejects) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rejects.columns(file.schema_arrow.names)
            line = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
    except pa.ArrowException as error:
        raise DataError(f"{path}: expected a Parquet file: {error}") from None


def _read_csv(path: Path, rejects: Rejects) -> Iterator[Row]:
    csv.field_size_limit(1 << 28)  # a 10,000-item history in one cell is legal
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = [n.strip() for n in rows.fieldnames or ()]
            rows.fieldnames = names
            rejects.columns(names)
            for row in rows:
                if None in row or None in row.values():
                    got = len(names) + (len(row.get(None) or ()) if None in row else -list(row.values()).count(None))
                    rejects.add(rows.line_num, "", got, f"expected {len(names)} cells, got {got}")
                    continue
                yield rows.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#x}; save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV table: {error}") from None


def _read_jsonl(path: Path, rejects: Rejects) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    rejects.add(line, "", text.strip()[:80], f"not JSON: {error}")
                    continue
                if not isinstance(row, dict):
                    rejects.add(line, "", text.strip()[:80], "expected a JSON object")
                    continue
                rejects.columns(list(row), line)
                yield line, row
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#x}; save it as UTF-8"
        ) from None
