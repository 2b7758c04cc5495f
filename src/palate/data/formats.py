"""Reading text tables: CSV with any separator, and JSON Lines, with the line of every row, good or bad."""

from __future__ import annotations

import csv as std_csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from palate.data.rejects import MAX_CHARS, Reject, RejectLog
from palate.errors import DataError
from palate.schema import Ints

if TYPE_CHECKING:
    from palate.data.tables import TableSource

BLOCK = 16 << 20
"""Bytes of text parsed at a time; a single row may not be longer."""
JSON_ROWS = 50_000
UNUSED = "\x1f"
"""The unit separator: splits nothing in practice, so a line comes back whole."""


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes, unzipped where its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


@contextmanager
def open_text(src: TableSource) -> Iterator[IO[str]]:
    """A table's text in its encoding, a byte-order mark skipped. DataError where nothing is called so."""
    plain = src.encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    with open_bytes(src.path) as raw:
        try:
            text = io.TextIOWrapper(cast(Any, raw), encoding="utf-8-sig" if plain else src.encoding, newline="\n")
        except LookupError:
            raise DataError(f"{src.name}: no encoding is called {src.encoding!r}; try latin-1 or gb18030") from None
        with text:
            yield text


def read_csv(src: TableSource, log: RejectLog) -> Iterator[tuple[pa.Table, Ints]]:
    """Chunks of text columns with line numbers; rows with too few or too many columns are rejected."""
    header = src.header or _header(src)
    wide = len(src.separator) > 1
    names = ["line"] if wide else list(header)
    ragged: list[tuple[int, int, str]] = []

    def on_ragged(row: Any) -> str:
        ragged.append((row.number, row.actual_columns, row.text))
        return "skip"

    rows = _Lines(src, log, len(header), skipped=0 if src.header else 1)
    with open_bytes(src.path) as raw:
        try:
            reader = pa_csv.open_csv(raw, **_options(src, names, wide, on_ragged))
            for batch in reader:
                table = pa.Table.from_batches([batch])
                lines = rows.number(table, ragged)
                if wide:
                    table, lines = _split(table["line"], header, src, lines, log)
                if table.num_rows:
                    rows.seen = True
                    yield table, lines
        except (pa.ArrowInvalid, UnicodeError) as error:
            # a file of nothing but its header, with or without a line end
            if "Empty CSV" not in str(error) and "Could not skip initial" not in str(error):
                _explain(src, error)
    rows.number(pa.table({}), ragged)
    if not rows.seen:
        yield pa.table({n: pa.array([], pa.string()) for n in header}), np.empty(0, dtype=np.int64)


def _options(src: TableSource, names: list[str], wide: bool, on_ragged: Any) -> dict[str, Any]:
    quote = src.quote and not wide
    return {
        "read_options": pa_csv.ReadOptions(
            use_threads=False,  # only then does Arrow number the ragged rows
            block_size=BLOCK,
            column_names=names,
            skip_rows=0 if src.header else 1,
            encoding=src.encoding,
        ),
        "parse_options": pa_csv.ParseOptions(
            delimiter=UNUSED if wide else src.separator,
            quote_char='"' if quote else False,
            newlines_in_values=quote,
            ignore_empty_lines=False,
            invalid_row_handler=on_ragged,
        ),
        "convert_options": pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, null_values=[]
        ),
    }


def _header(src: TableSource) -> tuple[str, ...]:
    """Column names of the first line; DataError where there is none or a name comes twice."""
    try:
        with open_text(src) as text:
            line = text.readline(BLOCK).rstrip("\r\n")
    except UnicodeError as error:  # punycode and idna have errors of their own
        _explain(src, error)
    if not line.strip():
        raise DataError(f"{src.name}: expected a header line with column names, the first line is empty")
    if len(src.separator) > 1:
        names = line.split(src.separator)
    elif src.quote:
        names = next(std_csv.reader([line], delimiter=src.separator))
    else:
        names = line.split(src.separator)
    names = [n.strip() for n in names]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"{src.name}, line 1: the column name {twice[0]!r} comes twice; rename one")
    return tuple(names)


class _Lines:
    """Turns Arrow's record numbers into lines: a quoted value may span several, a ragged row is skipped."""

    def __init__(self, src: TableSource, log: RejectLog, width: int, skipped: int) -> None:
        self.src, self.log, self.width = src, log, width
        self.record = skipped + 1
        self.extra = 0
        self.seen = False

    def number(self, table: pa.Table, ragged: list[tuple[int, int, str]]) -> Ints:
        """Lines of the batch's rows, int64 [rows]; ragged rows up to its end are rejected and taken off."""
        ragged.sort()
        records = self._records(table.num_rows, np.array([n for n, _, _ in ragged], dtype=np.int64))
        past = int(records[-1]) if len(records) else None
        bad = [r for r in ragged if past is None or r[0] < past]
        del ragged[: len(bad)]
        spans = np.zeros(table.num_rows, dtype=np.int64)
        for column in table.columns:
            if pc.any(pc.match_substring(column, "\n")).as_py():
                spans += pc.count_substring(column, "\n").to_numpy()
        bad_spans = np.array([text.count("\n") for _, _, text in bad], dtype=np.int64)
        merged = np.concatenate([records, np.array([n for n, _, _ in bad], dtype=np.int64)])
        order = np.argsort(merged)
        ordered = np.concatenate([spans, bad_spans])[order]
        lines = np.empty_like(merged)
        lines[order] = merged[order] + self.extra + np.cumsum(ordered) - ordered
        self.extra += int(ordered.sum())
        for line, (_, came, text) in zip(lines[len(records) :], bad, strict=True):
            reason = f"expected {self.width} columns, got {came}"
            self.log.add(Reject(self.src.name, int(line), "", text[:MAX_CHARS], reason))
        return lines[: len(records)]

    def _records(self, rows: int, ragged: Ints) -> Ints:
        """Record numbers of the next `rows` good rows: the numbers that no ragged row has taken."""
        count = np.arange(rows, dtype=np.int64)
        good_before = ragged - self.record - np.arange(len(ragged))
        records = self.record + count + np.searchsorted(good_before, count, side="right")
        if rows:
            self.record = int(records[-1]) + 1
        return records


