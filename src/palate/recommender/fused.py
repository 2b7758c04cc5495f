"""Decision-level fusion: a model's scores and those of retrievers, mixed with weights learned on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from palate import retrieve
from palate.config import Config, EncoderConfig
from palate.data import Catalog
from palate.engine.modes import Mode
from palate.engine.modes.embedding import Embedding
from palate.engine.runner import Runner
from palate.errors import ConfigError
from palate.prompting import Serializer, Template
from palate.recommender.shelf import Shelf
from palate.retrieve import Retriever
from palate.retrieve.fuse import FUSE, Method
from palate.schema import Features, Floats, Interactions, Request

FUSED = "fused"
ADAPTER = "adapter"
"""The part that is the model itself, in the decision's mode."""
_CELLS = 32_000_000
"""Scores of whole catalogues held at once by a retriever."""


class Decision(Config):
    """How scores are mixed; `palate.json` keeps it under `decision`, `palate evaluate --fuse ... --record` writes it.

    parts: `adapter`, or a retriever as `retrieve.parse` reads it; weights: one a part. mode: what the adapter scores
    in. protocol, part, n, seed: what the weights were learned on; metric, value: what they reach there.
    """

    method: Method
    mode: str
    parts: list[str] = Field(min_length=1)
    weights: list[float]
    protocol: str = ""
    part: str = ""
    n: int = 0
    seed: int = 0
    metric: str = ""
    value: float = 0.0

    @classmethod
    def read(cls, meta: Mapping[str, Any]) -> Decision:
        """The decision a bundle's `palate.json` carries. Raises ConfigError where it has none, or a wrong one."""
        if "decision" not in meta:
            raise ConfigError(
                "mode 'fused' needs weights, and this adapter carries none; learn them with "
                "`palate evaluate DIR -a ADAPTER --fuse ease:recency=10,... --record`"
            )
        found = cls.parse(meta["decision"], "palate.json: decision")
        if len(found.weights) != len(found.parts):
            raise ConfigError(
                f"palate.json: decision: expected a weight for each of {', '.join(found.parts)}, got {found.weights}"
            )
        return found


class Fused(Mode):
    """Weighted sum of each part's scores, normalised over the candidates of one request.

    So a score is a function of the request and its candidates together: only those of one list compare. Retrievers are
    fitted on all histories of the data set, content retrievers on the item vectors the adapter carries; an item added
    later takes the mean score of a retriever that knows nothing of it.
    """

    name = FUSED

    def __init__(
        self,
        decision: Decision,
        mode: Callable[[str], Mode],
        shelf: Shelf,
        interactions: Interactions,
        own: Callable[[], Mapping[str, Features]],
    ) -> None:
        """mode: the adapter's scoring mode by name; own: the item vectors it carries now."""
        super().__init__()
        self.decision = decision
        self.inner = mode(decision.mode)
        self.retrieved = {text: Retrieved(text, shelf, interactions, own) for text in decision.parts if text != ADAPTER}

    @property
    def whole(self) -> bool:
        """Whether all items can be scored as fast as some: no part reads one candidate after another."""
        return isinstance(self.inner, Embedding) or ADAPTER not in self.decision.parts

    def template(self, serializer: Serializer) -> Template:
        return self.inner.template(serializer)

    def limit(self, serializer: Serializer) -> int | None:
        return self.inner.limit(serializer)

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        parts = []
        for text in self.decision.parts:
            if text == ADAPTER:
                parts.append([s.scores for s in self.inner.scores(runner, serializer, requests)])
            else:
                parts.append(self.retrieved[text].scores(requests))
        fuse = FUSE[self.decision.method]
        return [fuse([row[None] for row in rows], self.decision.weights)[0] for rows in zip(*parts, strict=True)]


class Retrieved:
    """A retriever over a shelf: fitted when first asked; content retrievers again when items were added."""

    def __init__(
        self, text: str, shelf: Shelf, interactions: Interactions, own: Callable[[], Mapping[str, Features]]
    ) -> None:
        self.text, self.shelf, self.own = text, shelf, own
        self.kind, self.options = retrieve.parse(text)
        self.interactions = interactions
        self._fitted: Retriever | None = None

    def fitted(self) -> Retriever:
        """The retriever; one that reads features covers the whole shelf, others the items with a place in histories."""
        found = self._fitted
        if found is None or (found.reads_features and len(found.item_ids) != len(self.shelf)):
            built = retrieve.build(self.kind, **self.options)
            events, tables = self.interactions, {}
            if built.reads_features:
                events = replace(events, item_ids=self.shelf.item_ids)
                tables = content_tables(self.text, self.shelf, events, self.own())
            found = self._fitted = built.fit(events, tables)
        return found

    def scores(self, requests: Sequence[Request]) -> list[Floats]:
        """Scores of each request's candidates, in their order: float32 [C] a request."""
        retriever = self.fitted()
        index = {i: n for n, i in enumerate(retriever.item_ids)}
        step = max(1, _CELLS // max(1, len(index)))
        out: list[Floats] = []
        for start in range(0, len(requests), step):
            chunk = requests[start : start + step]
            known = [[e for e in r.history if e.item_id in index] for r in chunk]
            histories = [np.array([index[e.item_id] for e in events], dtype=np.int64) for events in known]
            times = [np.array([e.timestamp for e in events], dtype=np.float64) for events in known]  # None becomes NaN
            rows = retriever.scores(histories, times)
            for request, row in zip(chunk, rows, strict=True):
                row = np.append(row, row.mean() if len(row) else np.float32(0))  # the last place: nothing is known
                out.append(row[[index.get(c, len(index)) for c in request.candidates]].astype(np.float32))
        return out


def content_tables(
    text: str, items: Shelf | Catalog, train: Interactions, own: Mapping[str, Features] | None = None
) -> dict[str, Features]:
    """The feature table a retriever reads: that of its modality, {} for one that reads none.

    own: tables at hand, such as those an adapter carries; others are computed by the modality's default encoder, from
    `items` in the order of `train.item_ids`.
    """
    kind, options = retrieve.parse(text)
    retriever = retrieve.build(kind, **options)
    if not retriever.reads_features:
        return {}
    modality = getattr(retriever, "modality", None) or "image"
    if own and modality in own:
        return {modality: own[modality]}
    from palate.features import compute

    return compute([items[i] for i in train.item_ids], train, {modality: EncoderConfig()}).tables
