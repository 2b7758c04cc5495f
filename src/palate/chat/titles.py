"""Titles in what people write: in quotes, after "like" and "similar to", alone, and typed wrongly."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher

from palate.chat.languages import Language
from palate.chat.reading import State
from palate.chat.words import EMPTY, WORD
from palate.recommender.shelf import Shelf, plain

_QUOTED = re.compile(r"[\"“”«»《》]([^\"“”«»《》]{1,120})[\"“”«»《》]|(?<!\w)'([^']{1,120})'(?!\w)")
_SIMILAR = re.compile(
    r"\b(?P<no>(?:not|nothing|less|un|never|isn't|don't want (?:something|anything)|"
    r"(?:(?:do|did)(?:n't| not) |dis|never )(?=like))\s*)?"
    r"(?:(?:more |much |just |something |anything |movies? |films? |ones? |a bit )*like|similar to|such as|"
    r"in the (?:style|spirit|vein) of|fans? of|"
    r"(?:i|he|she|they|we|who|kids?|son|daughter) (?:\w+ )?(?:loved|liked|enjoyed)|"
    r"remind(?:s|ing)? me of|along the lines of)\s+",
    re.IGNORECASE,
)
_JOIN = re.compile(r"^\s*(?:,\s*and|,\s*or|,|and|or|&)\s+", re.IGNORECASE)
_STOP = re.compile(
    r"^\s*(?:$|[,.;:!?()]|(?:and|or|but|from|with|without|not|no|only|please|though|before|after|under|except|set|"
    r"made|if|as|for|then|instead)\b)",
    re.I,
)
_DATE = re.compile(r"\s*\((\d{4})\)")
SURE = 0.9
"""Likeness (of difflib, 0 to 1) from which a wrongly typed title is taken for the one it is most like."""
NEAR = 0.6
"""Likeness from which a title is worth suggesting."""


class Titles:
    """Finds the titles of a shelf. known: words that mean something else (tags), folded."""

    def __init__(self, shelf: Shelf, known: Callable[[str], bool]) -> None:
        self.shelf, self._known = shelf, known

    def read(self, state: State) -> None:
        """Move the titles of a message into its like and unlike."""
        self._quoted(state)
        self._cued(state)

    def whole(self, text: str) -> str | None:
        """The item a whole message names: "Alien", but not "big" or "horror"."""
        text = text.strip(" .!?,;\"'“”《》")
        low = text.casefold()
        found = self._lookup(text)
        if found is None or found == text:
            return None
        common = " " not in low and (low in EMPTY or self._known(low))
        return None if common and not (text[:1].isupper() and not self._known(low)) else found

    def several(self, text: str) -> tuple[str, ...]:
        """The items that a text consists of: "Jaws, Speed and Heat"; none where a part of it is no title."""
        text = re.sub('["“”《》]', "", text).strip(" .!?,;")
        bare = text.strip("'").strip()
        if (found := self._lookup(bare)) is not None:
            return (found,)
        items: list[str] = []
        at = 0
        while hit := self.at(text, at):
            items.append(hit[0])
            at = hit[1]
            if not text[at:].strip(" .!?\"'“”》"):
                return tuple(items)
            joined = _JOIN.match(text[at:])
            if joined is None:
                break
            at += joined.end()
        return ()

    def at(self, text: str, start: int) -> tuple[str, int] | None:
        """The longest title that starts at a place: (item id, end). Ids are not titles here."""
        words = list(WORD.finditer(text, start))[:10]
        for last in reversed(words):
            end = last.end()
            phrase = text[start:end].strip(" \"'“”《》")
            if phrase.isdigit() and len(phrase) < 4:
                continue
            if dated := _DATE.match(text, end):
                end, phrase = dated.end(), text[start : dated.end()].strip()
            found = self.shelf.lookup(phrase)
            if found is None or found == phrase:
                continue
            # "like big action films" names no title, "like big" does
            if phrase == phrase.casefold() and len(phrase.split()) < 3 and not _STOP.match(text[end:]):
                continue
            return found, end
        return None

    def near(self, title: str) -> list[str]:
        """Titles a wrongly typed one may mean, likeliest first."""
        typed = plain(title)
        scored = [(self._likeness(typed, other), other) for other in self.shelf.near(title, 5)]
        return [other for likeness, other in sorted(scored, key=lambda s: -s[0]) if likeness >= NEAR][:3]

    def mend(self, title: str) -> str | None:
        """The title that is surely meant by a wrongly typed one."""
        near = self.near(title)
        typed = plain(title)
        sure = [t for t in near if self._likeness(typed, t) >= SURE]
        return sure[0] if len(sure) == 1 and len(typed) > 5 else None

    def unknown(self, language: Language, title: str) -> str:
        """A question about a title the catalogue does not have."""
        near = self.near(title)
        hint = language.say("did_you_mean", titles=language.say("or").join(near)) if near else ""
        return language.say("unknown", title=title) + hint

    def _lookup(self, text: str) -> str | None:
        found = self.shelf.lookup(text)
        return None if found == text and text.isdigit() else found

    def _likeness(self, typed: str, title: str) -> float:
        whole = plain(title)
        shapes = {whole, re.sub(r"^(the|a|an) ", "", whole), re.sub(r" \d{4}$", "", whole)}
        return max(SequenceMatcher(None, typed, s).ratio() for s in shapes)

    def _quoted(self, state: State) -> None:
        while quoted := _QUOTED.search(state.rest):
            title = (quoted[1] or quoted[2]).strip()
            before = state.rest[: quoted.start()]
            cue = next((m for m in _SIMILAR.finditer(before) if m.end() == len(before)), None)
            if (found := self._lookup(title)) is not None:
                (state.unlike if cue and cue["no"] else state.like).append(found)
            else:
                self._typo(state, title, bool(cue and cue["no"]))
            state.cut(cue.start() if cue else quoted.start(), quoted.end())

    def _cued(self, state: State) -> None:
        at = 0
        while cue := _SIMILAR.search(state.rest, at):
            at = stop = cue.end()
            while hit := self.at(state.rest, stop):
                item_id, stop = hit
                (state.unlike if cue["no"] else state.like).append(item_id)
                joined = _JOIN.match(state.rest[stop:])
                if not joined or not self.at(state.rest, stop + joined.end()):
                    break
                stop += joined.end()
            if stop == at and (guess := _capitalised(state.rest[at:])) and not self._known(guess.casefold()):
                self._typo(state, guess, bool(cue["no"]))
                stop = at + len(guess)
            if stop > at:
                state.cut(cue.start(), stop)
                at = cue.start()

    def _typo(self, state: State, title: str, no: bool) -> None:
        """A title nobody has: taken for the one that is surely meant, else asked about."""
        meant = self.mend(title)
        if meant is not None:
            (state.unlike if no else state.like).append(self.shelf.find(meant))
            state.note("took_for", typed=title, meant=meant)
            return
        state.questions.append(self.unknown(state.language, title))
        if near := self.near(title):
            state.offer = state.mended.replace(title, near[0], 1)


def _capitalised(text: str) -> str:
    """The run of capitalised words a text starts with."""
    found = re.match(r"(?:[A-Z0-9][\w'’-]*)(?:\s+(?:[A-Z0-9][\w'’-]*|of|the|and|in|a|on|to)(?=\s+[A-Z0-9]|\b))*", text)
    if not found:
        return ""
    return re.sub(r"(?:\s+(?:of|the|and|in|a|on|to))+$", "", found[0])
