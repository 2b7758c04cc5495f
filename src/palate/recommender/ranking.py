"""Ranking: a request and the items it may name, to scores, in any mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from palate.engine import modes
from palate.engine.index import PROBES, Kind, check
from palate.engine.modes.embedding import Embedding
from palate.engine.modes.generate import Generate
from palate.engine.runner import Runner
from palate.engine.trie import Trie
from palate.errors import ConfigError
from palate.prompting import Serializer
from palate.recommender.fields import Field
from palate.recommender.fused import FUSED, Decision, Fused
from palate.recommender.likeness import Alike, alike, by_vectors, label_field
from palate.recommender.nearest import Nearest
from palate.recommender.pool import Pool
from palate.recommender.rerank import rerank
from palate.recommender.shelf import Shelf
from palate.schema import Bools, Features, Floats, Request, Scores

POOL = 50
"""Retrieved candidates that the slower modes rerank."""
LETTERS = 20
"""Candidates put into one question of mode `letters`."""


class Ranker:
    """Ranks the items of a shelf for requests. Modes are built once and kept.

    meta: the bundle's `palate.json`, whose `decision` mode `fused` follows.
    """

    def __init__(
        self, runner: Runner, serializer: Serializer, shelf: Shelf, pool: Pool, meta: Mapping[str, Any] | None = None
    ) -> None:
        self.runner, self.serializer, self.shelf, self.pool = runner, serializer, shelf, pool
        self.meta = meta or {}
        self._modes: dict[str, modes.Mode] = {}
        self._titles: Trie | None = None
        self.index: Nearest | None = None

    def use(self, index: Kind, probes: int = PROBES) -> None:
        """Answer mode `embedding` from all scores ("exact"), or through an approximate index; `probes`: see there."""
        check(index)
        if index != "exact" and not self.runner.model.has_matching:
            raise ConfigError(
                f"index {index!r} serves mode 'embedding', and this model has no matching head; load a tuned adapter, "
                "or leave index at 'exact'"
            )
        self.index = None if index == "exact" else Nearest(index, probes)

    @property
    def default(self) -> str:
        """`embedding` where there is a matching head, else `likelihood`."""
        return "embedding" if self.runner.model.has_matching else "likelihood"

    @property
    def mode_names(self) -> list[str]:
        """Names of the modes this model can score in, the default first."""
        names = [n for n in modes.names() if n != "embedding" or self.runner.model.has_matching]
        names += [FUSED] if "decision" in self.meta else []
        return sorted(names, key=lambda n: n != self.default)

    def mode(self, name: str | None = None) -> modes.Mode:
        """The mode called `name`; None: the default."""
        name = name or self.default
        if name not in self._modes:
            self._modes[name] = self._fused() if name == FUSED else modes.build(name)
        return self._modes[name]

    def _fused(self) -> Fused:
        return Fused(Decision.read(self.meta), self.mode, self.shelf, self.pool.interactions, self._tables)

    def _tables(self) -> Mapping[str, Features]:
        """The item vectors the adapter carries, added items included."""
        soft = self.runner.model.soft
        return soft.tables() if soft is not None else {}

    def rank(
        self, requests: Sequence[Request], legal: Sequence[Bools], k: int, mode: str | None = None, pool: int = POOL
    ) -> list[Scores]:
        """Scores of each request's legal items (bool [N] each) worth considering.

        All of them in mode `embedding` (and `fused` with it; through an index the best max(k, pool) of `embedding`),
        the beams' finds in `generate`, else at most `pool` retrieved ones (in `letters` as many as fit one question).
        The requests are read in one go.
        """
        chosen = self.mode(mode)
        ids = self.shelf.item_ids
        if isinstance(chosen, Embedding):
            if self.index is not None:
                runner, serializer = self.runner, self.serializer
                return self.index.top(chosen, runner, serializer, requests, legal, max(k, pool), ids)
            rows = chosen.catalogue_scores(self.runner, self.serializer, requests)
            return [_chosen(r, row, mask, ids) for r, row, mask in zip(requests, rows, legal, strict=True)]
        if isinstance(chosen, Generate):
            found = chosen.recommend(
                self.runner, self.serializer, requests, self._trie(chosen), k=max(k, chosen.beams), allowed=legal
            )
            return [_listed(request, best) for request, best in zip(requests, found, strict=True)]
        if isinstance(chosen, Fused) and chosen.whole:
            candidates = [tuple(ids[i] for i in np.flatnonzero(mask)) for mask in legal]
        else:
            limit = chosen.limit(self.serializer)
            size = max(pool, k) if limit is None else min(pool, LETTERS, limit)
            candidates = [
                self.pool.pick([e.item_id for e in request.history], mask, size)
                for request, mask in zip(requests, legal, strict=True)
            ]
        asked = [replace(r, candidates=c) for r, c in zip(requests, candidates, strict=True)]
        return list(chosen.scores(self.runner, self.serializer, asked))

    def _trie(self, mode: Generate) -> Trie:
        """The catalogue's titles as a trie, built once and again when items were added."""
        if self._titles is None or len(self._titles.item_ids) != len(self.shelf):
            self._titles = mode.trie(self.serializer, self.shelf.item_ids)
        return self._titles

    def diverse(
        self, best: Sequence[tuple[str, float]], fields: Mapping[str, Field], diversity: float, method: str, k: int
    ) -> list[tuple[str, float]]:
        """The k of these (item id, score) pairs, given best first, that `rerank` puts first; they keep their scores."""
        if not diversity or not best:
            return list(best[:k])
        scores = np.array([score for _, score in best], dtype=np.float32)
        places = rerank(scores, self.likeness([i for i, _ in best], fields), diversity, k, method)
        return [best[n] for n in places.tolist()]

    def likeness(self, item_ids: Sequence[str], fields: Mapping[str, Field]) -> Alike:
        """How alike items of the shelf are: by labels, else by content vectors, else by matching vectors.

        fields: what the catalogue's text holds. Raises ConfigError where the catalogue and the adapter have none.
        """
        tables = {} if label_field(fields) else self._tables()
        found = alike([self.shelf[i] for i in item_ids], fields, tables)
        if found is not None:
            return found
        if not self.runner.model.has_matching:
            raise ConfigError(
                "nothing tells how alike items are: the catalogue has no labels (such as genres) and the adapter no "
                "item vectors; leave diversity at 0"
            )
        vectors = self._unit([self.shelf.index(i) for i in item_ids])
        return by_vectors(vectors, np.ones(len(vectors), dtype=bool), "matching vectors")

    def item_vectors(self) -> Floats:
        """Unit matching vectors of every shelf item, float32 [N, E]. BundleError for an untuned base."""
        return self._unit(slice(None))

    def _unit(self, rows: Sequence[int] | slice) -> Floats:
        """Unit matching vectors of some rows, float32 [n, E]."""
        if self.index is not None:
            vectors = np.asarray(self.index.vectors(self.runner.model)[rows])
        else:
            mode = self.mode("embedding")
            assert isinstance(mode, Embedding)
            vectors = mode.item_vectors(self.runner)[rows].cpu().numpy()
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-9), dtype=np.float32)

    def nearest(self, item_id: str, others: Sequence[str]) -> str:
        """The one of the others whose matching vector is most like the item's."""
        vectors = self._unit([self.shelf.index(i) for i in (item_id, *others)])
        return others[int(np.argmax(vectors[1:] @ vectors[0]))]


def _chosen(request: Request, row: Floats, legal: Bools, ids: Sequence[str]) -> Scores:
    """The scores of the items in the mask."""
    places = np.flatnonzero(legal)
    return Scores(request.request_id, request.user_id, tuple(ids[i] for i in places.tolist()), row[places])


def _listed(request: Request, best: Sequence[tuple[str, float]]) -> Scores:
    """(item id, score) pairs as scores."""
    values = np.array([score for _, score in best], dtype=np.float32)
    return Scores(request.request_id, request.user_id, tuple(i for i, _ in best), values)
