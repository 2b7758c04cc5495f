"""The facade people import: retrieve, serialize, score, rank; for known users, new users and new items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from palate import prompting
from palate.config import PromptConfig
from palate.data import Dataset
from palate.engine.modes import Mode
from palate.engine.runner import Runner
from palate.errors import EmptyLegalSet, RequestError
from palate.model import Model
from palate.recommender import loading
from palate.recommender.fields import Field, profile
from palate.recommender.filters import describe
from palate.recommender.newitems import NewItemEncoders
from palate.recommender.pool import Pool
from palate.recommender.ranking import POOL, Ranker
from palate.recommender.reasons import Reasoner
from palate.recommender.shelf import Shelf
from palate.schema import Bools, Event, Item, Quantization, Request, Scores

if TYPE_CHECKING:
    from palate.chat import Chat
    from palate.recommender.explain import Explanation

PROFILE_ITEMS = 100_000
"""Items read to learn what the catalogue's fields hold."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item. `reason` names only what the catalogue and the history hold."""

    item_id: str
    title: str
    score: float
    rank: int
    reason: str
    image: Path | None = None


class Recommender:
    """Scores and recommends items of one data set with one model.

        rec = Recommender.load("adapters/ml-100k")
        rec.recommend(history=["Alien", "Heat"], k=10, filters={"year": (1980, 1995)})

    Put together by `load`; the constructor takes parts that are loaded already.
    """

    def __init__(self, model: Model, dataset: Dataset, meta: Mapping[str, Any] | None = None) -> None:
        self.model, self.dataset, self.meta = model, dataset, dict(meta or {})
        self.shelf = Shelf(dataset.catalog)
        self.config: PromptConfig = loading.prompt_config(self.meta)
        soft = model.soft
        self.serializer = prompting.Serializer(
            model.tokenizer,
            self.shelf,
            dataset.wording,
            dataset.show,
            self.config,
            soft.slots if soft is not None else lambda item_id: (),
        )
        self.runner = Runner(model)
        self.pool = Pool(self.shelf, dataset.histories.interactions, soft.tables() if soft is not None else {})
        self.ranker = Ranker(self.runner, self.serializer, self.shelf, self.pool)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        data: str | Path | Dataset | None = None,
        quantization: Quantization | None = None,
        device: str = "auto",
        base: str | None = None,
    ) -> Self:
        """Load a bundle folder (or its name under adapters/), or an untuned base by its source.

        data: data set folder; None takes the one the bundle was trained on, from ./data/NAME or fetched.
        base: another place to find the bundle's base. Raises BundleError, DataError, SourceError or
        ConfigError.
        """
        target = loading.resolve(path)
        meta = loading.read_meta(target)
        dataset = loading.open_data(data, meta)
        model = loading.load_model(target, dataset, quantization=quantization, device=device, base=base)
        return cls(model, dataset, meta)

    # --- scoring ------------------------------------------------------------------------------------

    @property
    def default_mode(self) -> str:
        """`embedding` where the adapter has a matching head, else `likelihood`."""
        return self.ranker.default

    def mode(self, name: str | None = None) -> Mode:
        """The scoring mode called `name`; None: the default. Raises ConfigError for an unknown one."""
        return self.ranker.mode(name)

    def score(self, requests: Request | Sequence[Request], mode: str | None = None) -> list[Scores]:
        """Score each request's candidates, in their order, higher is better.

        A request without a history takes that of its `user_id` in the data set; an unknown user without one
        is scored with an empty history. Raises RequestError for unknown items, empty or repeated candidates.
        """
        batch = [requests] if isinstance(requests, Request) else list(requests)
        if not batch:
            return []
        ready = [self.complete(r) for r in batch]
        for request in ready:
            self._check_candidates(request)
        return self.mode(mode).scores(self.runner, self.serializer, ready)

    def complete(self, request: Request) -> Request:
        """The request with what the data set knows of its user: history and profile where it brings none
        itself.
        """
        user = request.user_id
        known = user is not None and user in self.dataset.histories
        history = request.history
        if not history and known:
            history = self.dataset.histories.events(str(user))
        profile = request.profile or (self.dataset.users.get(user, {}) if user is not None else {})
        for event in request.history:
            self.shelf.check(event.item_id, f"history item in request {request.request_id!r}:")
        return replace(request, history=history, profile=profile)

    def _check_candidates(self, request: Request) -> None:
        if not request.candidates:
            raise RequestError(f"request {request.request_id!r}: expected candidates to score, got none")
        for item_id in request.candidates:
            self.shelf.check(item_id, f"candidate in request {request.request_id!r}:")
        if len(set(request.candidates)) < len(request.candidates):
            twice = next(i for n, i in enumerate(request.candidates) if i in request.candidates[:n])
            raise RequestError(f"request {request.request_id!r}: the candidate {twice!r} is listed twice")

    # --- recommending -------------------------------------------------------------------------------

    def recommend(
        self,
        user: str | None = None,
        history: Sequence[str | Event] | None = None,
        k: int = 10,
        context: Mapping[str, str] | None = None,
        filters: Mapping[str, Any] | None = None,
        mode: str | None = None,
        pool: int = POOL,
    ) -> list[Recommendation]:
        """The k best unseen items for a user, best first; fewer where fewer are legal.

        history: item ids, titles or Events, oldest first; it goes before the data set's. filters: see
        `palate.recommender.filters`. pool: how many retrieved candidates the modes but `embedding` and
        `generate` rerank. Raises RequestError for an unknown item or field, EmptyLegalSet where the filters
        leave nothing.
        """
        if k < 1:
            raise RequestError(f"expected k of at least 1, got {k}")
        request = self.request(user, history, context)
        legal = self.legal(request, filters)
        best = self.rank(request, legal, k, mode, pool).top(k)
        return self.present(best, [e.item_id for e in request.history])

    def request(
        self,
        user: str | None = None,
        history: Sequence[str | Event] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Request:
        """A request without candidates for a user id, a history of ids or titles, or nobody in particular."""
        if isinstance(history, str):
            raise RequestError(
                f"history: expected a list of ids or titles, got the text {history!r}; write [{history!r}]"
            )
        events = tuple(h if isinstance(h, Event) else Event(self.shelf.find(h)) for h in history or ())
        user = None if user is None else str(user)
        return self.complete(Request(user or "request", user, events, context=dict(context or {})))

    def legal(self, request: Request, filters: Mapping[str, Any] | None = None) -> Bools:
        """Items that may be named: unseen ones that pass the filters, bool [N] in shelf order.

        Raises EmptyLegalSet where there are none.
        """
        legal = self.shelf.mask(filters)
        if not legal.any():
            raise EmptyLegalSet(f"no {self.dataset.wording.item} of the catalogue satisfies {describe(filters or {})}")
        seen = {e.item_id for e in request.history}
        if request.user_id is not None and request.user_id in self.dataset.histories:
            seen |= {e.item_id for e in self.dataset.histories.events(request.user_id)}
        legal[[self.shelf.index(i) for i in seen if i in self.shelf]] = False
        if not legal.any():
            raise EmptyLegalSet(
                f"every {self.dataset.wording.item} that satisfies "
                f"{describe(filters or {}) or 'the request'} is in the history already; widen the filters"
            )
        return legal

    def rank(self, request: Request, legal: Bools, k: int, mode: str | None = None, pool: int = POOL) -> Scores:
        """Scores of the legal items worth considering; see `Ranker.rank`."""
        return self.ranker.rank(request, legal, k, mode, pool)

    def present(self, best: Sequence[tuple[str, float]], history: Sequence[str]) -> list[Recommendation]:
        """Ranked (item id, score) pairs with title, reason and picture."""
        reasons = self.reasoner
        return [
            Recommendation(
                item_id,
                self.shelf[item_id].title,
                score,
                rank,
                reasons.reason(item_id, history),
                self.shelf[item_id].media.get("image"),
            )
            for rank, (item_id, score) in enumerate(best, 1)
        ]

    # --- understanding ------------------------------------------------------------------------------

    @cached_property
    def fields(self) -> dict[str, Field]:
        """What each text field of the catalogue holds."""
        ids = self.shelf.item_ids
        step = max(1, len(ids) // PROFILE_ITEMS)
        return profile(self.shelf[i] for i in ids[::step])

    @cached_property
    def reasoner(self) -> Reasoner:
        nearest = self.ranker.nearest if self.model.has_matching else None
        return Reasoner(self.shelf, self.fields, self.dataset.wording, self.dataset.show, nearest)

    def explain(
        self,
        item: str,
        user: str | None = None,
        history: Sequence[str | Event] | None = None,
        mode: str | None = None,
    ) -> Explanation:
        """What in the history speaks for an item (an id or a title): each history item left out in turn."""
        from palate.recommender.explain import explain

        return explain(self, self.shelf.find(item), self.request(user, history), mode)

    # --- new items, conversation --------------------------------------------------------------------

    def add_item(
        self,
        title: str,
        text: Mapping[str, str] | None = None,
        media: Mapping[str, str | Path] | str | Path | None = None,
        item_id: str | None = None,
    ) -> str:
        """Put an item into the catalogue from its text and media alone; every mode can name it at once.

        text: text fields; media: modality -> file, or one file, taken as the image. A file that cannot be
        read costs the item that modality and warns. Returns the item's id. Raises RequestError where the id
        is taken.
        """
        if isinstance(media, str | Path):
            media = {"image": media}
        item = Item(
            item_id if item_id is not None else self.shelf.new_id(),
            title,
            {str(k): str(v) for k, v in (text or {}).items() if str(v).strip()},
            {m: Path(p) for m, p in (media or {}).items()},
        )
        self.shelf.check_new(item)
        soft = self.model.soft
        vectors = {} if soft is None else self._encoders.encode(item)
        self.shelf.add(item)
        if soft is not None:
            soft.add_item(item.item_id, vectors)
        return item.item_id

    @cached_property
    def _encoders(self) -> NewItemEncoders:
        return NewItemEncoders(self.meta)

    def chat(self, user: str | None = None, history: Sequence[str | Event] | None = None) -> Chat:
        """A conversation with this user."""
        from palate.chat import Chat

        return Chat(self, user=user, history=history)
