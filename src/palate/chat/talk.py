"""A conversation about what to choose next: plain wishes in, items with reasons out, feedback taken at once.

    chat = rec.chat(user="42")
    chat.ask("something funny for the kids, not animated, under 100 minutes")
    chat.like("Babe"); chat.more(); chat.why("Babe")

Every item named is in the catalogue, meets the structured filters and has not been named or chosen before.
What the message says plainly (tags, years, lengths, titles) becomes filters; the rest is matched with the
items' text and blended with the model's ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from palate.chat.cards import cards
from palate.chat.textmatch import TextMatch
from palate.chat.wishes import Wish, Wishes
from palate.errors import EmptyLegalSet, RequestError
from palate.recommender.filters import describe
from palate.recommender.shelf import plain
from palate.schema import Bools, Event, Floats, Request

if TYPE_CHECKING:
    from palate.recommender import Recommendation, Recommender
    from palate.recommender.explain import Explanation

TEXT_POOL = 60
"""Items nearest to the free text that are ranked by the model."""
TEXT_WEIGHT, LIKE_WEIGHT, DISLIKE_WEIGHT, AVOID_WEIGHT = 1.5, 2.0, 1.5, 1.0


@dataclass(frozen=True)
class Answer:
    """What chat says: the text, and the items it names, best first (none where it asks back)."""

    text: str
    items: tuple[Recommendation, ...] = ()

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return cards(self.text if not self.items else self.text.split("\n", 1)[0], self.items)


class Chat:
    """One person's conversation. `history` grows with what they like; `k` items an answer.

    dense: see TextMatch; mode: the scoring mode, None for the recommender's default.
    """

    def __init__(
        self,
        rec: Recommender,
        user: str | None = None,
        history: Sequence[str | Event] | None = None,
        k: int = 5,
        mode: str | None = None,
        dense: bool | None = None,
    ) -> None:
        self.rec, self.k, self.mode = rec, k, mode
        self.request: Request = rec.request(user, history)
        self._wishes = Wishes(rec.shelf, rec.fields)
        self._text = TextMatch(rec.shelf, dense)
        self.reset()

    # --- the conversation ---------------------------------------------------------------------------

    def reset(self) -> Answer:
        """Forget the conversation and its feedback; the person's own history stays."""
        self.liked: list[str] = []
        self.disliked: list[str] = []
        self.seen: list[str] = []
        self.shown: list[str] = []
        self.wish: Wish | None = None
        return Answer(f"A fresh start. Which {self.rec.dataset.wording.items} are you in the mood for?")

    def ask(self, text: str) -> Answer:
        """Answer one message."""
        wish = self._wishes.parse(text)
        if wish.intent == "more":
            return self.more()
        if wish.intent == "reset":
            return self.reset()
        if wish.intent in ("like", "dislike", "seen") and wish.target is not None:
            return {"like": self.like, "dislike": self.dislike, "seen": self.mark_seen}[wish.intent](wish.target)
        if wish.intent == "why":
            return self._why(wish)
        if wish.intent == "empty":
            w = self.rec.dataset.wording
            return Answer(f"Tell me what you are in the mood for: a kind of {w.item}, a time, a title you like.")
        if wish.questions:
            return Answer(" ".join(wish.questions))
        if wish.refines and self.wish is not None:
            refined = self._answer(wish.onto(self.wish))
            if refined.items or not wish.filters:
                return refined
            # nothing is both: then it was a new wish
            return self._answer(wish)
        return self._answer(wish)

    def more(self) -> Answer:
        """The next items under the same wish."""
        return self._answer(self.wish or Wish())

    def like(self, item: str) -> Answer:
        """They like an item (title or id): it joins the history the model sees."""
        item_id = self._feedback(item, self.liked)
        return Answer(f"Good: more like {self._title(item_id)} from now on.")

    def dislike(self, item: str) -> Answer:
        """They do not like an item: it and its kind move down."""
        item_id = self._feedback(item, self.disliked)
        return Answer(f"Noted: less like {self._title(item_id)} from now on.")

    def mark_seen(self, item: str) -> Answer:
        """They know an item already: it joins the history and is not named again."""
        item_id = self._feedback(item, self.seen)
        return Answer(f"{self._title(item_id)} is off the list, and counts as one you {self.rec.dataset.wording.verb}.")

    def why(self, item: str | None = None) -> Explanation:
        """What in the history speaks for an item; by default the first of the last answer."""
        if item is None and not self.shown:
            raise RequestError("why what? Nothing has been recommended yet; name an item")
        item_id = self.shown[-1] if item is None else self.rec.shelf.find(item)
        return self.rec.explain(item_id, self.request.user_id, self.history, self.mode)

    @property
    def history(self) -> tuple[Event, ...]:
        """The person's history with what they said they know or like."""
        held = {e.item_id for e in self.request.history}
        told = dict.fromkeys([*self.seen, *self.liked])
        return (*self.request.history, *(Event(i) for i in told if i not in held))

    def _feedback(self, item: str, into: list[str]) -> str:
        item_id = self.rec.shelf.find(item)
        for held in (self.liked, self.disliked, self.seen):
            if item_id in held:
                held.remove(item_id)
        into.append(item_id)
        return item_id

    def _why(self, wish: Wish) -> Answer:
        if wish.questions:
            return Answer(" ".join(wish.questions))
        if wish.target is None and not self.shown:
            return Answer("I have not recommended anything yet. What are you in the mood for?")
        return Answer(str(self.why(wish.target)))

    def _title(self, item_id: str) -> str:
        return self.rec.shelf[item_id].title

    # --- finding items ------------------------------------------------------------------------------

    def _answer(self, wish: Wish) -> Answer:
        try:
            legal, kept, dropped = self._legal(wish)
        except EmptyLegalSet:
            return Answer(self._nothing(wish))
        self.wish = wish
        best = self._distinct(self._rank(wish, legal))
        if kept and len(best) < self.k and (rest := self._without(wish, legal)).any():
            best = self._distinct([*best, *self._rank(wish, rest)])
        # the first of the list is named last, so that a bare "why?" is about it
        self.shown += [item_id for item_id, _ in reversed(best)]
        items = self.rec.present(best, [e.item_id for e in self._events(wish)])
        return Answer(self._words(wish, items, kept, dropped), tuple(items))

    def _legal(self, wish: Wish) -> tuple[Bools, list[str], list[str]]:
        """(items that may be named, hints kept, hints given up). Raises EmptyLegalSet where filters leave
        none.
        """
        shelf = self.rec.shelf
        legal = self.rec.legal(replace(self.request, history=self.history), wish.filters)
        gone = {*self.shown, *self.liked, *self.disliked, *self.seen, *wish.like, *wish.unlike}
        gone |= {e.item_id for e in self.history}
        legal[[shelf.index(twin) for i in gone for twin in self._twins(i)]] = False
        if not legal.any():
            raise EmptyLegalSet("everything that fits has been named")
        kept, dropped = [], []
        for words, condition in wish.hints:
            narrower = legal & shelf.mask(condition)
            if narrower.any():
                legal = narrower
                kept.append(words)
            else:
                dropped.append(words)
        return legal, kept, dropped

    def _twins(self, item_id: str) -> list[str]:
        """Items that are the same thing to a person: one title, one year. Catalogues hold some twice."""
        item = self.rec.shelf[item_id]
        same = [i for i in self.rec.shelf.titles.get(plain(item.title), []) if i != item_id]
        year = self._wishes.amounts.year or ""
        return [item_id, *(i for i in same if self.rec.shelf[i].text.get(year) == item.text.get(year))]

    def _distinct(self, ranked: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
        """The first k of a ranking, each thing once."""
        best: list[tuple[str, float]] = []
        named: set[str] = set()
        for item_id, score in ranked:
            if item_id not in named:
                best.append((item_id, score))
                named.update(self._twins(item_id))
            if len(best) == self.k:
                break
        return best

    def _without(self, wish: Wish, named: Bools) -> Bools:
        """What meets the filters but not the hints."""
        return self._legal(replace(wish, hints=()))[0] & ~named

    def _events(self, wish: Wish) -> tuple[Event, ...]:
        held = {e.item_id for e in self.history}
        return (*self.history, *(Event(i) for i in wish.like if i not in held))

    def _rank(self, wish: Wish, legal: Bools) -> list[tuple[str, float]]:
        """Legal items by the model, the free text and the feedback together: (item id, score), best first."""
        shelf, events = self.rec.shelf, self._events(wish)
        text = self._text.similarity(wish.text) if wish.text else None
        if text is not None and legal.sum() > TEXT_POOL:
            prior = self.rec.pool.scores([e.item_id for e in events])
            near = np.where(legal, _z(text, legal) + 0.3 * _z(prior, legal), -np.inf)
            narrow = np.zeros_like(legal)
            narrow[np.argsort(-near, kind="stable")[:TEXT_POOL]] = True
            legal = narrow
        request = replace(self.request, history=events, query=wish.text)
        scores = self.rec.rank(request, legal, 4 * self.k, self.mode)
        rows = np.array([shelf.index(i) for i in scores.item_ids])
        total = _z(scores.scores)
        if text is not None:
            total = total + TEXT_WEIGHT * _z(text[rows])
        if wish.avoid:
            total = total - AVOID_WEIGHT * _z(self._text.similarity(wish.avoid)[rows])
        if wish.like:
            total = total + LIKE_WEIGHT * _z(self._affinity(rows, wish.like))
        if away := [*self.disliked, *wish.unlike]:
            total = total - DISLIKE_WEIGHT * _z(self._affinity(rows, away))
        order = sorted(range(len(rows)), key=lambda n: (-float(total[n]), scores.item_ids[n]))
        return [(scores.item_ids[n], float(total[n])) for n in order]

    def _affinity(self, rows: np.ndarray, others: Sequence[str]) -> Floats:
        """How alike items are to others: shared tags, and nearness in the model's own item space: float32
        [n].
        """
        ids = self.rec.shelf.item_ids
        tags = np.array([sum(self.rec.reasoner.common(ids[r], o).weight for o in others) for r in rows])
        out = _z(tags.astype(np.float32))
        if self.rec.model.has_matching:
            vectors = self.rec.ranker.item_vectors()
            wanted = vectors[[self.rec.shelf.index(o) for o in others]].mean(axis=0)
            out = out + _z(vectors[rows] @ wanted)
        return out

    # --- words --------------------------------------------------------------------------------------

    def _words(self, wish: Wish, items: Sequence[Recommendation], kept: list[str], dropped: list[str]) -> str:
        w = self.rec.dataset.wording
        told = [describe(wish.filters, self._bare), *kept]
        if wish.like:
            told.append(f"like {self.rec.reasoner.titles(wish.like)}")
        if wish.unlike:
            told.append(f"not like {self.rec.reasoner.titles(wish.unlike)}")
        if wish.text:
            told.append(f"“{wish.text}”")
        told = list(filter(None, told))
        noun = w.item if len(items) == 1 else w.items
        head = f"{len(items)} {noun}" + (f" ({'; '.join(told)})" if told else " I think you will enjoy") + ":"
        lines = [head, *(f"{n}. {self._line(item)}" for n, item in enumerate(items, 1))]
        if len(items) < self.k:
            lines.append(f"That is all that fits; loosen the wish for more {w.items}.")
        if dropped:
            lines.append(f"Nothing that fits is also {' and '.join(dropped)}, so I left that out.")
        lines += wish.notes
        return "\n".join(lines)

    @property
    def _bare(self) -> set[str]:
        """Fields whose values speak for themselves: tags that stand beside titles."""
        show = self.rec.dataset.show
        return {n for n, f in self.rec.fields.items() if f.kind == "tags" and n in (*show.history, *show.candidate)}

    def _line(self, item: Recommendation) -> str:
        year = next((n for n, f in self.rec.fields.items() if f.is_year), None)
        when = self.rec.shelf[item.item_id].text.get(year, "") if year else ""
        return f"{item.title}{f' ({when})' if when else ''}: {item.reason}"

    def _nothing(self, wish: Wish) -> str:
        """Why nothing is left, and which condition to drop."""
        w = self.rec.dataset.wording
        shelf = self.rec.shelf
        if not wish.filters or shelf.mask(wish.filters).any():
            return f"Every {w.item} that fits is named or {w.verb} already. Shall we try something else?"
        for name in wish.filters:
            rest = {n: c for n, c in wish.filters.items() if n != name}
            count = int(shelf.mask(rest).sum())
            if count:
                what = describe({name: wish.filters[name]}, self._bare)
                return f"No {w.item} fits all of that. Without “{what}” there are {count}: shall I drop it?"
        return f"No {w.item} fits {describe(wish.filters, self._bare)}. What matters most to you?"


def _z(values: Floats, among: Bools | None = None) -> Floats:
    """Standard scores (mean and deviation over `among`); zeros where all are alike."""
    chosen = values if among is None else values[among]
    spread = float(chosen.std()) if len(chosen) else 0.0
    if spread < 1e-9:
        return np.zeros_like(values, dtype=np.float32)
    return np.asarray((values - chosen.mean()) / spread, dtype=np.float32)
