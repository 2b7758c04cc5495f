"""The facade people import: retrieve, serialize, score, rank; for known users, new users and new items."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from palate import prompting
from palate.config import PromptConfig
from palate.data import Dataset
from palate.engine.index import Kind
from palate.engine.modes import Mode
from palate.engine.prefix import PrefixCache
from palate.engine.runner import Runner
from palate.errors import BundleError, EmptyLegalSet, RequestError, did_you_mean
from palate.model import Model, shared
from palate.model.merge import Merge
from palate.recommender import loading
from palate.recommender import rerank as reranking
from palate.recommender.fields import Field, profile, sampled
from palate.recommender.filters import describe
from palate.recommender.interests import Interests
from palate.recommender.newitems import NewItemEncoders, make_item
from palate.recommender.pool import Pool
from palate.recommender.ranking import POOL, Ranker
from palate.recommender.reasons import Reasoner
from palate.recommender.request import check_candidates, complete
from palate.recommender.shelf import Shelf
from palate.schema import Bools, Dtype, Event, Floats, Quantization, Request, Scores

if TYPE_CHECKING:
    from palate.chat import Chat
    from palate.recommender.explain import Explanation

P = ParamSpec("P")
T = TypeVar("T")


def in_turn(method: Callable[Concatenate[Recommender, P], T]) -> Callable[Concatenate[Recommender, P], T]:
    """A method that waits for its turn with the base: any thread may call it, one runs at a time."""

    @wraps(method)
    def waiting(self: Recommender, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.turn:
            return method(self, *args, **kwargs)

    return waiting


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

    Several adapters on one base are one recommender each, with one data set and one shelf (see `add_adapter`). Any
    thread may call any of them; calls that use the model wait for one another (`turn`).
    Put together by `load`; the constructor takes parts that are loaded already.

    adapter: this one's name. first: the recommender whose base, shelf and prefix cache it shares.
    prefixes: keys and values of prompts kept for a user's next request; `prefixes.stats` tells the hit rate, and
    `prefixes.max_bytes` may be set.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        meta: Mapping[str, Any] | None = None,
        adapter: str = "adapter",
        first: Recommender | None = None,
    ) -> None:
        self.model, self.dataset, self.meta, self.adapter = model, dataset, dict(meta or {}), adapter
        # a call puts its adapter's LoRA in force on the base that all share
        self.turn: threading.RLock = threading.RLock() if first is None else first.turn
        # left empty while there is one adapter: no reference cycle then holds the model's memory
        self._several: dict[str, Recommender] = {} if first is None else first._several
        self._options: loading.Options = loading.Options() if first is None else first._options
        self.shelf: Shelf = Shelf(dataset.catalog) if first is None else first.shelf
        alike = (rec._encoders for rec in (first.adapters.values() if first else ()) if rec._encoders.serve(self.meta))
        self._encoders: NewItemEncoders = next(alike, None) or NewItemEncoders(self.meta)
        self.config: PromptConfig = loading.prompt_config(self.meta)
        soft = model.soft
        self.serializer = prompting.Serializer(
            model.tokenizer,
            self.shelf,
            dataset.wording,
            dataset.show,
            self.config,
            soft.slots if soft is not None else lambda item_id: (),
            Interests(dataset.catalog, self.shelf, self.config.language) if self.config.interests else None,
        )
        self.prefixes: PrefixCache = PrefixCache() if first is None else first.prefixes
        self.runner: Runner = Runner(model, prefixes=self.prefixes)
        interactions = dataset.histories.interactions
        self.pool: Pool = Pool(self.shelf, interactions, soft.tables() if soft is not None else {})
        if first is not None and len(interactions.items):
            self.pool = first.pool  # fitted on interactions alone
        self.ranker = Ranker(self.runner, self.serializer, self.shelf, self.pool, self.meta)

    @classmethod
    def load(
        cls,
        path: str | Path | Mapping[str, str | Path],
        *,
        data: str | Path | Dataset | None = None,
        quantization: Quantization | None = None,
        dtype: Dtype | None = None,
        device: str = "auto",
        base: str | None = None,
        layers: int | None = None,
        merge: Merge = "auto",
        index: Kind = "exact",
    ) -> Self:
        """Load a bundle folder (or its name under adapters/), or an untuned base by its source.

        Several bundles of one base, as a mapping of names to folders, share its weights: requests name theirs, the
        first answers those that name none.

        data: data set folder; None takes the one the bundle was trained on, from ./data/NAME or fetched.
        base: another place to find the bundle's base. quantization, dtype, device, layers, merge: how the model
        is held and computed, see `palate.model.bundle.load`. index: how mode `embedding` searches a huge catalogue, see
        `palate.recommender.nearest`. Raises BundleError, DataError, SourceError or ConfigError.
        """
        targets, merge = loading.named(path, merge)
        metas = {name: loading.read_meta(target) for name, target in targets.items()}
        options = loading.Options(quantization, dtype, device, base, layers, merge)
        (name, target), *others = targets.items()
        dataset = loading.open_data(data, metas[name])
        if data is None:
            loading.check_one_data_set(metas)
        dataset = loading.captioned(dataset, metas)
        rec = cls(loading.load_model(target, dataset, options), dataset, metas[name], name)
        rec._options = options
        rec.ranker.use(index)
        for name, target in others:
            rec._add(name, target)
        return rec

    # --- adapters -----------------------------------------------------------------------------------

    @property
    def adapters(self) -> Mapping[str, Recommender]:
        """The recommenders on this base by the names of their adapters, in the order they were loaded."""
        return self._several or {self.adapter: self}

    @in_turn
    def add_adapter(self, name: str, path: str | Path) -> Recommender:
        """Load a further bundle onto this base, for requests that name it; returns its recommender.

        The base's weights are shared and nothing is merged into them, so the recommender must have been loaded with
        merge=False or with several adapters. Items added so far are known to the new adapter too. Raises
        RequestError where the name is taken and BundleError where the bundle does not fit; nothing changes then.
        """
        if not name or name in self.adapters:
            raise RequestError(f"expected a name no adapter has, got {name!r}; taken: {', '.join(self.adapters)}")
        return self._add(name, loading.resolve(path))

    def _add(self, name: str, target: loading.Target) -> Recommender:
        meta = loading.read_meta(target)
        if target.bundle is None:
            raise BundleError(f"expected an adapter bundle to add, got the base model {target.base!r}")
        loading.check_one_captions({self.adapter: self.meta, name: meta})
        how = {k: getattr(self._options, k) for k in ("quantization", "dtype", "layers")}
        model = shared.attach(self.model, target.bundle, items=self.shelf.item_ids, **how).model
        try:
            rec = type(self)(model, self.dataset, meta, name, next(iter(self.adapters.values())))
            if found := self.ranker.index:
                rec.ranker.use(found.kind, found.probes)
            for item_id in self.shelf.added:
                rec._learn(item_id, rec._encoders.encode(self.shelf[item_id]))
        except BaseException:
            shared.detach(model)
            raise
        if not self._several:
            self._several[self.adapter] = self
        self._several[name] = rec
        return rec

    def using(self, adapter: str, request_id: str = "") -> Recommender:
        """The recommender of the adapter called so; "": this one. Raises RequestError, naming the choices."""
        if not adapter:
            return self
        if adapter not in self.adapters:
            whose = f"request {request_id!r}: " if request_id else ""
            raise RequestError(f"{whose}no adapter is called {adapter!r}; {did_you_mean(adapter, self.adapters)}")
        return self.adapters[adapter]

    # --- scoring ------------------------------------------------------------------------------------

    @property
    def default_mode(self) -> str:
        """`embedding` where the adapter has a matching head, else `likelihood`."""
        return self.ranker.default

    def mode(self, name: str | None = None) -> Mode:
        """The scoring mode called `name`; None: the default. Raises ConfigError for an unknown one."""
        return self.ranker.mode(name)

    @in_turn
    def score(self, requests: Request | Sequence[Request], mode: str | None = None) -> list[Scores]:
        """Score each request's candidates, in their order, higher is better.

        A request without a history takes that of its `user_id` in the data set; an unknown user without one
        is scored with an empty history. Requests of several adapters may be mixed. Raises RequestError for unknown
        items and adapters, empty or repeated candidates.
        """
        batch = [requests] if isinstance(requests, Request) else list(requests)
        if not batch:
            return []
        ready = [self.complete(r) for r in batch]
        for request in ready:
            check_candidates(request, self.shelf)
        groups: dict[Recommender, list[int]] = {}
        for place, request in enumerate(ready):
            groups.setdefault(self.using(request.adapter, request.request_id), []).append(place)
        scores: dict[int, Scores] = {}
        for rec, places in groups.items():
            asked = [ready[place] for place in places]
            scores |= zip(places, rec.mode(mode).scores(rec.runner, rec.serializer, asked), strict=True)
        return [scores[place] for place in range(len(ready))]

    def complete(self, request: Request) -> Request:
        """The request with what the data set knows of its user: history and profile where it brings none
        itself.
        """
        return complete(request, self.dataset, self.shelf)

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
        adapter: str = "",
        diversity: float = 0.0,
        rerank: reranking.Method = "mmr",
    ) -> list[Recommendation]:
        """The k best unseen items for a user, best first; fewer where fewer are legal.

        history: item ids, titles or Events, oldest first; it goes before the data set's. filters: see
        `palate.recommender.filters`. pool: how many retrieved candidates the modes but `embedding` and
        `generate` rerank. adapter: which one recommends, where there are several. diversity: from 0, best first, to
        1, as unlike as the `pool` best allow, by `rerank` (`palate.recommender.rerank`); scores stay those of the
        mode. Raises RequestError for an unknown item, field or adapter, EmptyLegalSet where the filters leave nothing.
        """
        if adapter:
            rec = self.using(adapter)
            return rec.recommend(user, history, k, context, filters, mode, pool, "", diversity, rerank)
        if k < 1:
            raise RequestError(f"expected k of at least 1, got {k}")
        reranking.check(diversity, rerank)
        request = self.request(user, history, context)
        legal = self.legal(request, filters)
        best = self.rank(request, legal, k, mode, pool).top(max(k, pool) if diversity else k)
        if diversity:
            best = self.ranker.diverse(best, self.fields, diversity, rerank, k)
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

    @in_turn
    def rank(self, request: Request, legal: Bools, k: int, mode: str | None = None, pool: int = POOL) -> Scores:
        """Scores of the legal items worth considering; see `Ranker.rank`."""
        return self.using(request.adapter, request.request_id).ranker.rank([request], [legal], k, mode, pool)[0]

    @in_turn
    def rank_all(
        self, requests: Sequence[Request], legal: Sequence[Bools], k: int, mode: str | None = None, pool: int = POOL
    ) -> list[Scores]:
        """`rank` for several requests of this adapter, read by the model together."""
        return self.ranker.rank(requests, legal, k, mode, pool)

    @in_turn
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
        first = next(iter(self.adapters.values()))
        if first is not self:
            return first.fields
        return profile(sampled(self.shelf))

    @cached_property
    def reasoner(self) -> Reasoner:
        nearest = self.ranker.nearest if self.model.has_matching else None
        return Reasoner(self.shelf, self.fields, self.dataset.wording, self.dataset.show, nearest)

    @in_turn
    def explain(
        self,
        item: str,
        user: str | None = None,
        history: Sequence[str | Event] | None = None,
        mode: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Explanation:
        """Why an item (an id or a title) fits: history items, text fields and modalities left out in turn.

        See `palate.recommender.explanation.Explanation` for what the values mean.
        """
        from palate.recommender.explain import explain

        return explain(self, self.shelf.find(item), self.request(user, history, context), mode)

    # --- new items, conversation --------------------------------------------------------------------

    @in_turn
    def add_item(
        self,
        title: str,
        text: Mapping[str, str] | None = None,
        media: Mapping[str, str | Path] | str | Path | None = None,
        item_id: str | None = None,
    ) -> str:
        """Put an item into the catalogue from its text and media alone; every mode can name it at once.

        text: text fields; media: modality -> file, or one file, taken as the image. Captions that the adapter was
        trained with are written of the media, into fields that `text` leaves out. A file that cannot be read
        costs the item that modality and warns. Returns the item's id. Raises RequestError where the id
        is taken.
        """
        item = make_item(item_id if item_id is not None else self.shelf.new_id(), title, text, media)
        self.shelf.check_new(item)
        item = self._encoders.captioned(item)
        tuned = [rec for rec in self.adapters.values() if rec.model.soft is not None]
        vectors = {e: e.encode(item) for e in dict.fromkeys(rec._encoders for rec in tuned)}
        self.shelf.add(item)
        for rec in tuned:
            rec._learn(item.item_id, vectors[rec._encoders])
        return item.item_id

    def _learn(self, item_id: str, vectors: Mapping[str, Floats]) -> None:
        """Take the vectors of an item that came after training."""
        if self.model.soft is not None:
            self.model.soft.add_item(item_id, vectors)

    def chat(
        self,
        user: str | None = None,
        history: Sequence[str | Event] | None = None,
        context: Mapping[str, str] | None = None,
        k: int = 5,
    ) -> Chat:
        """A conversation with this user, with `k` items an answer.

        context: the moment in words, see `palate.prompting.context.context_of`.
        """
        from palate.chat import Chat

        return Chat(self, user=user, history=history, k=k, context=context)
