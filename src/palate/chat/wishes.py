"""What a person asked for: structured filters where the text is plain, soft hints, titles, and the rest as text.

Plain means: tags of the catalogue and their negation ("comedies, not animated"), years ("from the 90s",
"before 1990"), amounts ("under 100 minutes", "under $20"), and "like TITLE". Everything is looked up in the
catalogue's own fields.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from palate.chat.amounts import Amounts
from palate.chat.commands import COMMANDS, REFINES
from palate.chat.languages import Language, language_of
from palate.chat.reading import State
from palate.chat.tagwords import TagWords, scan
from palate.chat.titles import Titles
from palate.chat.words import EMPTY, GREETINGS, NEGATIONS, NOUNS, POLITE, WORD
from palate.errors import RequestError
from palate.recommender.fields import Field
from palate.recommender.filters import condition_test, describe
from palate.recommender.shelf import Shelf

if TYPE_CHECKING:
    from palate.chat.textmatch import TextMatch


MOST = 1_000
"""Characters of a message that are read: patterns take time that grows faster than the text."""
LONG_NUMBER = re.compile(r"\d{10,}")
"""No year, length or price."""
Hint = tuple[str, Mapping[str, Any]]
"""Words of a message, and filters they hint at."""


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
    yes, no or empty; targets: the items of why, like, dislike and seen. refines: it goes on from the wish before;
    adds: its filters hold beside those before, where others replace those of the same field; instead: so do its hints,
    and nothing of the fields it names stays.
    """

    intent: str = "ask"
    targets: tuple[str, ...] = ()
    filters: Mapping[str, Any] = field(default_factory=dict)
    hints: tuple[Hint, ...] = ()
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    text: str = ""
    avoid: str = ""
    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refines: bool = False
    adds: bool = False
    instead: bool = False
    offer: str | Said | None = None

    def onto(self, before: Wish) -> Wish:
        """This wish as a refinement of the one before."""
        if self.instead:
            before = self._cleared(before)
        filters = dict(before.filters)
        for name, condition in self.filters.items():
            filters[name] = _joined(filters.get(name), condition, self.adds)
        return replace(
            self,
            filters=filters,
            hints=(*before.hints, *self.hints),
            like=(*before.like, *self.like),
            unlike=(*before.unlike, *self.unlike),
            text=" ".join(filter(None, (before.text, self.text))),
            avoid=" ".join(filter(None, (before.avoid, self.avoid))),
        )

    def _cleared(self, before: Wish) -> Wish:
        """What stays of the wish before where this one is meant in its place."""
        named = {*self.filters, *(name for _, condition in self.hints for name in condition)}
        return replace(
            before,
            filters={name: condition for name, condition in before.filters.items() if name not in named},
            hints=tuple(hint for hint in before.hints if not named & {*hint[1]}),
            like=() if self.like else before.like,
            text="",
            avoid="",
        )


def _joined(before: Any, now: Any, adds: bool) -> Any:
    """One field's condition, refined: "not" is added, ends of a range are set anew, others replace or add."""
    if before is None or before == now:
        return now
    ends = {"min", "max"}
    if isinstance(now, Mapping) and isinstance(before, Mapping) and {*now, *before} <= ends:
        return {**before, **now}
    if adds or (isinstance(now, Mapping) and set(now) == {"not"}):
        return {"all": [before, now]}
    return now


