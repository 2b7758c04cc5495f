"""Mode `embedding` through an index: the best few of a huge catalogue without a score for every item.

Opt-in (`Recommender.load(..., index="approximate")`): an item that the index does not find is not recommended, however
good. `Nearest.recall` measures how often that happens. Scores of what is found are those of the mode itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from palate.engine.index import PROBES, Index, Kind
from palate.engine.modes.embedding import Embedding
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.engine.state import ModelCache
from palate.features.rows import room
from palate.model import Model
from palate.model.soft import ITEM
from palate.prompting import Serializer
from palate.schema import Bools, Floats, Ints, Request, Scores

BLOCK = 16_384
"""Items whose matching vectors are computed at a time."""
TAIL = 10
"""Items added since the index was built are searched one and all, up to one in so many of it; then it is built anew."""


@dataclass(frozen=True)
class _Held:
    """index: of the first rows; tail: an exact one of the rows added since, None where there are none."""

    index: Index
    tail: Index | None

    def search(self, queries: Floats, k: int, allowed: Bools | None) -> tuple[Ints, Floats]:
        """As `Index.search`, over both."""
        if self.tail is None:
            return self.index.search(queries, k, allowed)
        cut = len(self.index)
        first, later = (None, None) if allowed is None else (allowed[..., :cut], allowed[..., cut:])
        rows, scores = self.index.search(queries, k, first)
        added, added_scores = self.tail.search(queries, k, later)
        rows = np.concatenate([rows, np.where(added >= 0, added + cut, -1)], axis=1)
        scores = np.concatenate([scores, added_scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


class Nearest:
    """An index of the matching vectors of one model's items, built when first asked and when the model changes."""

    def __init__(self, kind: Kind, probes: int = PROBES) -> None:
        self.kind, self.probes = kind, probes
        self._kept: ModelCache[_Held] = ModelCache()
        self._last: _Held | None = None

    def top(
        self,
        mode: Embedding,
        runner: Runner,
        serializer: Serializer,
        requests: Sequence[Request],
        legal: Sequence[Bools],
        k: int,
        ids: Sequence[str],
    ) -> list[Scores]:
        """The k best legal items of each request, best first. legal: bool [N] each, in the order of `ids`."""
        queries = self.queries(mode, runner, serializer, requests)
        held = self.held(runner.model)
        out = []
        for request, query, mask in zip(requests, queries, legal, strict=True):
            rows, scores = held.search(query[None], k, None if mask.all() else mask)
            found = rows[0] >= 0
            names = tuple(ids[n] for n in rows[0][found].tolist())
            out.append(Scores(request.request_id, request.user_id, names, scores[0][found]))
        return out

    def recall(
        self, mode: Embedding, runner: Runner, serializer: Serializer, requests: Sequence[Request], k: int = 10
    ) -> float:
        """The share of the k best items of these requests (by exact products, nothing filtered) that are found."""
        return self.held(runner.model).index.recall(self.queries(mode, runner, serializer, requests), k)

    def queries(self, mode: Embedding, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Floats:
        """Matching queries of requests: float32 [B, E]."""
        template = mode.template(serializer)
        jobs = [Job(serializer.prompt(template, request, ()), "query") for request in requests]
        return np.stack([np.asarray(output.query, dtype=np.float32) for output in runner.run(jobs)])

    def held(self, model: Model) -> _Held:
        """The index of a model's items as they are now."""
        held = self._kept.get(model)
        if held is None:
            held = self._last = self._kept.put(model, self._built(vectors_of(model)))
        return held

    def vectors(self, model: Model) -> Floats:
        """Matching vectors of all items, float32 [N, E]."""
        held = self.held(model)
        return held.index.vectors if held.tail is None else np.concatenate([held.index.vectors, held.tail.vectors])

    def _built(self, vectors: Floats) -> _Held:
        """A new index; or the last one with a tail, where a few rows came behind the ones it knows."""
        last = self._last
        if last is not None and 0 < len(vectors) - len(last.index) <= len(last.index) // TAIL:
            cut = len(last.index)
            if all(
                np.array_equal(vectors[start : min(start + BLOCK, cut)], last.index.vectors[start : start + BLOCK])
                for start in range(0, cut, BLOCK)
            ):
                return _Held(last.index, Index.build(vectors[cut:]))
        return _Held(Index.build(vectors, self.kind, self.probes), None)


def vectors_of(model: Model) -> Floats:
    """Matching vectors of all items, float32 [N, E], computed in blocks; a large table is a memory-mapped file."""
    soft = model.soft
    assert soft is not None  # a model with a matching head has item tables
    model.eval()  # no dropout, no hidden modalities
    rows = torch.arange(len(soft.item_ids), device=model.device)
    out: Floats | None = None
    with torch.inference_mode():
        for start in range(0, len(rows), BLOCK):
            block = soft.matching.items(soft.inputs(ITEM, rows[start : start + BLOCK])).float().cpu().numpy()
            if out is None:
                out = room((len(rows), block.shape[1]))
            out[start : start + len(block)] = block
    assert out is not None
    return out
