"""What all chats of one base have in common: the lock, the parser and the text search of its catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from palate.chat.alike import SharedTags
from palate.chat.textmatch import TextMatch
from palate.chat.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from palate.recommender import Recommender
    from palate.schema import Features


class Shared:
    """Built once a base. lock: its recommenders' own, so that a chat's step and any other call wait for one another."""

    def __init__(self, rec: Recommender) -> None:
        self.lock = rec.turn
        self.tags = SharedTags(rec.shelf, rec.reasoner.fields)
        self._parts: dict[bool | None, tuple[TextMatch, Wishes]] = {}
        self._rec = ref(rec)

    def parts(self, rec: Recommender, dense: bool | None) -> tuple[TextMatch, Wishes]:
        """The text search and the parser; dense: see TextMatch."""
        with self.lock:
            if dense not in self._parts:
                text = TextMatch(rec.shelf, dense, self._tables)
                self._parts[dense] = text, Wishes(rec.shelf, rec.fields, text, rec.dataset.wording.item)
            return self._parts[dense]

    def _tables(self) -> Mapping[str, Features]:
        """The item vectors the adapter carries."""
        rec = self._rec()
        return rec.model.soft.tables() if rec is not None and rec.model.soft is not None else {}


_shared: WeakKeyDictionary[Recommender, Shared] = WeakKeyDictionary()


def shared(rec: Recommender) -> Shared:
    """What the chats of a recommender's base share."""
    first = next(iter(rec.adapters.values()))
    return _shared.setdefault(first, _shared.get(first) or Shared(first))
