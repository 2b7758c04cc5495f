"""What chat says of wishes and items, in the language of the message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from palate.chat.languages import ALL, Language
from palate.chat.wishes import Hint, Wish
from palate.recommender.shelf import plain

if TYPE_CHECKING:
    from palate.chat.finding import Legal
    from palate.recommender import Recommendation, Recommender
    from palate.recommender.explain import Explanation

WHY_LINES = 3
"""History items named with their numbers when chat says why."""
_NUMBERED = re.compile(r"^\s*\d+\.\s+(.+)$", re.MULTILINE)


class Speaker:
    """Writes answers about one recommender's items. year: the catalogue's field of years, if there is one."""

    def __init__(self, rec: Recommender, year: str | None) -> None:
        self.rec, self.year = rec, year
        show = rec.dataset.show
        # tags that stand beside titles speak for themselves
        shown = (*show.history, *show.candidate)
        self.bare = {n for n, f in rec.fields.items() if f.kind == "tags" and n in shown}

    def say(self, language: Language, key: str, count: int = 2, **parts: Any) -> str:
        """A sentence; count: of the items it is about."""
        w = self.rec.dataset.wording
        words = {"item": language.noun(w), "items": language.noun(w, count), "verb": language.verb(w)}
        return language.say(key, **words, count=count, **parts)

    def titles(self, language: Language, ids: Sequence[str], joint: str = "and") -> str:
        names = [self.rec.shelf[i].title for i in ids]
        return language.say(joint).join(filter(None, [", ".join(names[:-1]), names[-1]]))

    # --- answers with items -------------------------------------------------------------------------

    def head(self, language: Language, wish: Wish, legal: Legal, count: int) -> str:
        """The line above the items: how many, and what they are."""
        told = [language.conditions(wish.filters, self.bare), *self._hints(language, legal.kept)]
        if wish.like:
            told.append(language.say("like", titles=self.titles(language, wish.like)))
        if wish.unlike:
            told.append(language.say("unlike", titles=self.titles(language, wish.unlike)))
        told += [f"“{text}”" for text in (wish.text,) if text]
        known = "; ".join(filter(None, told))
        return self.say(language, "head_told" if known else "head", count, told=known)

    def _hints(self, language: Language, hints: Sequence[Hint]) -> list[str]:
        return list(dict.fromkeys(language.hinted(words, condition, self.bare) for words, condition in hints))

    def line(self, language: Language, item: Recommendation) -> str:
        """An item's numbered line."""
        reason = self._sentence(language, item.reason)
        return f"{item.rank}. " + language.say("line", title=self._dated(item.item_id), reason=reason)

    def tail(self, language: Language, wish: Wish, legal: Legal, count: int, k: int) -> Iterator[str]:
        """The lines below the items."""
        if count < k:
            yield self.say(language, "end")
        if legal.dropped:
            yield self.say(language, "dropped", what=", ".join(self._hints(language, legal.dropped)))
        yield from wish.notes

    def _sentence(self, language: Language, reason: str) -> str:
        return language.sentence(reason, self.rec.dataset.wording, self._listed)

    def _listed(self, text: str) -> list[str]:
        """The titles in "A and B", where a title may hold an "and" itself."""
        known = self.rec.shelf.titles
        for joint in re.finditer(" and ", text):
            pair = [text[: joint.start()], text[joint.end() :]]
            if all(plain(title) in known for title in pair):
                return pair
        return [text]

    def pointed(self, language: Language, text: str, latest: Sequence[str]) -> str:
        """A message with "the second one" and "all of them" written out as titles of the last answer."""
        for start, end, place in reversed(language.references(text)):
            ids = latest if place == ALL else latest[place - 1 : place] if place > 0 else latest[-1:]
            if ids:
                titles = " and ".join(f"《{self._dated(i)}》" for i in ids)
                text = f"{text[:start]}{titles}{text[end:]}"
        return text

    def named(self, text: str) -> list[str]:
        """Ids of the items that the numbered lines of an answer name, in their order."""
        found = []
        for line in _NUMBERED.findall(text):
            # the longest beginning that is a title: titles hold colons too
            ends = [m.start() for m in re.finditer("[:：]", line)]
            heads = (line[:end].strip() for end in (len(line), *reversed(ends)))
            found += next(([i] for head in heads if (i := self._item_of(head))), [])
        return found

    def _dated(self, item_id: str) -> str:
        item = self.rec.shelf[item_id]
        when = item.text.get(self.year, "") if self.year else ""
        return f"{item.title} ({when})" if when else item.title

    def _item_of(self, head: str) -> str | None:
        """The item whose title, as `line` writes it, is exactly this."""
        bare = re.sub(r"\s*\([^()]*\)$", "", head)
        ids = [i for key in (head, bare) for i in self.rec.shelf.titles.get(plain(key), ())]
        return next((i for i in ids if self._dated(i) == head), next(iter(ids), None))

    # --- answers without items ----------------------------------------------------------------------

    def nothing(self, language: Language, wish: Wish) -> tuple[str, str | None]:
        """Why nothing is left; and the filter that could be dropped, if dropping one helps."""
        shelf = self.rec.shelf
        if not wish.filters or shelf.mask(wish.filters).any():
            return self.say(language, "exhausted"), None
        for name in wish.filters:
            rest = {n: c for n, c in wish.filters.items() if n != name}
            if count := int(shelf.mask(rest).sum()):
                what = language.conditions({name: wish.filters[name]}, self.bare)
                return self.say(language, "relax", what=what, count=count), name
        return self.say(language, "none", what=language.conditions(wish.filters, self.bare)), None

    def why(self, language: Language, found: Explanation) -> str:
        """An explanation as a sentence, and the history items that moved the score most with their numbers."""
        reason = self._sentence(language, found.reason)
        lines = [language.say("line", title=found.title, reason=reason)]
        for one in found.strongest(WHY_LINES):
            shared = ", ".join(tag for _, tag in one.shared[:3])
            lines.append(f"  {one.value:+.3f}  {one.title}" + (f"  ({shared})" if shared else ""))
        return "\n".join(lines)
