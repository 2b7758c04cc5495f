"""Tags of the catalogue in what people write: "comedies", "not animated", "with Tom Hanks"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from palate.chat.nearwords import NearWords
from palate.chat.reading import State
from palate.chat.words import EMPTY, EVERYDAY, GENERIC, NEGATORS, NOUNS, RESETS, SYNONYMS, WORD, stem
from palate.recommender.fields import Field

if TYPE_CHECKING:
    from palate.chat.textmatch import TextMatch

_PHRASE = 4
"""Words a tag may have."""
_ENDS = re.compile(r"[,.;:!?()]")
_FIRM_RESETS = frozenset(("but", "just", "only", "please", "instead", "rather"))
_BY = {
    "by": ("director", "author", "writer", "artist", "brand", "creator"),
    "with": ("actors", "actor", "cast", "stars"),
    "starring": ("actors", "actor", "cast", "stars"),
}
_NAME = 0.84
"""Likeness from which a capitalised pair of words is taken for a name."""


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

    @property
    def capital(self) -> bool:
        return self.text[:1].isupper()


def scan(text: str) -> list[Word]:
    """The words of a text. A negation reaches to the next punctuation mark or a word such as "but".

    Words such as "with" end it only where it has met something: "no comedies with ..." but "nothing with ghosts".
    """
    words: list[Word] = []
    no = either = met = False
    last = 0
    for found in WORD.finditer(text):
        between = text[last : found.start()]
        low = found[0].casefold()
        negator = low in NEGATORS or low.endswith("n't")
        fresh = not words or bool(re.search(r"[.!?]", between))
        if _ENDS.search(between) and low not in ("or", "nor"):
            no = False
        if negator:
            no, met = True, False
        elif low in _FIRM_RESETS or (low in RESETS and met):
            no = False
        elif low not in GENERIC:
            met = True
        either = either or low == "or" or "/" in between
        words.append(Word(found[0], found.start(), found.end(), no, either, negator, fresh))
        if low not in ("or", "a", "an", "some", "the"):
            either = low == "or"
        last = found.end()
    return words


class TagWords:
    """The lexicon of a catalogue's tags: whole tags of every field, words of broad fields, names and surnames."""

    def __init__(self, fields: Mapping[str, Field], text: TextMatch | None = None, noun: str = "item") -> None:
        self.fields = fields
        self._whole: dict[str, list[tuple[str, str]]] = {}
        self._stems: dict[str, tuple[str, str]] = {}
        self._surnames: dict[str, dict[str, int]] = {}
        self._names: dict[str, list[str]] = {}
        self._codes: dict[str, tuple[str, str]] = {}
        broad: dict[str, tuple[str, str]] = {}
        for name, info in fields.items():
            codes = sum(n for t, n in info.tags.items() if t.upper() == t) > sum(info.tags.values()) / 2
            for tag in sorted(info.tags, key=lambda t: -info.tags[t]):
                if info.broad and codes:
                    self._codes.setdefault(tag.casefold(), (name, tag))
                elif self._add(name, info, tag) and info.broad:
                    broad.setdefault(" ".join(tag.casefold().split()), (name, tag))
        for alias, tag in SYNONYMS.items():
            if tag in self._whole or stem(tag) in self._stems:
                hit = self._stems.get(stem(tag)) or self._whole[tag][0]
                self._whole.setdefault(alias, []).append(hit)
        self.near = NearWords(broad, text, noun)
        self._spelled = sorted({*broad, *(t + "s" for t in broad), *(f"{t[:-1]}ies" for t in broad if t[-1] == "y")})

    def _add(self, name: str, info: Field, tag: str) -> bool:
        low = " ".join(tag.casefold().split())
        if len(low) < 2 or low in GENERIC or low in NEGATORS or low == "unknown":
            return False
        spellings = {low, low.replace("-", " ")} if info.broad else {low, *(p.strip() for p in low.split(","))}
        for spelled in spellings:
            self._whole.setdefault(spelled, []).append(
                (name, tag if spelled in (low, low.replace("-", " ")) else spelled)
            )
        if info.broad:
            if " " not in low:
                self._stems.setdefault(stem(low), (name, tag))
            return True
        for one in (s for s in spellings if " " in s):
            self._names.setdefault(one[0], []).append(one)
            parts = one.split(" ")
            for n in range(1, len(parts)):
                held = self._surnames.setdefault(" ".join(parts[n:]), {})
                held[name] = held.get(name, 0) + info.tags[tag]
        return False

    def known(self, word: str) -> bool:
        """Does a word name or hint at a tag?"""
        low = word.casefold()
        return low in self._whole or stem(low) in self._stems or low in EVERYDAY

    def read(self, state: State) -> None:
        """Move the tags of a message into its filters and hints."""
        words = scan(state.rest)
        spans: list[tuple[int, int]] = []
        loose: list[Word] = []
        at = 0
        while at < len(words):
            used = self._match(state, words, at)
            if used:
                spans.append((words[at].start, words[at + used - 1].end))
            elif not words[at].negator and not words[at].no and words[at].low not in EMPTY:
                loose.append(words[at])
            at += used or 1
        meant = self.near.meant(list(dict.fromkeys(w.text for w in loose if len(w.low) > 3 and not _named(w))))
        for word in loose:
            if word.text in meant:
                state.hint(word.low, *meant[word.text])
                spans.append((word.start, word.end))
        for start, stop in sorted(spans, reverse=True):
            # not a GAP: "not sad or scary" must keep its negation over the word that was taken
            state.rest = state.rest[:start] + " " * (stop - start) + state.rest[stop:]

    def _match(self, state: State, words: list[Word], at: int) -> int:
        """Try the phrases that start at a word, longest first; how many words were used."""
        word = words[at]
        for size in range(min(_PHRASE, len(words) - at), 0, -1):
            phrase = " ".join(w.low for w in words[at : at + size])
            options = [o for o in self._whole.get(phrase, []) if size > 1 or self._trusted(o[0], words, at)]
            if options:
                name, tag = self._choose(options, words, at)
                state.want(name, tag, word.no, word.either)
                return size
        if word.negator:
            return 0
        if word.low not in GENERIC and (hit := self._stems.get(stem(word.low))):
            state.want(*hit, word.no, word.either)
            return 1
        if used := self._code(state, words, at):
            return used
        if self._hint(state, word):
            return 1
        return self._name(state, words, at) or self._typo(state, word)

    def _trusted(self, name: str, words: list[Word], at: int) -> bool:
        """May a single word stand for a tag? Names need a capital that no sentence's start explains."""
        before_noun = at + 1 < len(words) and words[at + 1].low in NOUNS
        return self.fields[name].broad or (words[at].capital and (before_noun or not words[at].first))

    def _choose(self, options: list[tuple[str, str]], words: list[Word], at: int) -> tuple[str, str]:
        before = words[at - 1].low if at else ""
        for name, tag in options:
            if name.casefold() in _BY.get(before, ()):
                return name, tag
        return max(options, key=lambda o: self.fields[o[0]].tags.get(o[1], 0))

    def _code(self, state: State, words: list[Word], at: int) -> int:
        """Codes such as R and PG-13: after their field's name ("rated R"), as "R-rated", or written as they are."""
        word = words[at]
        if word.low in self.fields and at + 1 < len(words):
            hit = self._codes.get(words[at + 1].low)
            if hit is not None and hit[0] == word.low:
                self._want_code(state, hit, word)
                return 2
        head, _, tail = word.low.rpartition("-")
        hit = self._codes.get(head)
        if hit is not None and tail == hit[0]:
            self._want_code(state, hit, word)
            return 1
        hit = self._codes.get(word.low)
        if hit is not None and word.text == hit[1] and len(word.text) > 1 and hit[1].upper() == hit[1]:
            self._want_code(state, hit, word)
            return 2 if at + 1 < len(words) and words[at + 1].low == hit[0] else 1
        return 0

    def _want_code(self, state: State, hit: tuple[str, str], word: Word) -> None:
        """PG is not PG-13, though a filter for its words would find both."""
        name, tag = hit
        longer = [t for t in self.fields[name].tags if t.startswith(f"{tag}-")]
        state.want(name, {"any": tag, "not": longer} if longer else tag, word.no, word.either)

    def _hint(self, state: State, word: Word) -> bool:
        """An everyday word: a wish that may be relaxed, but a firm "not" under a negation."""
        hits = [hit for meant in EVERYDAY.get(word.low, ()) if (hit := self._stems.get(stem(meant)))]
        for name, tag in hits:
            if word.no:
                state.want(name, tag, no=True)
            else:
                state.hint(word.low, name, tag)
        return bool(hits)

    def _name(self, state: State, words: list[Word], at: int) -> int:
        """A surname ("De Niro"), or a full name typed wrongly ("Tom Hnaks"); how many words were used."""
        word = words[at]
        if not word.capital or word.low in GENERIC:
            return 0
        pair = words[at : at + 2]
        if len(pair) == 2 and pair[1].capital and pair[1].start - word.end == 1:
            typed = f"{word.low} {pair[1].low}"
            near = [n for n in self._names.get(typed[0], ()) if abs(len(n) - len(typed)) < 3]
            alike = get_close_matches(typed, near, n=1, cutoff=_NAME)
            if typed not in self._surnames and alike and alike[0] in self._whole:
                name, tag = self._choose(self._whole[alike[0]], words, at)
                state.want(name, tag, word.no, word.either)
                state.note("took_for", typed=f"{word.text} {pair[1].text}", meant=tag)
                return 2
        for size in (2, 1):
            part = words[at : at + size]
            people = self._surnames.get(" ".join(w.low for w in part))
            if people is not None and len(part) == size and part[-1].capital and (size > 1 or not word.first):
                before = words[at - 1].low if at else ""
                name = next(
                    (n for n in people if n.casefold() in _BY.get(before, ())), max(people, key=people.__getitem__)
                )
                state.want(name, " ".join(w.text for w in part), word.no, word.either)
                return size
        return 0

    def _typo(self, state: State, word: Word) -> int:
        """A tag typed wrongly is repaired, and said so."""
        if word.low in EMPTY or word.low in NEGATORS or _named(word):
            return 0
        meant = self.near.typo(word.low, self._spelled)
        hit = self._stems.get(stem(meant)) if meant is not None else None
        if hit is None:
            return 0
        state.want(*hit, word.no, word.either)
        state.note("took_for", typed=word.text, meant=hit[1])
        return 1


def _named(word: Word) -> bool:
    """Is it written as a name?"""
    return word.capital and not word.first and word.text[1:].islower()
