"""What each modality adds: one loaded adapter, asked with modalities hidden, alone, or given to the wrong items.

A hidden modality is one that no item has: with model-level fusion its slots vanish from the prompt (a template may then
write the title instead), with feature-level fusion it is zero with its flag. A shuffled one has the same vectors, each
with another item. The adapter is not trained again, so the numbers say what this adapter reads, not what another could
learn without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from palate.errors import ConfigError
from palate.evaluate.baselines import RecommenderSystem
from palate.evaluate.protocol import EvalCase
from palate.prompting import ShowFields
from palate.schema import Features, Floats, Request

if TYPE_CHECKING:
    from palate.data import Dataset
    from palate.recommender import Recommender

FULL = "all modalities"
NONE = "no modality"
PROBES = 8
"""Requests whose prompts are looked at to find out whether a mode shows text fields."""


@dataclass(frozen=True)
class Variant:
    """What the model may see. hidden: modalities that no item has; shuffled: modalities whose vectors go to other
    items; fields: whether prompts show text fields beside a title.
    """

    name: str
    hidden: frozenset[str] = frozenset()
    shuffled: frozenset[str] = frozenset()
    fields: bool = True

    @property
    def sight(self) -> tuple[Any, ...]:
        """What tells variants apart."""
        return self.hidden, self.shuffled, self.fields


def variants(modalities: Sequence[str], fields: bool, nothing: bool = True) -> list[Variant]:
    """Everything, without each modality, each alone, each shuffled, without text fields (where `fields`), nothing.

    nothing: False where a model without any modality cannot tell items apart. What would be the same run twice, such
    as one of two modalities alone and without the other, is there once.
    """
    every = frozenset(modalities)
    found = [Variant(FULL)]
    found += [Variant(f"without {m}", hidden=frozenset([m])) for m in modalities]
    found += [Variant(f"{m} alone", hidden=every - {m}) for m in modalities]
    found += [Variant(f"{m} shuffled", shuffled=frozenset([m])) for m in modalities]
    if fields:
        found.append(Variant("without text fields", fields=False))
    if nothing:
        found.append(Variant(NONE, hidden=every))
    merged: dict[tuple[Any, ...], Variant] = {}
    for variant in found:
        first = merged.setdefault(variant.sight, variant)
        if first is not variant and first.name != FULL:
            merged[variant.sight] = replace(first, name=f"{first.name} ({variant.name})")
    return list(merged.values())


class Ablation:
    """A recommender whose feature tables and prompt fields change from variant to variant, and go back at the end.

        with Ablation(recommender, seed=1) as ablation:
            systems = ablation.systems(dataset, mode, variants)

    Whatever the engine keeps from earlier calls is named after the tables' state, so nothing stale is ever read.
    Raises ConfigError where the recommender has no item vectors.
    """

    def __init__(self, recommender: Recommender, seed: int) -> None:
        soft = recommender.model.soft
        if soft is None:
            raise ConfigError("--ablate modalities needs an adapter with item vectors; an untuned base has none")
        self.recommender, self.soft, self.seed = recommender, soft, seed
        self.tables = soft.tables()
        self.serializer = recommender.serializer
        self._bare = self.serializer.showing(ShowFields())
        self._shown: Variant = Variant(FULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.show(Variant(FULL))
        self.recommender.prefixes.clear()

    def show(self, variant: Variant) -> None:
        """Let the model see this from now on."""
        if variant.sight == self._shown.sight:
            return
        self.soft.set_tables({m: self._table(m, variant) for m in self.tables})
        self.recommender.serializer = self.serializer if variant.fields else self._bare
        self._shown = variant

    def _table(self, modality: str, variant: Variant) -> Features:
        table = self.tables[modality]
        if modality in variant.hidden:
            return replace(table, vectors=np.zeros_like(table.vectors), present=np.zeros_like(table.present))
        return shuffled(table, self.seed) if modality in variant.shuffled else table

    def systems(self, dataset: Dataset, mode: str | None, asked: Sequence[Variant]) -> list[AblatedSystem]:
        """One system a variant."""
        return [AblatedSystem(self, dataset, mode, variant) for variant in asked]

    def shows_fields(self, mode: str | None, requests: Sequence[Request]) -> bool:
        """Whether the prompts of a mode hold text fields: whether they change without them."""
        template = self.recommender.mode(mode).template(self.serializer)
        return any(_written(self.serializer, template, r) != _written(self._bare, template, r) for r in requests)


class AblatedSystem(RecommenderSystem):
    """A recommender that sees one variant while it scores."""

    def __init__(self, ablation: Ablation, dataset: Dataset, mode: str | None, variant: Variant) -> None:
        super().__init__(ablation.recommender, dataset, mode, variant.name)
        self.ablation, self.variant = ablation, variant

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        """Scores in the order of `case.items(N)`."""
        self.ablation.show(self.variant)
        return super().score(cases)


def shuffled(table: Features, seed: int) -> Features:
    """The rows that are present, each moved to another such item by one seeded cycle; absent ones stay absent."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(table.present))
    vectors = table.vectors.copy()
    vectors[np.roll(rows, 1)] = table.vectors[rows]
    return replace(table, vectors=vectors)


def _written(serializer: Any, template: Any, request: Request) -> list[list[int]]:
    """Token ids of a request's prompt, and of the first branches behind it where the template has them."""
    request = replace(request, candidates=request.candidates[:2])
    listed = request.candidates if template.lists_candidates else ()
    written = [serializer.prompt(template, request, listed).token_ids.tolist()]
    if template.branching or template.has("answer"):
        written += [b.token_ids.tolist() for b in serializer.branches(template, request, request.candidates)]
    return written
