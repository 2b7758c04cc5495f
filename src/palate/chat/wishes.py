"""What a person asked for: structured filters where the text is plain, soft hints, titles, and the rest as
text.

Plain means: tags of the catalogue and their negation ("comedies, not animated"), years ("from the 90s",
"before 1990"), amounts ("under 100 minutes", "under $20"), and "like TITLE". Everything is looked up in the
catalogue's own fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from palate.chat.amounts import Amounts
from palate.chat.tagwords import TagWords
from palate.chat.words import GENERIC, GREETINGS, RESETS, WORD
from palate.errors import RequestError
from palate.recommender.fields import Field
from palate.recommender.filters import condition_test, describe
from palate.recommender.shelf import Shelf

_QUOTED = re.compile(r"[\"“”«»]([^\"“”«»]{1,120})[\"“”«»]")
_SIMILAR = re.compile(
    r"\b(?P<no>(?:not|nothing|less|un|never|isn't|don't want (?:something|anything))\s*)?"
    r"(?:(?:more |much |just |something |anything |movies? |films? |ones? )*like|similar to|such as|"
    r"in the (?:style|spirit|vein) of|"
    r"remind(?:s|ing)? me of|along the lines of)\s+",
    re.IGNORECASE,
)
_JOIN = re.compile(r"^\s*(?:,\s*and|,\s*or|,|and|or|&)\s+", re.IGNORECASE)
_REFINES = re.compile(
    r"^\s*(?:and|but|also|only|not|no|without|or|instead|from|before|after|under|over|"
    r"something (?:else )?(?:older|newer|shorter|longer))\b",
    re.I,
)
_THING = r"(?P<title>.+)"
_COMMANDS: tuple[tuple[str, str], ...] = (
    ("more", r"(?:(?:show|give) me )?(?:some |a few )?(?:more|others?|next|another(?: one)?)(?: please)?"),
    ("yes", r"yes|yes please|yeah|yep|sure|ok|okay|please do|do (?:it|that)|drop (?:it|that)|right|exactly"),
    ("no", r"no|nope|no thanks|no thank you|nah"),
    ("reset", r"reset|start (?:over|again)|forget (?:that|it|everything)|never mind"),
    ("why", r"why\b\s*(?:(?:did|do) you \w+ |that|this|is |should i \w+ )*(?P<title>.*)"),
    ("dislike", rf"(?:i )?(?:really )?(?:hated?|disliked?|d(?:id|o)(?:n't| not) (?:like|enjoy))\s+{_THING}"),
    ("like", rf"(?:i )?(?:also )?(?:really )?(?:loved?|liked?|enjoy(?:ed)?)\s+{_THING}"),
    ("seen", r"i(?:'ve| have)?(?: already)? (?:seen|saw|watched|read|own)\s+(?P<title>.+?)(?: already)?"),
)  # fmt: skip
EMPTY = GENERIC | GREETINGS | RESETS
"""Words that say nothing of what is wanted."""
GAP = " , "
"""What a recognised part of the text is replaced with: it ends a negation, and carries no wish."""


@dataclass(frozen=True)
class Said:
    """A message that is part of a wish; `without`: fields whose filters were given up since."""

    text: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """One parsed request. filters must hold; hints (words, filters) should; like, unlike: item ids.

    text, avoid: what is left, in and under a negation; questions: what must be asked back; offer: the message a
    "yes" to them stands for; notes: what could not be checked. intent: ask, more, reset, why, like, dislike, seen,
    yes, no or empty; target: the item of why, like, dislike and seen.
    """

    intent: str = "ask"
    target: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    hints: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    text: str = ""
    avoid: str = ""
    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refines: bool = False
    offer: str | None = None

    def onto(self, before: Wish) -> Wish:
        """This wish as a refinement of the one before: fields named anew replace, the rest stays."""
        return replace(
            self,
            filters={**before.filters, **self.filters},
            hints=(*before.hints, *self.hints),
            like=(*before.like, *self.like),
            unlike=(*before.unlike, *self.unlike),
            text=" ".join(filter(None, (before.text, self.text))),
            avoid=" ".join(filter(None, (before.avoid, self.avoid))),
        )


class Wishes:
    """Parses requests against one catalogue."""

    def __init__(self, shelf: Shelf, fields: Mapping[str, Field]) -> None:
        self.shelf = shelf
        self.tags = TagWords(fields)
        self.amounts = Amounts(shelf, fields)

    def parse(self, text: str) -> Wish:
        """What one message asks for. What is not understood stays text, or becomes a question."""
        text = " ".join(text.replace("’", "'").split())
        if command := self._command(text.strip(" .!?")):
            return command
        state = _State(text)
        self._titles(state)
        self.amounts.read(state)
        self.tags.read(state)
        state.text, state.avoid = _rest(state)
        self._contradictions(state)
        words = {w.casefold() for w in WORD.findall(text)}
        empty = not words or (words <= GREETINGS and not state.found)
        return Wish(
            "empty" if empty else "ask",
            None,
            state.filters(),
            tuple(state.hints),
            tuple(dict.fromkeys(state.like)),
            tuple(dict.fromkeys(state.unlike)),
            state.text,
            state.avoid,
            tuple(state.questions),
            tuple(state.notes),
            bool(_REFINES.match(text)),
        )

    def _command(self, text: str) -> Wish | None:
        for intent, pattern in _COMMANDS:
            found = re.fullmatch(pattern, text, re.IGNORECASE)
            if not found:
                continue
            title = (found.groupdict().get("title") or "").strip(" \"'?!.")
            if intent in ("more", "reset", "yes", "no"):
                return Wish(intent)
            target = self.shelf.lookup(title) if title else None
            if target is not None:
                return Wish(intent, target)
            if intent == "why":
                return Wish(intent, questions=(self._unknown(title),) if title else ())
        return None

    def _unknown(self, title: str) -> str:
        near = self.shelf.near(title)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        return f"I do not find “{title}” in the catalogue.{hint}"

    def _titles(self, state: _State) -> None:
        """Titles in quotes, and after words such as "like" and "similar to"."""
        while quoted := _QUOTED.search(state.rest):
            before = state.rest[: quoted.start()]
            cue = next((m for m in _SIMILAR.finditer(before) if m.end() == len(before)), None)
            found = self.shelf.lookup(quoted[1])
            if found is None:
                state.questions.append(self._unknown(quoted[1]))
            else:
                (state.unlike if cue and cue["no"] else state.like).append(found)
            state.cut(cue.start() if cue else quoted.start(), quoted.end())
        at = 0
        while cue := _SIMILAR.search(state.rest, at):
            at = cue.end()
            stop = at
            while hit := self._title_at(state.rest, stop):
                item_id, stop = hit
                (state.unlike if cue["no"] else state.like).append(item_id)
                joined = _JOIN.match(state.rest[stop:])
                if not joined or not self._title_at(state.rest, stop + joined.end()):
                    break
                stop += joined.end()
            if stop > at:
                state.cut(cue.start(), stop)
                at = cue.start()
            elif guess := _capitalised(state.rest[at:]):
                state.questions.append(self._unknown(guess))
                state.cut(cue.start(), at + len(guess))
                at = cue.start()

    def _title_at(self, text: str, at: int) -> tuple[str, int] | None:
        """The longest title that starts at a place: (item id, end). Ids are not titles here."""
        words = list(WORD.finditer(text, at))[:10]
        for last in reversed(words):
            phrase = text[at : last.end()].strip()
            if phrase.isdigit() and len(phrase) < 4:
                continue
            if (found := self.shelf.lookup(phrase)) and found != phrase:
                return found, last.end()
        return None

    def _contradictions(self, state: _State) -> None:
        for name, condition in state.filters().items():
            yes, no = state.wanted.get(name, []), state.unwanted.get(name, [])
            both = [str(w) for w in yes if w in no]
            if both:
                state.questions.append(f"You ask for {both[0]} and against it: which shall it be?")
                continue
            try:
                test = condition_test(condition, name)
            except RequestError:
                state.questions.append(f"{describe({name: condition})} cannot be met: which end did you mean?")
                continue
            if not any(map(test, dict.fromkeys(self.shelf.column(name)))):
                what = describe({name: condition})
                state.questions.append(f"Nothing in the catalogue has {what}. Shall I drop that?")


@dataclass
class _State:
    """A message while it is read: `rest` is what no rule has taken yet."""

    rest: str
    wanted: dict[str, list[Any]] = field(default_factory=dict)
    choices: dict[str, bool] = field(default_factory=dict)
    unwanted: dict[str, list[Any]] = field(default_factory=dict)
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    hints: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    like: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: str = ""
    avoid: str = ""

    @property
    def found(self) -> bool:
        return bool(self.wanted or self.unwanted or self.limits or self.hints or self.like or self.unlike)

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

    def filters(self) -> dict[str, Any]:
        """All conditions, one a field, in the forms of `palate.recommender.filters`."""
        out: dict[str, Any] = {}
        for name in dict.fromkeys([*self.wanted, *self.limits, *self.unwanted]):
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
                    out[name] = yes[0]
                    continue
                parts["all"] = [*parts.get("all", []), yes[0]]
            if list(parts) == ["all"] and len(parts["all"]) == 1:
                out[name] = parts["all"][0]
            else:
                out[name] = parts
        return out


def _rest(state: _State) -> tuple[str, str]:
    """Content words nobody took: (wanted, under a negation)."""
    wanted: list[str] = []
    avoided: list[str] = []
    for word, no in negated(state.rest):
        low = word.casefold()
        if low not in EMPTY and len(low) > 1:
            (avoided if no else wanted).append(word)
    return " ".join(wanted), " ".join(avoided)


def negated(text: str) -> list[tuple[str, bool]]:
    """(word, is it under a negation) for the words of a text; negators themselves are left out."""
    from palate.chat.tagwords import scan

    return [(w.text, w.no) for w in scan(text) if not w.negator]


def _capitalised(text: str) -> str:
    """The run of capitalised words a text starts with."""
    found = re.match(r"(?:[A-Z0-9][\w'’-]*)(?:\s+(?:[A-Z0-9][\w'’-]*|of|the|and|in|a|on|to)(?=\s+[A-Z0-9]|\b))*", text)
    if not found:
        return ""
    return re.sub(r"(?:\s+(?:of|the|and|in|a|on|to))+$", "", found[0])
