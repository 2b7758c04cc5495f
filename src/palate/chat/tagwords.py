"""Tags of the catalogue in what people write: "comedies", "not animated", "with Tom Hanks"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from palate.chat.words import EVERYDAY, GENERIC, NEGATORS, RESETS, WORD, stem
from palate.recommender.fields import Field

if TYPE_CHECKING:
    from palate.chat.wishes import _State

_PHRASE = 4
"""Words a tag may have."""
_ENDS = re.compile(r"[,.;:!?()]")
_BY = {
    "by": ("director", "author", "writer", "artist", "brand", "creator"),
    "with": ("actors", "actor", "cast", "stars"),
    "starring": ("actors", "actor", "cast", "stars"),
}


@dataclass
class Word:
    """A word of a message: where it stands, whether it is under a negation, whether it follows an "or"."""

    text: str
    start: int
    end: int
    no: bool
    either: bool
    negator: bool = False
    first: bool = False

    @property
    def low(self) -> str:
        return self.text.casefold()


def scan(text: str) -> list[Word]:
    """The words of a text. A negation reaches to the next punctuation mark or a word such as "but"."""
    words: list[Word] = []
    no = either = False
    last = 0
    for found in WORD.finditer(text):
        between = text[last : found.start()]
        low = found[0].casefold()
        fresh = not words or bool(re.search(r"[.!?]", between))
        if _ENDS.search(between) and low not in ("or", "nor"):
            no = False
        if low.endswith("n't") or low in NEGATORS:
            no = True
        elif low in RESETS and not (words and words[-1].negator):
            no = False  # but "nothing with ghosts" goes on
        either = either or low == "or" or "/" in between
        word = Word(found[0], found.start(), found.end(), no, either, low in NEGATORS or low.endswith("n't"), fresh)
        words.append(word)
        if low not in ("or", "a", "an", "some", "the"):
            either = False
        if low == "or":
            either = True
        last = found.end()
    return words


class TagWords:
    """The lexicon of a catalogue's tags: whole tags of every field, words of broad fields, surnames."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self.fields = fields
        self._whole: dict[str, list[tuple[str, str]]] = {}
        self._stems: dict[str, tuple[str, str]] = {}
        self._surnames: dict[str, dict[str, list[str]]] = {}
        for name, info in fields.items():
            for tag in sorted(info.tags, key=lambda t: -info.tags[t]):
                self._add(name, info, tag)

    def _add(self, name: str, info: Field, tag: str) -> None:
        low = " ".join(tag.casefold().split())
        if len(low) < 2 or low in GENERIC or low in NEGATORS or low == "unknown":
            return
        self._whole.setdefault(low, []).append((name, tag))
        if info.broad and " " not in low:
            self._stems.setdefault(stem(low), (name, tag))
        elif info.broad:
            self._whole.setdefault(low.replace(" ", "-"), []).append((name, tag))
        elif " " in low:
            self._surnames.setdefault(low.rsplit(" ", 1)[1], {}).setdefault(name, []).append(tag)

    def read(self, state: _State) -> None:
        """Move the tags of a message into its filters and hints."""
        words = scan(state.rest)
        spans: list[tuple[int, int]] = []
        at = 0
        while at < len(words):
            used = self._match(state, words, at)
            if used:
                spans.append((words[at].start, words[at + used - 1].end))
            at += used or 1
        for start, stop in reversed(spans):
            # not a GAP: "not sad or scary" must keep its negation over the word that was taken
            state.rest = state.rest[:start] + " " * (stop - start) + state.rest[stop:]

    def _match(self, state: _State, words: list[Word], at: int) -> int:
        """Try the phrases that start at a word, longest first; how many words were used."""
        word = words[at]
        for size in range(min(_PHRASE, len(words) - at), 0, -1):
            phrase = " ".join(w.low for w in words[at : at + size])
            options = [o for o in self._whole.get(phrase, []) if size > 1 or self._trusted(o[0], word)]
            if options:
                name, tag = self._choose(options, words, at)
                state.want(name, tag, word.no, word.either)
                return size
        if word.negator:
            return 0
        if word.low not in GENERIC and (hit := self._stems.get(stem(word.low))):
            state.want(*hit, word.no, word.either)
            return 1
        if self._hint(state, word) or self._surname(state, words, at):
            return 1
        return 0

    def _trusted(self, name: str, word: Word) -> bool:
        """May a single word stand for a tag? Names need their capital, away from a sentence's start."""
        return self.fields[name].broad or (word.text[:1].isupper() and not word.first)

    def _choose(self, options: list[tuple[str, str]], words: list[Word], at: int) -> tuple[str, str]:
        before = words[at - 1].low if at else ""
        for name, tag in options:
            if name.casefold() in _BY.get(before, ()):
                return name, tag
        return max(options, key=lambda o: self.fields[o[0]].tags.get(o[1], 0))

    def _hint(self, state: _State, word: Word) -> bool:
        """An everyday word: a wish that may be relaxed, but a firm "not" under a negation."""
        meant = EVERYDAY.get(word.low)
        hit = self._stems.get(stem(meant)) if meant else None
        if hit is None:
            return False
        if word.no:
            state.want(*hit, no=True)
            return True
        state.hints.append((word.low, {hit[0]: hit[1]}))
        return True

    def _surname(self, state: _State, words: list[Word], at: int) -> bool:
        word = words[at]
        people = self._surnames.get(word.low)
        if people is None or not self._trusted_name(word):
            return False
        before = words[at - 1].low if at else ""
        name = next((n for n in people if n.casefold() in _BY.get(before, ())), None)
        name = name or max(people, key=lambda n: sum(self.fields[n].tags[t] for t in people[n]))
        state.want(name, word.text, word.no, word.either)
        return True

    @staticmethod
    def _trusted_name(word: Word) -> bool:
        return word.text[:1].isupper() and not word.first and word.low not in GENERIC
