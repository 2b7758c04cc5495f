"""How much items have in common by their tags, for a whole shelf at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from palate.recommender.fields import Field, rarity
from palate.recommender.reasons import COMMON
from palate.recommender.shelf import Shelf
from palate.schema import Floats


class SharedTags:
    """How much any two items have in common by their tags: the rarity of those they share, summed."""

    def __init__(self, shelf: Shelf, fields: Mapping[str, Field]) -> None:
        self.shelf, self.fields = shelf, fields
        self._rows: dict[tuple[str, str], list[int]] = {}
        self._read = 0

    def shared(self, item_id: str) -> Floats:
        """Of every item of the shelf with one: float32 [N], as `Reasoner.common` weighs it."""
        shelf, fields = self.shelf, self.fields
        for row in range(self._read, len(shelf)):
            for key in self._of(shelf.item_ids[row]):
                self._rows.setdefault(key, []).append(row)
        self._read = len(shelf)
        out = np.zeros(len(shelf), dtype=np.float32)
        for (name, _), tag in self._of(item_id).items():
            if fields[name].tags.get(tag, 1) <= max(1, COMMON * len(shelf)):
                out[self._rows[name, tag.casefold()]] += rarity(tag, fields[name], len(shelf))
        return out

    def _of(self, item_id: str) -> dict[tuple[str, str], str]:
        """(field, folded tag) -> tag as the item writes it."""
        item = self.shelf[item_id]
        return {(n, t.casefold()): t for n, f in self.fields.items() for t in f.split(item.text.get(n, ""))}
