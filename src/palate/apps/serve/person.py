"""Who is asking: the data set's history, what the store has heard since, and what the request itself brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from palate.recommender import Recommender
from palate.schema import Event, Request
from palate.store import Store


@dataclass(frozen=True)
class Person:
    """One asker. request: history and context, no candidates; blocked: items they dislike, never to be named."""

    request: Request
    known: bool
    liked: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()


class People:
    """Puts together what is known of a person when they ask, so that an event counts from the next request on.

    A person who asked to be forgotten is a stranger, whatever the data set still holds.
    """

    def __init__(self, rec: Recommender, store: Store) -> None:
        self.rec, self.store = rec, store
        self._past = lru_cache(4096)(self._read)

    def _read(self, user: str) -> tuple[Event, ...]:
        histories = self.rec.dataset.histories
        return histories.events(user) if user in histories else ()

    def ask(
        self,
        user: str | None,
        history: Sequence[str | Event] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Person:
        """A person by id, by what they chose (ids, titles or Events, oldest first; in place of what is known), or
        nobody in particular. Raises RequestError for an unknown item."""
        find = self.rec.shelf.find
        own = [find(h) if isinstance(h, str) else replace(h, item_id=find(h.item_id)) for h in history or ()]
        if user is None:
            return Person(self.rec.request(None, own, context), False)
        forgotten = self.store.was_forgotten(user)
        past = () if forgotten else self._past(user)
        heard = self.store.events(user)
        feedback = self.store.feedback(user)
        gone = set(feedback.disliked)
        later = [e.as_event() for e in heard if e.kind != "dislike" and e.item not in gone and e.item in self.rec.shelf]
        events: list[str | Event] = own or list(_latest([*past, *later]))
        # without a name where the data set's own rows must not be read
        name = user if events and not forgotten else None
        request = self.rec.request(name, events, context)
        blocked = tuple(i for i in feedback.disliked if i in self.rec.shelf)
        return Person(request, bool(events), tuple(i for i in feedback.liked if i in self.rec.shelf), blocked)


def _latest(events: Sequence[Event]) -> list[Event]:
    """Each item once, where it first stands: liking what one has watched tells nothing new."""
    held: dict[str, Event] = {}
    for event in events:
        if event.item_id not in held:
            held[event.item_id] = event
    return list(held.values())
