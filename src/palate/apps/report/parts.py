"""What a report is made of, whatever it is written as: sections of tables, figures, lists and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from palate.recommender.page import Picture


@dataclass(frozen=True)
class Cell:
    """A number and what stands small beside it. best: the best of its column."""

    text: str
    small: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of a label and cells under headings; the first heading is that of the labels."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""
    folded: bool = False
    """A table that only repeats a figure: a page shows it on demand."""

    kind = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG markup; alt says in words what it shows."""

    svg: str
    alt: str
    caption: str

    kind = "figure"


@dataclass(frozen=True)
class Lines:
    """Sentences, as a list."""

    lines: Sequence[str]

    kind = "lines"


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    rows: Sequence[tuple[str, str]]

    kind = "facts"


@dataclass(frozen=True)
class Card:
    """One item of an example."""

    title: str
    beside: str = ""
    picture: Picture | None = None
    held_out: bool = False


@dataclass(frozen=True)
class Shelf:
    """A row of cards under a heading; ordered: their places are ranks."""

    heading: str
    cards: Sequence[Card]
    note: str = ""
    ordered: bool = False


@dataclass(frozen=True)
class Example:
    """One user: what they chose, what was held out, what each system put first."""

    heading: str
    shelves: Sequence[Shelf]
    note: str = ""

    kind = "example"


Part = Table | Figure | Lines | Facts | Example


@dataclass(frozen=True)
class Section:
    """Some parts under a heading. anchor: its name in a link."""

    anchor: str
    heading: str
    lead: str = ""
    parts: Sequence[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A whole report. foot: one sentence a reader of the main table needs."""

    title: str
    lead: str
    main: Table
    sections: Sequence[Section]
