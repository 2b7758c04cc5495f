"""A message while it is read: what has been understood so far, and what no rule has taken yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from palate.chat.languages import Language

GAP = " , "
"""What a recognised part of the text is replaced with: it ends a negation, and carries no wish."""


@dataclass
class State:
    """One message. rest: what no rule has taken yet; mended: the message with its typos repaired so far.

    wanted, unwanted: tags and ranges by field; choices: fields whose wanted ones are alternatives; limits: ends of
    numbers by field; negated: where in `rest` a negated year ended, or -1; the rest as in `palate.chat.wishes.Wish`.
    """

    rest: str
    language: Language
    mended: str = ""
    wanted: dict[str, list[Any]] = field(default_factory=dict)
    choices: dict[str, bool] = field(default_factory=dict)
    unwanted: dict[str, list[Any]] = field(default_factory=dict)
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    hints: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    like: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    offer: str | None = None
    negated: int = -1

    @property
    def found(self) -> bool:
        return bool(self.wanted or self.unwanted or self.limits or self.hints or self.like or self.unlike)

    @property
    def negative(self) -> bool:
        """Does it only say what is not wanted?"""
        return bool(self.unwanted or self.unlike) and not (self.wanted or self.limits or self.hints or self.like)

    @property
    def numeric(self) -> bool:
        """Does it only say numbers: years, lengths, prices?"""
        wanted = [w for found in self.wanted.values() for w in found]
        return (
            bool(wanted or self.limits) and all(isinstance(w, tuple) for w in wanted) and not (self.like or self.hints)
        )

    def cut(self, start: int, stop: int) -> None:
        self.rest = self.rest[:start] + GAP + self.rest[stop:]

    def take(self, pattern: re.Pattern[str], use: Callable[[re.Match[str]], bool]) -> None:
        """Hand every match to `use`; those it accepts are cut out."""
        at = 0
        while found := pattern.search(self.rest, at):
            if use(found):
                self.cut(*found.span())
                at = found.start() + len(GAP)
            else:
                at = max(found.end(), at + 1)

    def want(self, name: str, condition: Any, no: bool = False, either: bool = False) -> None:
        chosen = (self.unwanted if no else self.wanted).setdefault(name, [])
        if condition not in chosen:
            chosen.append(condition)
        if either:
            self.choices[name] = True

    def limit(self, name: str, **ends: float) -> None:
        held = self.limits.setdefault(name, {})
        for end, value in ends.items():
            held[end] = (min if end == "max" else max)(value, held.get(end, value))

    def hint(self, words: str, name: str, condition: Any) -> None:
        if (one := (words, {name: condition})) not in self.hints:
            self.hints.append(one)

    def ask(self, key: str, **parts: Any) -> None:
        """Something must be asked back."""
        self.questions.append(self.language.say(key, **parts))

    def note(self, key: str, **parts: Any) -> None:
        text = self.language.say(key, **parts)
        if text not in self.notes:
            self.notes.append(text)

    def filters(self) -> dict[str, Any]:
        """All conditions, one a field, in the forms of `palate.recommender.filters`."""
        names = dict.fromkeys([*self.wanted, *self.limits, *self.unwanted])
        return {name: self._condition(name) for name in names}

    def _condition(self, name: str) -> Any:
        yes, no, ends = self.wanted.get(name, []), self.unwanted.get(name, []), self.limits.get(name, {})
        parts: dict[str, Any] = {}
        if len(yes) > 1:
            parts["any" if self.choices.get(name) else "all"] = yes
        if no:
            parts["not"] = no[0] if len(no) == 1 else no
        if set(ends) == {"min", "max"}:
            parts["all"] = [*parts.get("all", []), (ends["min"], ends["max"])]
        else:
            parts.update(ends)
        if len(yes) == 1:
            if not parts:
                return yes[0]
            parts["all"] = [*parts.get("all", []), yes[0]]
        return parts["all"][0] if list(parts) == ["all"] and len(parts["all"]) == 1 else parts
