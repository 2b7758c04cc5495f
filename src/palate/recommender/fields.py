"""What a catalogue's text fields hold: numbers, tags or prose; read from the values, never from a domain's
names.

Chat looks up words in the tags, filters read the numbers, reasons name the tags two items share.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from palate.recommender.filters import number
from palate.schema import Item

Kind = Literal["number", "tags", "prose"]
_CELL = re.compile(r"^\s*[^\w\s]?\s*-?\d[\d,.]*(?:\s*h\w*\s*\d*)?\s*([^\W\d_]{0,12})\.?\s*$")
_SPLIT = re.compile(r"\s*[|;,]\s*")
ITEMS = 100_000
"""Items read to learn what the fields hold."""
SAMPLE = 20_000
"""Values looked at to decide what a field holds."""


@dataclass(frozen=True)
class Field:
    """One text field. tags: tag as written -> number of items; low, high: range of a number field.

    separator: how several tags share a cell ("," stands for any of , ; |), "" where a cell is one tag.
    broad: few tags over many items (genres), not names (actors).
    """

    name: str
    kind: Kind
    unit: str = ""
    low: float = math.nan
    high: float = math.nan
    separator: str = ""
    tags: Mapping[str, int] = field(default_factory=dict)
    broad: bool = False

    @property
    def is_year(self) -> bool:
        return self.kind == "number" and self.low >= 1000 and self.high <= 2200

    def split(self, text: str) -> tuple[str, ...]:
        """The tags in one cell."""
        if self.kind != "tags" or not text.strip():
            return ()
        return _parts(text, self.separator)


def _parts(text: str, separator: str) -> tuple[str, ...]:
    if separator == ",":
        return tuple(p for p in _SPLIT.split(text.strip()) if p)
    return tuple(text.split()) if separator == " " else (text.strip(),)


def sampled(items: Mapping[str, Item], most: int = ITEMS) -> Iterator[Item]:
    """About `most` items (fewer than twice as many), evenly spaced, so always the same."""
    places = np.arange(0, len(items), max(1, len(items) // most))
    rows = getattr(items, "rows", None)  # a catalogue or a shelf reads them in blocks
    if rows is not None:
        return iter(rows(places))
    ids = list(items)
    return (items[ids[n]] for n in places.tolist())


def profile(items: Iterable[Item]) -> dict[str, Field]:
    """Field name -> what it holds, for every text field of the catalogue."""
    values: dict[str, list[str]] = {}
    total = 0
    for item in items:
        total += 1
        for name, text in item.text.items():
            cells = values.setdefault(name, [])
            if text.strip():
                cells.append(text)
    return {name: _field(name, cells, total) for name, cells in values.items()}


def _field(name: str, cells: list[str], total: int) -> Field:
    sample = cells[:: max(1, len(cells) // SAMPLE)]
    matches = [m for m in map(_CELL.match, sample) if m]
    if sample and len(matches) >= 0.8 * len(sample):
        numbers = [n for n in map(number, cells) if n is not None]
        unit = Counter(m[1].casefold() for m in matches).most_common(1)[0][0]
        return Field(name, "number", unit=unit, low=min(numbers), high=max(numbers))
    separator = _separator(sample)
    if separator is None:
        return Field(name, "prose")
    tags = Counter(t for cell in cells for t in dict.fromkeys(_parts(cell, separator)))
    broad = len(tags) <= max(40, total / 20) and sum(tags.values()) >= 2 * len(tags)
    return Field(name, "tags", separator=separator, tags=dict(tags), broad=broad)


def _separator(sample: list[str]) -> str | None:
    """How a field's cells split into tags, or None where they are prose."""
    if not sample:
        return None
    split = [_SPLIT.split(c.strip()) for c in sample]
    several = sum(len(p) > 1 for p in split) / len(sample)
    words = sum(len(x.split()) for p in split for x in p) / sum(map(len, split))
    if several >= 0.1 and words <= 4:
        return ","
    if sum(len(c.split()) for c in sample) / len(sample) > 5:
        return None
    # few words that recombine ("Action Comedy", "Action Drama") are tags; names are not: each has its own
    cells = {c.strip() for c in sample}
    vocabulary = {w for c in cells for w in c.split()}
    share = 1.5 if len(cells) <= 100 else 0.5
    recombine = len(vocabulary) <= share * len(cells) and any(" " in c for c in cells)
    return " " if recombine else ""


def shared(a: Item, b: Item, fields: Mapping[str, Field]) -> dict[str, tuple[str, ...]]:
    """Field -> tags both items carry, in the order of the first."""
    out = {}
    for name, info in fields.items():
        others = {t.casefold() for t in info.split(b.text.get(name, ""))}
        both = tuple(t for t in dict.fromkeys(info.split(a.text.get(name, ""))) if t.casefold() in others)
        if both:
            out[name] = both
    return out


def rarity(tag: str, info: Field, total: int) -> float:
    """How much a shared tag says: log(N / items that carry it), 0 for a tag on every item."""
    return math.log(max(total, 1) / max(1, info.tags.get(tag, 1)))
