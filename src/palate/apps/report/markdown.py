"""A report as Markdown, and its main table between two markers of another file."""

from __future__ import annotations

import re
from pathlib import Path

from palate.apps.report.parts import Card, Cell, Example, Facts, Figure, Lines, Part, Report, Section, Table
from palate.errors import ConfigError
from palate.evaluate.report import grid

BEGIN, END = "<!-- report:begin -->", "<!-- report:end -->"
_SPECIAL = re.compile(r"([\\`*\[\]#~])|\b(_)|(_)\b")


def text(value: str) -> str:
    """Text of strangers as Markdown that shows it letter by letter, on one line."""
    line = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(lambda m: f"\\{m[0]}", line)


def table(part: Table) -> str:
    """A Markdown table with its note below; the best of a column is bold."""
    rows = [[text(name), *map(_cell, cells)] for name, cells in part.rows]
    shown = grid([text(h) for h in part.headings], rows)
    return f"{shown}\n\n{text(part.note)}" if part.note else shown


def _cell(cell: Cell) -> str:
    value = f"**{text(cell.text)}**" if cell.best else text(cell.text)
    return f"{value} {text(cell.small)}".strip()


def markdown(report: Report) -> str:
    """The whole report; figures are told in words, pictures of cards left out."""
    parts = [f"# {text(report.title)}", text(report.lead), table(report.main)]
    parts += [_section(s) for s in report.sections]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    parts = [f"## {text(section.heading)}", *([text(section.lead)] if section.lead else [])]
    return "\n\n".join([*parts, *map(_part, section.parts)])


def _part(part: Part) -> str:
    match part:
        case Table():
            return f"### {text(part.caption)}\n\n{table(part)}"
        case Figure():
            return f"Figure: {text(part.alt)}"
        case Lines():
            return "\n".join(f"- {text(line)}" for line in part.lines)
        case Facts():
            return "\n".join(f"- {text(name)}: {text(value)}" for name, value in part.rows)
        case Example():
            return _example(part)


def _example(part: Example) -> str:
    shown = [f"### {text(part.heading)}"]
    for shelf in part.shelves:
        cards = [_card(card, shelf.ordered, n) for n, card in enumerate(shelf.cards, 1)]
        shown.append(f"{text(shelf.heading)} ({text(shelf.note)}): {'; '.join(cards) or 'nothing'}")
    return "\n\n".join([*shown, *([text(part.note)] if part.note else [])])


def _card(card: Card, ordered: bool, place: int) -> str:
    title = f"{text(card.title)} (held out)" if card.held_out and ordered else text(card.title)
    beside = f", {text(card.beside)}" if card.beside else ""
    marked = f"**{title}**" if card.held_out else title
    return f"{place}. {marked}{beside}" if ordered else f"{marked}{beside}"


def between(document: str, name: str) -> str:
    """What stands between the markers of a document. ConfigError where each is not there once, in order."""
    start, end = document.find(BEGIN), document.find(END)
    if document.count(BEGIN) != 1 or document.count(END) != 1 or end < start:
        raise ConfigError(
            f"{name}: expected the lines {BEGIN} and {END}, each once and in this order, found "
            f"{document.count(BEGIN)} and {document.count(END)}; write them where the table shall stand"
        )
    return document[start + len(BEGIN) : end].strip()


def put_into(path: Path, part: Table) -> None:
    """Put a table between the markers of a file; nothing else of it changes."""
    try:
        document = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--into: expected a text file at {path} ({error})") from None
    between(document, str(path))
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_bytes(f"{head}{BEGIN}\n{table(part)}\n{END}{tail}".encode())
