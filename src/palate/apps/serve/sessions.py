"""Conversations that outlive a request: live ones in memory, all of them in the store."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from palate.apps.serve.person import People
from palate.apps.serve.problems import NotFound
from palate.chat import Chat
from palate.errors import RequestError
from palate.recommender import Recommender


@dataclass
class Live:
    """One conversation. lock: turns of one conversation wait for each other."""

    session: str
    user: str | None
    model: str
    chat: Chat
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """Conversations by id. At most `most` are kept in memory; the others are taken up again from the store.

    Its methods read the store: call them on a thread of their own.
    """

    def __init__(self, people: People, most: int) -> None:
        self.people, self.most = people, most
        self._live: OrderedDict[str, Live] = OrderedDict()
        self._guard = threading.Lock()

    def begin(
        self, rec: Recommender, user: str | None, history: Sequence[str] | None, context: Mapping[str, str]
    ) -> Live:
        """A new conversation, kept from its first moment. Raises RequestError for an unknown item."""
        chat = self.chat(rec, user, history, context)
        name = self.people.store.new_session(user, rec.adapter, chat.state())
        return self._keep(Live(name, user, rec.adapter, chat))

    def chat(
        self, rec: Recommender, user: str | None, history: Sequence[str] | None, context: Mapping[str, str]
    ) -> Chat:
        """A conversation that nobody keeps."""
        person = self.people.ask(user, history, context)
        # a known person's history is read anew at each turn, so the conversation keeps none of its own
        chat = Chat(rec, None, None if user is not None else history, context=context)
        chat.request = person.request
        chat.disliked += [i for i in person.blocked if i not in chat.disliked]
        return chat

    def forget(self, user: str) -> None:
        """Drop a person's conversations from memory."""
        with self._guard:
            for name in [n for n, live in self._live.items() if live.user == user]:
                del self._live[name]

    def get(self, name: str) -> Live:
        """The conversation of that id. Raises NotFound."""
        try:
            held = self.people.store.session(name)
        except RequestError as error:
            with self._guard:
                self._live.pop(name, None)
            raise NotFound(str(error)) from None
        with self._guard:
            live = self._live.get(name)
        if live is None:
            rec = self.people.rec.adapters.get(held.model) or next(iter(self.people.rec.adapters.values()))
            live = Live(name, held.user, held.model, Chat.restore(rec, held.state))
            self.renew(live)
        return self._keep(live)

    def renew(self, live: Live) -> None:
        """Let a conversation know what its person has done since. For who holds its lock, or has it alone."""
        if live.user is not None:
            live.chat.request = self.people.ask(live.user, None, live.chat.request.context).request

    def _keep(self, live: Live) -> Live:
        """Put a conversation first; another thread's, where it was quicker."""
        with self._guard:
            kept = self._live.setdefault(live.session, live)
            self._live.move_to_end(live.session)
            idle = [name for name, other in self._live.items() if not other.lock.locked()]
            for name in idle[: max(0, len(self._live) - self.most)]:
                if name != live.session:
                    del self._live[name]
            return kept
