"""One column at a time, vectorised: text, ids, titles, numbers and times, each with a mask of what is bad."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from palate.data.formats import as_text
from palate.schema import Bools

Doubles = NDArray[np.float64]

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
MILLISECONDS = 1e11
"""A number at least this large is no longer seconds (it would be the year 5138) but milliseconds, and so
on."""
LATEST = 253_402_300_800.0
"""The year 10000 in seconds since 1970."""
EARLIEST = -62_135_596_800.0
"""The year 1."""
TURNS = "\\x{2028}\\x{2029}\\x{202a}-\\x{202e}\\x{2066}-\\x{2069}"
"""Separators of lines and what turns the direction of all text that follows."""
CONTROL = rf"\x00-\x1f\x7f-\x{{9f}}{TURNS}"
"""In a character class of RE2: what a terminal or a reader obeys and nobody sees."""
PROSE_CONTROL = rf"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{{9f}}{TURNS}"
"""The same without tab, line feed and carriage return."""
ARTICLE = r"(The|An|A|La|Le|Les|Il|Lo|Gli|El|Los|Las|Der|Die|Das|Det|Den|Un|Une|Una)"


def text(array: Any) -> pa.Array:
    """Any Arrow column as large_string, nothing missing: null becomes the empty string, whole floats lose
    `.0`."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_large_string(kind):
        pass
    elif pa.types.is_string(kind) or pa.types.is_string_view(kind) or _is_number(kind):
        array = array.cast(pa.large_string())
    elif pa.types.is_null(kind):
        array = pa.nulls(len(array), pa.large_string())
    else:
        array = pa.array([as_text(v) for v in array.to_pylist()], pa.large_string())
    return pc.fill_null(array, "")


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def ids(array: Any) -> pa.Array:
    """Ids: text without space around it. Bad where empty."""
    return pc.utf8_trim_whitespace(text(array))


def titles(array: Any) -> pa.Array:
    """Titles on one line: every run of white space and control characters is one space. Bad where empty."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(text(array), rf"[\s{CONTROL}]+", " "))


def prose(array: Any) -> pa.Array:
    """Text of one line or more without what commands a terminal; each such run is one space."""
    return pc.replace_substring_regex(text(array), rf"[{PROSE_CONTROL}]+", " ")


def is_empty(array: pa.Array) -> Bools:
    """bool [rows]: where a text column holds nothing."""
    mask: Bools = pc.equal(array, "").to_numpy(zero_copy_only=False)
    return mask


def numbers(array: Any) -> tuple[Doubles, Bools]:
    """Finite numbers, float64 [rows], NaN where the cell is empty; bool [rows]: neither finite nor empty."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if _is_number(array.type):
        missing = array.is_null().to_numpy(zero_copy_only=False)
        values: Doubles = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).copy()
        bad: Bools = ~np.isfinite(values) & ~missing
    else:
        cells = ids(array)
        empty = is_empty(cells)
        spelt = pc.match_substring_regex(cells, NUMBER)
        values = _parse(pc.if_else(spelt, cells, pa.scalar(None, pa.large_string())))
        bad = ~empty & ~np.isfinite(values)
    values[bad] = np.nan
    return values, bad


def _parse(cells: pa.Array) -> Doubles:
    try:
        parsed: Doubles = cells.cast(pa.float64()).to_numpy(zero_copy_only=False).copy()
    except pa.ArrowInvalid:
        parsed = np.array([_number(c) for c in cells.to_pylist()], dtype=np.float64)
    return parsed


def _number(cell: str | None) -> float:
    try:
        return math.nan if cell is None else float(cell)
    except ValueError:
        return math.nan


def times(array: Any) -> tuple[Doubles, Bools]:
    """Seconds since 1970, float64 [rows], NaN where the cell is empty; bool [rows]: not a time.

    Numbers are seconds, or by their size milli-, micro- or nanoseconds; text is ISO 8601, UTC where no zone
    is given; Arrow dates and timestamps are taken as they are.
    """
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        micros = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        values: Doubles = micros.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / 1e6
        return values, np.zeros(len(values), dtype=bool)
    values, bad = numbers(array)
    for _ in range(3):
        values = np.where(np.abs(values) >= MILLISECONDS, values / 1000.0, values)
    if bad.any() and not _is_number(array.type):
        rows = np.flatnonzero(bad)
        values[rows] = _dates(ids(array).take(pa.array(rows)))
        bad[rows] = np.isnan(values[rows])
    out = (values < EARLIEST) | (values >= LATEST)
    values[out] = np.nan
    return values, bad | out


def _dates(cells: pa.Array) -> Doubles:
    """ISO 8601 as seconds; NaN where a cell is none. Each distinct spelling is parsed once."""
    coded = cells.dictionary_encode()
    parsed = np.array([_date(c) for c in coded.dictionary.to_pylist()], dtype=np.float64)
    taken: Doubles = parsed[coded.indices.to_numpy(zero_copy_only=False)]
    return taken


def _date(cell: str) -> float:
    try:
        when = datetime.fromisoformat(cell)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan


def move_article(array: Any) -> pa.Array:
    """`Matrix, The` -> `The Matrix`, also before a second title in brackets and a year."""
    cells = text(array)
    cells = pc.replace_substring_regex(cells, r"^([^()]*), (L')( ?\(.*)?$", r"\2\1\3")
    return pc.replace_substring_regex(cells, rf"^([^()]*), {ARTICLE}( \(.*)?$", r"\2 \1\3")


def split_year(array: Any) -> tuple[pa.Array, pa.Array]:
    """`Toy Story (1995)` -> (`Toy Story`, `1995`); no year is the empty string."""
    cells = pc.utf8_trim_whitespace(text(array))
    parts = pc.extract_regex(cells, r"^(?P<title>.*\S)\s*\((?P<year>\d{4})\)$")
    title = pc.fill_null(pc.struct_field(parts, "title"), "")
    year = pc.fill_null(pc.struct_field(parts, "year"), "")
    return pc.if_else(pc.equal(year, ""), cells, title), year
