"""A conversation about what to choose next: plain wishes in, items with reasons out, feedback taken at once.

    chat = rec.chat(user="42")
    chat.ask("something funny for the kids, not animated, under 100 minutes")
    chat.like("Babe"); chat.more(); chat.why("Babe")
    for piece in chat.stream("a thriller from the 90s"): print(piece, end="")

Every item named is in the catalogue, meets the structured filters and has not been named or chosen before.
What the message says plainly (tags, years, lengths, titles) becomes filters; the rest is matched with the
items' text and blended with the model's ranking.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from palate.chat import memory
from palate.chat.answers import Answer, Piece, Step, Stream, Turn, drained
from palate.chat.finding import Finder, Legal, Taste
from palate.chat.languages import Language, language_of, languages
from palate.chat.saying import Speaker
from palate.chat.shared import shared
from palate.chat.wishes import Said, Wish
from palate.errors import EmptyLegalSet, RequestError
from palate.schema import Event, Request

if TYPE_CHECKING:
    from palate.recommender import Recommendation, Recommender
    from palate.recommender.explain import Explanation


Steps = Generator[Step, None, Answer]


class Chat:
    """One person's conversation. `history` grows with what they like; `k` items an answer.

    context: the moment in words, see `palate.prompting.context.context_of`. dense: see TextMatch. mode: the scoring
    mode, None for the recommender's default. In every mode names exist: `generate` writes titles token by token down
    the trie of the catalogue, masked to the items that may be named; the other modes score items of the catalogue and
    write nothing, and the lines are put together from its titles.

    Several chats of one base may be used from several threads; they compute one at a time.
    """

    def __init__(
        self,
        rec: Recommender,
        user: str | None = None,
        history: Sequence[str | Event] | None = None,
        k: int = 5,
        mode: str | None = None,
        dense: bool | None = None,
        context: Mapping[str, str] | None = None,
    ) -> None:
        if k < 1:
            raise RequestError(f"expected k of at least 1, got {k}")
        self.rec, self.k, self.mode = rec, k, mode
        self.request: Request = rec.request(user, history, context)
        self.given = tuple(self.request.history) if history else None
        self.language: Language = languages()["en"]
        self.last: Answer | None = None
        common = shared(rec)
        self._lock = common.lock
        text, self.wishes = common.parts(rec, dense)
        year = self.wishes.amounts.year
        self._finder, self._speaker = Finder(rec, text, common.tags, year), Speaker(rec, year)
        self._forget()

    def _forget(self) -> None:
        self.liked: list[str] = []
        self.disliked: list[str] = []
        self.seen: list[str] = []
        self.shown: list[str] = []
        self.latest: list[str] = []
        self.wish: Wish | None = None
        self.said: tuple[Said, ...] = ()
        self.offer: tuple[Said, ...] | str | None = None

    # --- the conversation ---------------------------------------------------------------------------

    def ask(self, text: str, context: Mapping[str, str] | None = None) -> Answer:
        """Answer one message. context: in place of the conversation's, for this turn."""
        return drained(self.stream(text, context))

    def stream(self, text: str, context: Mapping[str, str] | None = None) -> Stream:
        """The answer as it comes: the first item once the ranking is known, each line with its reason.

        What a piece names is remembered when it is handed out, so a stream may be left at any point.
        """
        return self._handed_out(self._steps(lambda: self._hear(text), context))

    async def aask(self, text: str, context: Mapping[str, str] | None = None) -> Answer:
        """`ask` in a thread; the event loop stays free. Of a cancelled one only feedback is remembered."""
        steps = self._steps(lambda: self._hear(text), context)
        while not isinstance(step := await asyncio.to_thread(self._next, steps), Answer):
            step.take()
        self.last = step
        return step

    async def astream(self, text: str, context: Mapping[str, str] | None = None) -> AsyncGenerator[Piece]:
        """`stream` in a thread, a piece at a time; what was computed but not handed out is not remembered."""
        steps = self._steps(lambda: self._hear(text), context)
        while not isinstance(step := await asyncio.to_thread(self._next, steps), Answer):
            step.take()
            yield step.piece
        self.last = step

    def more(self, context: Mapping[str, str] | None = None) -> Answer:
        """The next items under the same wish."""
        return drained(self._handed_out(self._steps(self._more, context)))

    def reset(self) -> Answer:
        """Forget the conversation and its feedback; the person's own history stays."""
        self._forget()
        return self._told("fresh")

    def like(self, item: str) -> Answer:
        """They like an item (title or id): it joins the history the model sees."""
        return self._told("liked", title=self._feedback(item, self.liked))

    def dislike(self, item: str) -> Answer:
        """They do not like an item: it and its kind move down."""
        return self._told("disliked", title=self._feedback(item, self.disliked))

    def mark_seen(self, item: str) -> Answer:
        """They know an item already: it joins the history and is not named again."""
        return self._told("seen", title=self._feedback(item, self.seen))

    def why(self, item: str | None = None) -> Explanation:
        """What in the history speaks for an item; by default the first of the last answer."""
        if item is None and not self.latest:
            raise RequestError("why what? Nothing has been recommended yet; name an item")
        item_id = self.latest[0] if item is None else self.rec.shelf.find(item)
        with self._lock:
            return self.rec.explain(item_id, self.request.user_id, self.history, self.mode, self.request.context)

    # --- replaying ----------------------------------------------------------------------------------

    def listen(self, text: str) -> None:
        """Take a message into account without answering: feedback and wish count from the next answer on."""
        with self._lock:
            turn = self._hear(text)
        if turn.wish is not None:
            self._take(turn)

    def told(self, text: str) -> None:
        """Take an earlier answer's text into account: what its numbered lines name is not named again."""
        named = self._speaker.named(text)
        if named:
            self.shown += [i for i in named if i not in self.shown]
            self.latest = named

    def state(self) -> dict[str, Any]:
        """The conversation as plain data for JSON; the keys are stable, see `palate.chat.memory`."""
        return memory.state(self)

    @classmethod
    def restore(cls, rec: Recommender, state: Mapping[str, Any], dense: bool | None = None) -> Chat:
        """A conversation that goes on as the one whose `state` this is. Raises RequestError where it is none."""
        return memory.restore(cls, rec, state, dense)

    # --- understanding ------------------------------------------------------------------------------

    def _hear(self, text: str, language: Language | None = None) -> Turn:
        """Understand a message. Feedback and a reset count at once; no model runs. language: None for its own."""
        self.language = language or (language_of(text) if text.strip() else self.language)
        offer, self.offer = self.offer, None
        text = self._speaker.pointed(self.language, text, self.latest)
        wish = self.wishes.parse(text)
        if wish.intent == "yes" and offer is not None:
            if isinstance(offer, str):
                return self._hear(offer, self.language)
            return self._turn(self.wishes.folded(offer), offer)
        if wish.intent == "more":
            return self._more()
        if wish.intent == "reset":
            return Turn(self.reset().text)
        if wish.questions:
            self.offer = self._offered(wish)
            return Turn(" ".join(wish.questions))
        if wish.intent in ("like", "dislike", "seen") and wish.targets:
            into, key = {
                "like": (self.liked, "liked"), "dislike": (self.disliked, "disliked"), "seen": (self.seen, "seen")
            }[wish.intent]  # fmt: skip
            for item_id in wish.targets:
                self._feedback(item_id, into)
            return Turn(self._say(key, title=self._speaker.titles(self.language, wish.targets)))
        if wish.intent == "why":
            target = next(iter((*wish.targets, *self.latest)), None)
            return Turn(why=target) if target else Turn(self._say("nothing_yet"))
        if wish.intent in ("empty", "yes", "no"):
            return Turn(self._say("declined" if wish.intent == "no" and offer else "mood"))
        said = (Said(text),)
        if wish.refines and self.wish is not None:
            both = self._turn(wish.onto(self.wish), (*self.said, *said))
            if both.wish is not None or not wish.filters:
                return both
            # nothing is both: then it was a new wish
        return self._turn(wish, said)

    def _more(self) -> Turn:
        return self._turn(self.wish or Wish(), self.said)

    def _turn(self, wish: Wish, said: tuple[Said, ...]) -> Turn:
        """Items for a wish, or why there are none, with an offer to drop what stands in the way."""
        try:
            return Turn(wish=wish, said=said, legal=self._finder.legal(wish, self._taste()))
        except EmptyLegalSet:
            reply, name = self._speaker.nothing(self.language, wish)
            if name is not None:
                self.offer = tuple(replace(s, without=(*s.without, name)) for s in said)
            return Turn(reply)

    def _offered(self, wish: Wish) -> tuple[Said, ...] | str | None:
        """What a "yes" to a wish's questions would mean."""
        if isinstance(wish.offer, Said):
            before = self.said if wish.refines and self.wish is not None else ()
            return (*before, wish.offer)
        return wish.offer

    # --- answering ----------------------------------------------------------------------------------

    def _steps(self, hear: Callable[[], Turn], context: Mapping[str, str] | None) -> Steps:
        """An answer step by step. `hear` takes feedback; the rest is remembered by who hands the steps out."""
        turn = hear()
        if turn.why is not None:
            found = self.why(turn.why)
            text = self._speaker.why(self.language, found)
            yield Step(Piece(text))
            return Answer(text, explanation=found)
        if turn.wish is None or turn.legal is None:
            yield Step(Piece(turn.reply))
            return Answer(turn.reply)
        return (yield from self._items(turn, turn.wish, turn.legal, context))

    def _items(self, turn: Turn, wish: Wish, legal: Legal, context: Mapping[str, str] | None) -> Steps:
        taste, language, k = self._taste(context), self.language, self.k
        best = self._finder.best(wish, taste, legal, k, self.mode)
        pieces = [Piece(self._speaker.head(language, wish, legal, len(best)))]
        yield Step(pieces[0])
        known = [e.item_id for e in taste.events(wish)]
        for rank, scored in enumerate(best, 1):
            item = replace(self.rec.present([scored], known)[0], rank=rank)
            pieces.append(Piece("\n" + self._speaker.line(language, item), item))
            yield Step(pieces[-1], partial(self._name, turn, item))
        for line in self._speaker.tail(language, wish, legal, len(best), k):
            pieces.append(Piece("\n" + line))
            yield Step(pieces[-1])
        return Answer("".join(p.text for p in pieces), tuple(p.item for p in pieces if p.item is not None))

    def _name(self, turn: Turn, item: Recommendation) -> None:
        """Remember that an item of a turn was named."""
        if item.rank == 1:
            self._take(turn)
            self.latest = []
        self.shown.append(item.item_id)
        self.latest.append(item.item_id)

    def _take(self, turn: Turn) -> None:
        self.wish, self.said = turn.wish, turn.said

    def _next(self, steps: Steps) -> Step | Answer:
        with self._lock:
            try:
                return next(steps)
            except StopIteration as end:
                answer: Answer = end.value
                return answer

    def _handed_out(self, steps: Steps) -> Stream:
        while not isinstance(step := self._next(steps), Answer):
            step.take()
            yield step.piece
        self.last = step
        return step

    # --- the person ---------------------------------------------------------------------------------

    @property
    def history(self) -> tuple[Event, ...]:
        """The person's history with what they said they know or like."""
        held = {e.item_id for e in self.request.history}
        told = dict.fromkeys([*self.seen, *self.liked])
        return (*self.request.history, *(Event(i) for i in told if i not in held))

    def _taste(self, context: Mapping[str, str] | None = None) -> Taste:
        request = self.request if context is None else replace(self.request, context=dict(context))
        return Taste(request, self.history, tuple(self.liked), tuple(self.disliked), frozenset(self.shown))

    def _feedback(self, item: str, into: list[str]) -> str:
        """Note an item in one list alone; its title."""
        item_id = self.rec.shelf.find(item)
        for held in (self.liked, self.disliked, self.seen):
            if item_id in held:
                held.remove(item_id)
        into.append(item_id)
        return self.rec.shelf[item_id].title

    def _say(self, key: str, **parts: Any) -> str:
        return self._speaker.say(self.language, key, **parts)

    def _told(self, key: str, **parts: Any) -> Answer:
        self.last = Answer(self._say(key, **parts))
        return self.last
