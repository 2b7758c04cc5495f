"""Finding items for a wish: what may be named, and the model, the text and the feedback put in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from palate.chat.alike import SharedTags
from palate.chat.textmatch import TextMatch
from palate.chat.wishes import Hint, Wish
from palate.errors import EmptyLegalSet
from palate.recommender.shelf import plain
from palate.schema import Bools, Event, Floats, Ints, Request

if TYPE_CHECKING:
    from palate.recommender import Recommender

TEXT_POOL = 60
"""Items nearest to the free text that are ranked by the model."""
TEXT_WEIGHT, AVOID_WEIGHT = 1.5, 1.0
"""What counts beside the model's score, all in standard scores: text that is wanted, and to be avoided."""
LIKE_WEIGHT, LIKED_WEIGHT, DISLIKED_WEIGHT = 2.0, 0.5, 0.5
"""The same of being alike to items: those a wish names as examples (for or against), and those they like or dislike.
What they dislike is often near what they have chosen: with 1.5, one disliked action film took most others from a fan.
"""


@dataclass(frozen=True)
class Taste:
    """What is known of the person at one turn. request: their history and context, without a wish.

    history: with what they said they know or like; named: ids that are not to be named again.
    """

    request: Request
    history: tuple[Event, ...] = ()
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    named: frozenset[str] = field(default_factory=frozenset)

    def events(self, wish: Wish) -> tuple[Event, ...]:
        """The history with the items the wish names as examples."""
        held = {e.item_id for e in self.history}
        return (*self.history, *(Event(i) for i in wish.like if i not in held))


@dataclass(frozen=True)
class Legal:
    """Items that may be named (bool [N]); hints kept, and hints given up because nothing would be left."""

    mask: Bools
    kept: tuple[Hint, ...] = ()
    dropped: tuple[Hint, ...] = ()


class Finder:
    """Finds items of one recommender's shelf. mode: of scoring, None for the recommender's default."""

    def __init__(self, rec: Recommender, text: TextMatch, tags: SharedTags, year: str | None) -> None:
        self.rec, self.text, self.tags, self.year = rec, text, tags, year

    def legal(self, wish: Wish, taste: Taste) -> Legal:
        """What may be named. Raises EmptyLegalSet where the filters leave nothing."""
        shelf = self.rec.shelf
        mask = self.rec.legal(replace(taste.request, history=taste.history), wish.filters)
        gone = {*taste.named, *taste.disliked, *wish.like, *wish.unlike, *(e.item_id for e in taste.history)}
        mask[[shelf.index(twin) for i in gone for twin in self._twins(i)]] = False
        if not mask.any():
            raise EmptyLegalSet("everything that fits has been named")
        kept, dropped = [], []
        for hint in wish.hints:
            narrower = mask & shelf.mask(hint[1])
            if narrower.any():
                mask = narrower
                kept.append(hint)
            else:
                dropped.append(hint)
        return Legal(mask, tuple(kept), tuple(dropped))

    def best(self, wish: Wish, taste: Taste, legal: Legal, k: int, mode: str | None) -> list[tuple[str, float]]:
        """The k best (item id, score); where hints leave fewer, what meets only the filters follows."""
        best = self._distinct(self._rank(wish, taste, legal.mask, k, mode), k)
        if legal.kept and len(best) < k:
            rest = self.legal(replace(wish, hints=()), taste).mask & ~legal.mask
            if rest.any():
                best = self._distinct([*best, *self._rank(wish, taste, rest, k, mode)], k)
        return best

    def _twins(self, item_id: str) -> list[str]:
        """Items that are the same thing to a person: one title, one year. Catalogues hold some twice."""
        item = self.rec.shelf[item_id]
        same = [i for i in self.rec.shelf.titles.get(plain(item.title), []) if i != item_id]
        year = self.year or ""
        return [item_id, *(i for i in same if self.rec.shelf[i].text.get(year) == item.text.get(year))]

    def _distinct(self, ranked: Sequence[tuple[str, float]], k: int) -> list[tuple[str, float]]:
        """The first k of a ranking, each thing once."""
        best: list[tuple[str, float]] = []
        named: set[str] = set()
        for item_id, score in ranked:
            if item_id not in named:
                best.append((item_id, score))
                named.update(self._twins(item_id))
            if len(best) == k:
                break
        return best

    def _rank(self, wish: Wish, taste: Taste, legal: Bools, k: int, mode: str | None) -> list[tuple[str, float]]:
        """Legal items by the model, the free text and the feedback together: (item id, score), best first."""
        shelf, events = self.rec.shelf, taste.events(wish)
        text = self.text.similarity(wish.text) if wish.text else None
        if text is not None and legal.sum() > TEXT_POOL:
            prior = self.rec.pool.scores([e.item_id for e in events])
            near = np.where(legal, _z(text, legal) + 0.3 * _z(prior, legal), -np.inf)
            narrow = np.zeros_like(legal)
            narrow[np.argsort(-near, kind="stable")[:TEXT_POOL]] = True
            legal = narrow
        request = replace(taste.request, history=events, query=wish.text)
        scores = self.rec.rank(request, legal, 4 * k, mode)
        rows = np.array([shelf.index(i) for i in scores.item_ids], dtype=np.int64)
        total = _z(scores.scores)
        if text is not None:
            total = total + TEXT_WEIGHT * _z(text[rows])
        if wish.avoid:
            total = total - AVOID_WEIGHT * _z(self.text.similarity(wish.avoid)[rows])
        for weight, examples in (
            (LIKE_WEIGHT, wish.like),
            (LIKED_WEIGHT, taste.liked),
            (-LIKE_WEIGHT, wish.unlike),
            (-DISLIKED_WEIGHT, taste.disliked),
        ):
            if examples:
                total = total + weight * _z(self._affinity(rows, examples))
        order = sorted(range(len(rows)), key=lambda n: (-float(total[n]), scores.item_ids[n]))
        return [(scores.item_ids[n], float(total[n])) for n in order]

    def _affinity(self, rows: Ints, others: Sequence[str]) -> Floats:
        """How alike items are to others, float32 [n]: shared tags, and nearness in the model's own item space."""
        shared = np.stack([self.tags.shared(o)[rows] for o in others])
        out = _z(shared.sum(axis=0))
        if self.rec.model.has_matching:
            vectors = self.rec.ranker.item_vectors()
            wanted = vectors[[self.rec.shelf.index(o) for o in others]].mean(axis=0)
            out = out + _z(vectors[rows] @ wanted)
        return out


def _z(values: Floats, among: Bools | None = None) -> Floats:
    """Standard scores (mean and deviation over `among`); zeros where all are alike."""
    chosen = values if among is None else values[among]
    spread = float(chosen.std()) if len(chosen) else 0.0
    if spread < 1e-9:
        return np.zeros_like(values, dtype=np.float32)
    return np.asarray((values - chosen.mean()) / spread, dtype=np.float32)
