"""Titles as they are typed: those that begin so, those with a word that begins so, then those that look alike."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from palate.recommender import Recommender
from palate.recommender.shelf import plain
from palate.schema import Item

MORE = 400
"""Matches looked at before the most chosen are shown."""


class Titles:
    """Search for a box that is typed into. The index is built when first asked and again when items were added."""

    def __init__(self, rec: Recommender) -> None:
        self.rec = rec
        self._keys: list[tuple[str, int]] = []
        self._size = -1
        interactions = rec.dataset.histories.interactions
        self._chosen = np.bincount(interactions.items, minlength=len(interactions.item_ids))

    def popular(self, limit: int) -> list[Item]:
        """The items chosen most."""
        ids = self.rec.shelf.item_ids
        return [self.rec.shelf[ids[n]] for n in np.argsort(-self._chosen, kind="stable")[:limit].tolist()]

    def find(self, typed: str, limit: int) -> list[Item]:
        """Items whose titles match what is typed, best first; the most chosen for an empty text."""
        wanted = plain(typed) if typed.strip() else ""
        if not wanted:
            return self.popular(limit)
        ids = self.rec.shelf.item_ids
        found = dict.fromkeys(sorted(self._beginning(wanted), key=lambda n: (self._rank(n, wanted), -self._count(n))))
        items = [self.rec.shelf[ids[n]] for n in list(found)[:limit]]
        if len(items) < limit:
            held = {i.item_id for i in items}
            near = (self.rec.shelf.lookup(t) for t in self.rec.shelf.near(typed[:200], limit))
            items += [self.rec.shelf[i] for i in near if i is not None and i not in held]
        return items[:limit]

    def _beginning(self, wanted: str) -> Iterator[int]:
        keys = self._index()
        for at in range(bisect_left(keys, (wanted, -1)), min(len(keys), bisect_left(keys, (wanted, -1)) + MORE)):
            key, place = keys[at]
            if not key.startswith(wanted):
                return
            yield place

    def _rank(self, place: int, wanted: str) -> int:
        """0: the whole title, 1: its beginning, 2: a later word."""
        title = plain(self.rec.shelf.column("title")[place])
        return 0 if title == wanted else 1 if title.startswith(wanted) else 2

    def _count(self, place: int) -> int:
        return int(self._chosen[place]) if place < len(self._chosen) else 0

    def _index(self) -> list[tuple[str, int]]:
        """(title from one of its words on, place), sorted."""
        if self._size != len(self.rec.shelf):
            keys = []
            for place, title in enumerate(self.rec.shelf.column("title")):
                words = plain(title).split()
                keys += [(" ".join(words[n:]), place) for n in range(len(words))]
            self._keys, self._size = sorted(keys), len(self.rec.shelf)
        return self._keys