def _split(
    column: pa.ChunkedArray, header: Sequence[str], src: TableSource, lines: Ints, log: RejectLog
) -> tuple[pa.Table, Ints]:
    """Columns of lines joined by a separator longer than one character."""
    parts = pc.split_pattern(column.combine_chunks(), src.separator)
    counts = pc.list_value_length(parts).to_numpy(zero_copy_only=False)
    good = counts == len(header)
    for n in np.flatnonzero(~good):
        text = str(column[int(n)])[:MAX_CHARS]
        log.add(Reject(src.name, int(lines[n]), "", text, f"expected {len(header)} columns, got {int(counts[n])}"))
    kept = parts.filter(pa.array(good))
    return pa.table({name: pc.list_element(kept, i) for i, name in enumerate(header)}), lines[good]


def _explain(src: TableSource, error: Exception) -> Any:
    """Raise the DataError for an unreadable text table; an encoding error names the byte."""
    if isinstance(error, UnicodeError) and not isinstance(error, UnicodeDecodeError):
        raise DataError(f"{src.name}: expected {src.encoding} text: {error}; set the table's encoding in dataset.yaml")
    if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
        raise DataError(f"{src.name}: {bad_byte(src.path, src.encoding)}") from None
    if "straddling" in str(error):
        raise DataError(
            f"{src.name}: one row is longer than {BLOCK >> 20} MiB; expected an unclosed quote: close it, "
            "or set `quote: false` for this table in dataset.yaml"
        ) from None
    raise error


def bad_byte(path: Path, encoding: str) -> str:
    """Where a file stops being text in `encoding`, and how to say what it is."""
    import codecs

    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    with open_bytes(path) as raw:
        while True:
            block = raw.read(1 << 20)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = offset - held + error.start
                return (
                    f"expected {encoding} text, byte {at:,} is 0x{error.object[error.start]:02x}; "
                    "set the table's encoding in dataset.yaml, as in `encoding: latin-1`, or convert the file"
                )
            if not block:
                return f"expected {encoding} text; set the right `encoding` for this table in dataset.yaml"
            offset += len(block)


def read_jsonl(src: TableSource, log: RejectLog) -> Iterator[tuple[pa.Table, Ints]]:
    """Chunks of text columns from one JSON object a line; lines that are none are rejected. Blank lines are
    not rows."""
    wanted = None if src.columns is None else set(src.columns)
    rows: list[dict[str, str | None]] = []
    lines: list[int] = []
    names: dict[str, None] = {}
    done = False
    with open_text(src) as text:
        numbered = enumerate(_decoded(text, src), 1)
        for number, line in numbered:
            if not line.strip():
                continue
            values = _object(line, number, wanted, src, log)
            if values is None:
                continue
            rows.append(values)
            names.update(dict.fromkeys(values))
            lines.append(number)
            if len(rows) >= JSON_ROWS:
                done = True
                yield _columns(rows, names), np.array(lines, dtype=np.int64)
                rows, lines = [], []
    if rows or not done:
        yield _columns(rows, names), np.array(lines, dtype=np.int64)


def _decoded(text: IO[str], src: TableSource) -> Iterator[str]:
    try:
        yield from text
    except UnicodeDecodeError:
        raise DataError(f"{src.name}: {bad_byte(src.path, src.encoding)}") from None


def _object(
    line: str, number: int, wanted: set[str] | None, src: TableSource, log: RejectLog
) -> dict[str, str | None] | None:
    """The wanted values of a JSON object as text, numbers as they are spelt; None and a reject where it is not one."""
    try:
        values = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        if "\\u" in line:
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        reason = "expected text, a value holds half of a character (a lone surrogate)"
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}"
    else:
        if isinstance(values, dict):
            try:
                return {k: as_text(v) for k, v in values.items() if wanted is None or k in wanted}
            except RecursionError:
                reason = "a value is nested too deeply"
        else:
            reason = "expected a JSON object"
    shown = line.strip()[:MAX_CHARS].encode(errors="replace").decode()
    log.add(Reject(src.name, number, "", shown, reason))
    return None


def _columns(rows: list[dict[str, str | None]], names: dict[str, None]) -> pa.Table:
    return pa.table({n: pa.array([r.get(n) for r in rows], pa.large_string()) for n in names})


def as_text(value: Any) -> str | None:
    """One value as text: lists joined by commas, mappings as `key: value`, true and false in small
    letters."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):
        return "; ".join(f"{k}: {t}" for k, v in value.items() if (t := as_text(v)))
    if isinstance(value, (list, tuple)):
        return ", ".join(t for v in value if (t := as_text(v)))
    return str(value)
