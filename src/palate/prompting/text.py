"""Untrusted text made safe, and the in-band marks that stand for history, candidates and soft tokens.

A mark is one private-use character. Every value from a catalogue or a user loses all private-use characters
before it meets a template, so no title can forge a mark.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from palate.prompting.sentiment import sentiment
from palate.schema import Event, Item, Wording

HISTORY_MARK = "\ue000"
CANDIDATES_MARK = "\ue001"
MEDIA_MARK = "\ue002"
TURN_MARKS = ("\ue003", "\ue004")

# Cc control, Cf format (BOM, zero-width, bidi, tags), Cs lone surrogates, Co private use
_REFUSED = frozenset({"Cc", "Cf", "Cs", "Co"})


def sanitize(text: str, limit: int) -> str:
    """One clean line of at most `limit` characters.

    Newlines, tabs and runs of blanks become one space; control, format (zero-width, bidi, BOM), surrogate and
    private-use characters are removed.
    """
    # a field may be a whole book: look only at as much of it as could survive
    text = text[: 4 * limit + 64]
    if not text.isprintable():
        text = " ".join(text.split())
        text = "".join(c for c in text if unicodedata.category(c) not in _REFUSED)
    return " ".join(text.split())[:limit].rstrip()


def sanitize_pairs(pairs: Mapping[str, str], limit: int) -> dict[str, str]:
    """The same for names and values of a mapping; entries without a value are left out."""
    clean = ((sanitize(str(k), limit), sanitize(str(v), limit)) for k, v in pairs.items())
    return {k: v for k, v in clean if k and v}


def sanitize_wording(wording: Wording, limit: int) -> Wording:
    return Wording(*(sanitize(w, limit) for w in (wording.item, wording.items, wording.verb, wording.person)))


class Placeholder:
    """Prints as a mark; true in `{% if %}` only when there is something to put there."""

    __slots__ = ("_filled", "_mark")

    def __init__(self, mark: str, filled: bool) -> None:
        self._mark = mark
        self._filled = filled

    def __str__(self) -> str:
        return self._mark

    def __bool__(self) -> bool:
        return self._filled


@dataclass(frozen=True, slots=True)
class ItemView:
    """What a template sees of an item: clean text only. `details` are the shown fields' values, in order."""

    title: str
    details: tuple[str, ...]
    text: Mapping[str, str]

    @classmethod
    def of(cls, item: Item, fields: Iterable[str], limit: int) -> ItemView:
        text = sanitize_pairs(item.text, limit)
        title = sanitize(item.title, limit) or sanitize(item.item_id, limit) or "?"
        return cls(title, tuple(text[f] for f in fields if f in text), text)


@dataclass(frozen=True, slots=True)
class EventView:
    """What a template sees of an event. `rating` is text ("4", "3.5"), empty where there is none.

    review: the user's words, cut like any field; sentiment: positive, negative, or empty where they say neither. A
    template that has a rating should print that alone: it is the user's own verdict.
    """

    rating: str
    context: Mapping[str, str]
    review: str = ""

    @property
    def sentiment(self) -> str:
        return sentiment(self.review)

    @classmethod
    def of(cls, event: Event | None, limit: int) -> EventView:
        if event is None:
            return cls("", {})
        rating = event.rating
        known = rating is not None and rating == rating  # NaN means unknown
        return cls(
            format(rating, "g") if known else "", sanitize_pairs(event.context, limit), sanitize(event.review, limit)
        )
