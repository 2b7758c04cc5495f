"""Untrusted text made safe, and the in-band marks that stand for history, candidates and soft tokens.

A mark is one private-use character. Every value from a catalogue or a user loses all private-use characters
before it meets a template, so no title can forge a mark.
"""

from __future__ import annotations

import re
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
# What Unicode calls default-ignorable outside those categories (joiners, fillers, variation selectors): a message
# can be spelled with them that no reader of the title sees
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_BRAILLE_BLANK = "\u2800"
# Whatever could pass for the quotation marks that stand around a title
_QUOTES = str.maketrans(dict.fromkeys('"“”„‟＂″〝〞〟«»', "'"))


def sanitize(text: str, limit: int) -> str:
    """One clean line of at most `limit` characters.

    Newlines, tabs and runs of blanks become one space; control, format (zero-width, bidi, BOM), surrogate,
    private-use and all other invisible characters are removed.
    """
    # a field may be a whole book: look only at as much of it as could survive
    text = text[: 4 * limit + 64]
    if not text.isascii():
        text = _INVISIBLE.sub("", text.replace(_BRAILLE_BLANK, " "))
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


def quoted(text: str) -> str:
    """Clean text between quotation marks that nothing in it can close."""
    return f"\u201c{text.translate(_QUOTES)}\u201d"


@dataclass(frozen=True, slots=True)
class Caps:
    """How much of an item's text is shown, in characters: of any field, and of its title (None: as of any field).

    quote: whether titles stand between quotation marks.
    """

    field: int
    title: int | None = None
    quote: bool = False

    def title_of(self, item: Item, quote: bool) -> str:
        """The item's title as a prompt shows it; its id where nothing of the title can be read."""
        most = self.field if self.title is None else min(self.title, self.field)
        title = sanitize(item.title, most) or sanitize(item.item_id, most) or "?"
        return quoted(title) if self.quote and quote else title


@dataclass(frozen=True, slots=True)
class ItemView:
    """What a template sees of an item: clean text only. `details` are the shown fields' values, in order."""

    title: str
    details: tuple[str, ...]
    text: Mapping[str, str]

    @classmethod
    def of(cls, item: Item, fields: Iterable[str], caps: Caps, quote: bool = True) -> ItemView:
        """quote: False where the title is an answer, which has no marks around it whatever the caps say."""
        text = sanitize_pairs(item.text, caps.field)
        return cls(caps.title_of(item, quote), tuple(text[f] for f in fields if f in text), text)


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
