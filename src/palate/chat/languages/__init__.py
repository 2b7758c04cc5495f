"""Languages of a conversation [plug-in]: a file here teaches chat to read plain wishes and to answer in one more.

The parser reads English. A language turns the plain parts of a message (tags, years, amounts, negation, commands,
quoted titles) into that English and leaves the rest as it is, for the ranking by text; and it holds chat's sentences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, ClassVar

from palate.errors import ConfigError
from palate.schema import Wording

ALL = 0
"""The place of a reference to all lines of an answer."""


class Language(ABC):
    """One language: how a message in it is told, read and answered."""

    name: ClassVar[str]
    sayings: ClassVar[Mapping[str, str]]
    """Key -> sentence with {named} parts; the keys are those of English."""

    @abstractmethod
    def speaks(self, text: str) -> bool:
        """Is a message in this language?"""

    @abstractmethod
    def plain(self, text: str, known: Callable[[str], bool]) -> str:
        """The message with its plain parts in the parser's English. known: is a word a tag of the catalogue?"""

    def say(self, key: str, **parts: Any) -> str:
        return self.sayings[key].format(**parts)

    def references(self, text: str) -> list[tuple[int, int, int]]:
        """Where a message points at lines of the last answer: (start, end, line; -1 for the last, ALL)."""
        return []

    def noun(self, wording: Wording, count: int | None = None) -> str:
        """What items are called behind a number of them; without one, what one is called."""
        return wording.item if count in (None, 1) else wording.items

    def verb(self, wording: Wording) -> str:
        return wording.verb

    @abstractmethod
    def conditions(self, filters: Mapping[str, Any], bare: Collection[str]) -> str:
        """Filters in words; the names of `bare` fields go without saying."""

    def hinted(self, words: str, condition: Mapping[str, Any], bare: Collection[str]) -> str:
        """A hint in words: those of the message, where it was in the parser's language, else its condition."""
        return self.conditions(condition, bare)

    def sentence(self, reason: str, wording: Wording, listed: Callable[[str], list[str]]) -> str:
        """A reason of `palate.recommender.reasons` in this language. listed: the titles in "A and B"."""
        return reason


@cache
def languages() -> Mapping[str, Language]:
    """All languages by name. English is what a message is in that no other claims."""
    from palate.registry import plugins

    found = {name: cls() for name, cls in plugins(__name__, Language).items()}  # type: ignore[type-abstract]
    for name, language in found.items():
        if missing := found["en"].sayings.keys() - language.sayings.keys():
            keys = ", ".join(sorted(missing))
            raise ConfigError(f"language {name!r}: expected the sentences English has, misses {keys}")
    return found


def language_of(text: str) -> Language:
    """The language a message is in."""
    known = languages()
    return next((known[n] for n in known if n != "en" and known[n].speaks(text)), known["en"])
