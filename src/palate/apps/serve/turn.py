"""One turn of a conversation on its way through the worker: pieces as they come, and what is kept of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from palate.apps.serve.works import TURN, stepwise
from palate.chat import Chat, Piece
from palate.recommender import Recommendation

if TYPE_CHECKING:
    from palate.apps.serve.service import Service
    from palate.apps.serve.sessions import Live
    from palate.apps.serve.wire import ChatBody


class Turn:
    """A question and its answer. `start` queues it, `pieces` gives the answer, `kept` ends when the session has it.

    In a session the question is stored before the model is asked, so that a server that dies in the middle has it.
    """

    def __init__(self, here: Service, body: ChatBody, chat: Chat, text: str, live: Live | None) -> None:
        self.here, self.body, self.chat, self.question, self.live = here, body, chat, text, live
        self.model = chat.rec.adapter
        self.text = ""
        self.items: list[Recommendation] = []
        self.future: Future[Any] | None = None
        self.kept: asyncio.Future[None] | None = None
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._left = False
        self._held = False
        self._began = time.monotonic()

    @classmethod
    async def of(cls, here: Service, body: ChatBody, chat: Chat, text: str, live: Live | None = None) -> Self:
        """A turn that is next in its conversation."""
        turn = cls(here, body, chat, text, live)
        if live is not None:
            await live.lock.acquire()
            turn._held = True
            try:
                here.worker.check()
                await asyncio.to_thread(here.sessions.renew, live)
                await asyncio.to_thread(here.store.save_turn, live.session, "user", text)
            except BaseException:
                turn._release()
                raise
        return turn

    def start(self, timeout: float) -> None:
        """Queue the turn; it is stored and lets the next begin, whoever waits. Raises Overloaded or Closing."""
        try:
            self.future = self.here.worker.submit(TURN, self._take, 1, timeout)
        except BaseException:
            self._release()
            raise
        self.future.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._queue.put_nowait, None))
        self.kept = asyncio.ensure_future(self._keep())

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer as it comes. Raises what the turn raised."""
        assert self.future is not None
        while (piece := await self._queue.get()) is not None:
            yield piece
        self.future.result()

    def leave(self) -> None:
        """Nobody listens any more: a turn that has not begun is not taken, one that has ends at its next piece."""
        self._left = True
        if self.future is not None:
            self.future.cancel()

    async def _keep(self) -> None:
        """Store what was said, once the worker is done with the conversation, and let the next turn begin."""
        if self.live is None or not self._held:
            return
        try:
            if self.future is not None and not self.future.cancelled():
                await asyncio.wait([asyncio.wrap_future(self.future)])
            store, name, state = self.here.store, self.live.session, self.chat.state()
            if self.text:
                told = [self.here.recommended(i) for i in self.items]
                await asyncio.to_thread(store.save_turn, name, "assistant", self.text, told, state)
            else:  # nobody heard the answer; feedback in the question counts all the same
                await asyncio.to_thread(store.save_state, name, state)
        finally:
            self._release()

    def _take(self) -> None:
        """On the worker's thread. Without a session what came before is told by the messages."""
        self.chat.k = self.body.k
        for message in self.body.messages[:-1] if self.live is None else ():
            if message.role == "user":
                self.chat.listen(message.text)
            elif message.role == "assistant":
                self.chat.told(message.text)
        stepwise(self.chat.stream(self.question, self.body.context or None), self._emit)

    def _emit(self, piece: Piece) -> bool:
        if self._left:
            return False
        if piece.item is not None:
            if not self.items:
                self.here.metrics.first.observe(time.monotonic() - self._began)
            self.items.append(piece.item)
        self.text += piece.text
        self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
        return True

    def _release(self) -> None:
        if self._held and self.live is not None:
            self._held = False
            self.live.lock.release()
