"""Systems to evaluate: retrievers fitted on the train split, and the recommender itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate import retrieve
from palate.config import ModelConfig
from palate.errors import BundleError, ConfigError, DataError, did_you_mean
from palate.evaluate.environment import bundle_fingerprints
from palate.evaluate.protocol import EvalCase
from palate.recommender.fused import FUSED, content_tables
from palate.recommender.loading import resolve
from palate.retrieve import Retriever, build, names
from palate.schema import Features, Floats, Interactions

if TYPE_CHECKING:
    from palate.data import Dataset
    from palate.recommender import Recommender

_CELLS = 32_000_000
"""Scores of whole catalogues held at once by a retriever."""


class RetrieverSystem:
    """A fitted retriever as a system; it scores the whole catalogue and picks the case's candidates."""

    def __init__(self, name: str, retriever: Retriever, items: int):
        self.name = name
        self.retriever = retriever
        self.batch = max(1, min(512, _CELLS // max(1, items)))

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        """Scores in the order of `case.items(N)`."""
        times = [np.full(len(c.history), np.nan) if c.times is None else c.times for c in cases]
        table = self.retriever.scores([c.history for c in cases], times)
        return [row[case.items(len(row))] for case, row in zip(cases, table, strict=True)]


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """A baseline as `retrieve.parse` reads it: name and options.

    An unknown name, an unknown option or a malformed one is a ConfigError that suggests the right one.
    """
    name = text.split(":", 1)[0]
    if name not in names():
        raise ConfigError(f"no baseline is called {name!r}; {did_you_mean(name, names())}")
    return retrieve.parse(text)


def parts_of(text: str) -> list[str]:
    """`ease:recency=10+sasrec` -> ["ease:recency=10", "sasrec"]: the baselines that one given on a command line mixes.

    Raises as `parse` does, and ConfigError where a part comes twice.
    """
    parts = [part.strip() for part in text.split("+")]
    for part in parts:
        parse(part)
    if len(set(parts)) < len(parts):
        raise ConfigError(f"a mixture takes each baseline once, got {text!r}")
    return parts


def baseline(
    text: str, train: Interactions, features: Mapping[str, Features] | None = None, name: str | None = None
) -> RetrieverSystem:
    """A baseline as `parse` reads it, fitted on `train` (the protocol's train split), as a system."""
    kind, options = parse(text)
    fitted = build(kind, **options).fit(train, features)
    return RetrieverSystem(name or text, fitted, len(train.item_ids))


def features_for(
    text: str, dataset: Dataset, train: Interactions, own: Mapping[str, Features] | None = None
) -> dict[str, Features]:
    """The feature table a baseline reads: that of its modality (unless named: `tiger` text, others image), or none.

    own: tables at hand, such as those an adapter carries; they are used rather than computed.
    """
    parse(text)
    return content_tables(text, dataset.catalog, train, own)


class RecommenderSystem:
    """A recommender in one scoring mode. A candidate it gives no score to counts as "not proposed" (-inf)."""

    def __init__(self, recommender: Recommender, dataset: Dataset, mode: str | None, name: str, batch: int = 64):
        if mode == FUSED:
            raise ConfigError(
                "mode 'fused' fits its retrievers on all events, those asked about too; evaluate it with "
                "--fuse, which fits them on the train split"
            )
        self.name = name
        self.recommender = recommender
        self.dataset = dataset
        self.mode = mode
        self.batch = batch
        self.about: dict[str, Any] = {"adapter": bundle_fingerprints(recommender.meta)} if recommender.meta else {}

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        """Scores in the order of `case.items(N)`, from requests that carry the case's own history."""
        histories = self.dataset.histories
        timed = bool(self.recommender.config.context)
        requests = [
            c.request(histories.interactions, histories.events(c.user_id), self.dataset.users.get(c.user_id), timed)
            for c in cases
        ]
        answers = self.recommender.score(requests, mode=self.mode)
        if [a.request_id for a in answers] != [r.request_id for r in requests]:
            raise DataError(f"{self.name}: expected one answer a request, in order, got {len(answers)}")
        rows = []
        for request, answer in zip(requests, answers, strict=True):
            if answer.item_ids == request.candidates:
                rows.append(np.asarray(answer.scores, dtype=np.float32))
                continue
            given = dict(zip(answer.item_ids, answer.scores.tolist(), strict=True))
            rows.append(np.array([given.get(i, -np.inf) for i in request.candidates], dtype=np.float32))
        return rows


def base_of(bundle: str | Path | None) -> str:
    """The source of the base a bundle was trained on (its `palate.json`); None gives the default base."""
    if bundle is None:
        return ModelConfig.parse({}, "defaults").base
    target = resolve(bundle)
    if target.bundle is None:
        return str(target.base)
    path = target.bundle / "palate.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(
            f"{path}: expected JSON with the key 'base', the base model's source; save the bundle again"
        ) from None