class Wishes:
    """Parses requests against one catalogue. text: tells typos from words and knows what words mean, if given.

    noun: what one item is called.
    """

    def __init__(
        self, shelf: Shelf, fields: Mapping[str, Field], text: TextMatch | None = None, noun: str = "item"
    ) -> None:
        self.shelf = shelf
        self.tags = TagWords(fields, text, noun)
        self.amounts = Amounts(shelf, fields)
        self.titles = Titles(shelf, self.tags.known)

    def parse(self, text: str) -> Wish:
        """What one message asks for. What is not understood stays text, or becomes a question."""
        text = LONG_NUMBER.sub(" ", text[:MOST])
        language = language_of(text)
        english = " ".join(language.plain(text, self.tags.known).replace("’", "'").split())
        state = State(NEGATIONS.sub("not ", english), language, english)
        if command := self._command(english.strip(" .!?,;"), language):
            return command
        if (item_id := self.titles.whole(english)) is not None:
            return Wish(like=(item_id,))
        self.titles.read(state)
        self.amounts.read(state)
        self.tags.read(state)
        rest, avoid = _rest(state)
        words = {w.casefold() for w in WORD.findall(english)}
        self._contradictions(state)
        offer = state.offer or (Said(text, tuple(state.without)) if state.without else None)
        return Wish(
            "empty" if not words or (words <= POLITE and words & GREETINGS and not state.found) else "ask",
            (),
            state.filters(),
            tuple(state.hints),
            tuple(dict.fromkeys(state.like)),
            tuple(dict.fromkeys(state.unlike)),
            rest,
            avoid,
            tuple(state.questions),
            tuple(state.notes),
            (refines := REFINES.match(english)) is not None or (not rest and (state.negative or _bare(state, words))),
            refines is not None and bool(refines["adds"]),
            refines is not None and bool(refines["instead"]),
            offer,
        )

    def folded(self, said: Sequence[Said]) -> Wish:
        """The wish that messages make up, each a refinement of those before."""
        wish: Wish | None = None
        for one in said:
            parsed = self.parse(one.text)
            wish = parsed if wish is None else parsed.onto(wish)
            wish = replace(wish, filters={n: c for n, c in wish.filters.items() if n not in one.without})
        return wish or Wish()

    def _command(self, text: str, language: Language) -> Wish | None:
        for intent, pattern in COMMANDS:
            found = pattern.fullmatch(text)
            if not found:
                continue
            title = (found.groupdict().get("title") or "").strip(" ?!.,")
            if not title:
                return Wish(intent)
            if targets := self.titles.several(title):
                return Wish(intent, targets if intent != "why" else targets[:1])
            typed = title.strip("\"'“”《》")
            named = title != typed or (typed[:1].isupper() and not self.tags.known(typed) and len(typed.split()) < 6)
            if intent == "why" or (named and found.re.groupindex.get("sure")):
                near = self.titles.near(typed)
                if intent != "why" and title == typed and not near:
                    continue
                question = self.titles.unknown(language, typed)
                return Wish(intent, questions=(question,), offer=text.replace(typed, near[0]) if near else None)
        return None

    def _contradictions(self, state: State) -> None:
        """What is asked for and against, cannot be, or does nothing in the catalogue have."""
        for name, condition in state.filters().items():
            yes, no = state.wanted.get(name, []), state.unwanted.get(name, [])
            both = [str(w) for w in yes if w in no]
            if both:
                state.ask("contradiction", what=both[0])
                continue
            what = state.language.conditions({name: condition}, ())
            try:
                test = condition_test(condition, name)
            except RequestError:
                state.ask("impossible", what=describe({name: condition}))
                continue
            if not any(map(test, dict.fromkeys(self.shelf.column(name)))):
                ends = state.limits.get(name, {})
                if ends.get("min", 0.0) > ends.get("max", float("inf")):
                    state.ask("impossible", what=what)
                else:
                    state.ask("nobody", what=what)
                    state.without.append(name)


def _bare(state: State, words: Collection[str]) -> bool:
    """Only numbers, and of no item: "under 100 minutes", but not "a film under 100 minutes"."""
    return state.numeric and not {"a", "an", "any", "anything", "something"} & {*words} and not NOUNS & {*words}


def _rest(state: State) -> tuple[str, str]:
    """Content words nobody took: (wanted, under a negation)."""
    wanted: list[str] = []
    avoided: list[str] = []
    for word in scan(state.rest):
        if not word.negator and word.low not in EMPTY and len(word.low) > 1:
            (avoided if word.no else wanted).append(word.text)
    return " ".join(wanted), " ".join(avoided)
