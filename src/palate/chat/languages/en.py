"""English: the parser's own language, and chat's sentences in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from palate.chat.languages import ALL, Language
from palate.recommender.filters import describe

_ORDINAL = re.compile(
    r"\b(?:like|liked|loved?|hated?|enjoy(?:ed)?|disliked?|why|explain|recommend|suggest|pick|choose|seen|saw|watched|read|own|know|than|is|did)\s+"
    r"(?P<ref>(?:the )?(?:(?P<word>first|second|third|fourth|fifth|last)|(?P<n>\d+)(?:st|nd|rd|th))"
    r"(?: (?:one|movie|film|book|song|item|pick|suggestion))?|(?:number |no\. ?|#)(?P<digit>\d+)|"
    r"(?P<all>all of (?:them|these|those)|(?:both|all) of them|them(?: all| both)?|these|those|both))"
    r"(?=\s*(?:[.!?,;]|$|(?:but|and|is|was|too|already|a lot|in)\b))",
    re.IGNORECASE,
)
_PLACES = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "last": -1}


class English(Language):
    name = "en"
    sayings: ClassVar = {
        "fresh": "A fresh start. Which {items} are you in the mood for?",
        "mood": "Tell me what you are in the mood for: a kind of {item}, a time, a title you like.",
        "liked": "Good: more like {title} from now on.",
        "disliked": "Noted: less like {title} from now on.",
        "seen": "{title} is off the list, and counts as one you {verb}.",
        "head": "{count} {items} I think you will enjoy:",
        "head_told": "{count} {items} ({told}):",
        "like": "like {titles}",
        "unlike": "not like {titles}",
        "end": "That is all that fits; loosen the wish for more {items}.",
        "dropped": "Nothing that fits is also {what}, so I left that out.",
        "exhausted": "Every {item} that fits is named or {verb} already. Shall we try something else?",
        "relax": "No {item} fits all of that. Without “{what}” there are {count}: shall I drop it?",
        "none": "No {item} fits {what}. What matters most to you?",
        "nothing_yet": "I have not recommended anything yet. What are you in the mood for?",
        "unknown": "I do not find “{title}” in the catalogue.",
        "did_you_mean": " Did you mean {titles}?",
        "or": " or ",
        "and": " and ",
        "line": "{title}: {reason}",
        "contradiction": "You ask for {what} and against it: which shall it be?",
        "impossible": "{what} cannot be met: which end did you mean?",
        "nobody": "Nothing in the catalogue has {what}. Shall I drop that?",
        "cannot_check": "I cannot check {what}: the catalogue does not say.",
        "took_for": "I took “{typed}” for {meant}.",
        "declined": "All right. What are you in the mood for instead?",
    }

    def speaks(self, text: str) -> bool:
        return True

    def plain(self, text: str, known: Callable[[str], bool]) -> str:
        return text

    def references(self, text: str) -> list[tuple[int, int, int]]:
        return [
            (
                *m.span("ref"),
                ALL if m["all"] else _PLACES.get((m["word"] or "").casefold()) or int(m["n"] or m["digit"]),
            )
            for m in _ORDINAL.finditer(text)
        ]

    def conditions(self, filters: Mapping[str, Any], bare: Collection[str]) -> str:
        return describe(filters, bare)

    def hinted(self, words: str, condition: Mapping[str, Any], bare: Collection[str]) -> str:
        return words
