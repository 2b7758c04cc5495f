"""What a conversation hands out: whole answers, and the pieces they are streamed in."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from palate.chat.cards import cards

if TYPE_CHECKING:
    from palate.chat.finding import Legal
    from palate.chat.wishes import Said, Wish
    from palate.recommender import Recommendation
    from palate.recommender.explain import Explanation


@dataclass(frozen=True)
class Answer:
    """What chat says: the text, and the items it names, best first (none where it asks back).

    explanation: where the answer says why an item fits, what that is drawn from.
    """

    text: str
    items: tuple[Recommendation, ...] = ()
    explanation: Explanation | None = None

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        if self.explanation is not None:
            return self.explanation._repr_html_()
        return cards(self.text if not self.items else self.text.split("\n", 1)[0], self.items)


@dataclass(frozen=True)
class Piece:
    """A part of an answer's text as it comes; `item` where the part is the line that names one."""

    text: str
    item: Recommendation | None = None

    def __str__(self) -> str:
        return self.text


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Step:
    """A piece, and what the conversation has to remember once it is handed out."""

    piece: Piece
    take: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Turn:
    """One message understood, before any model runs: what to answer with.

    reply: a text that needs no items; wish, said, legal: items are to be found, for a wish that these messages make
    up; why: the item to explain.
    """

    reply: str = ""
    wish: Wish | None = None
    said: tuple[Said, ...] = ()
    legal: Legal | None = None
    why: str | None = None


Stream = Generator[Piece, None, Answer]
"""Pieces whose texts join to the text of the Answer that is returned at the end."""


def drained(stream: Stream) -> Answer:
    """Run a stream to its end, for the answer alone."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
