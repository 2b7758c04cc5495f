"""One data set under one protocol, and the systems that are put side by side on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from palate.errors import ConfigError
from palate.evaluate.baselines import RecommenderSystem, base_of, baseline, features_for, parse, parts_of
from palate.evaluate.beyond import LikenessOf
from palate.evaluate.cold import check_held_out
from palate.evaluate.diverse import DiverseSystem
from palate.evaluate.fused import FusedSystem, kept, learn
from palate.evaluate.protocol import SEED, Protocol
from palate.evaluate.run import Result, System, evaluate
from palate.recommender.fields import Field, profile, sampled
from palate.recommender.likeness import alike, label_field
from palate.recommender.rerank import Method
from palate.retrieve import build
from palate.retrieve.fuse import METHODS
from palate.schema import Features, Interactions

if TYPE_CHECKING:
    from palate.data import Dataset
    from palate.recommender import Recommender

Report = Callable[[str, int, int], None]


@dataclass
class Bench:
    """What is asked of whom. adapters: loaded ones by folder, the first first; users, seed: as for `evaluate`."""

    data: Dataset
    protocol: Protocol
    users: int | None = None
    seed: int = SEED
    adapters: dict[Path, Recommender] = field(default_factory=dict)

    @cached_property
    def train(self) -> Interactions:
        """What everything is fitted on."""
        return self.protocol.split(self.data.histories.interactions).train

    def load(self, folder: Path) -> None:
        """Load a bundle. Raises BundleError where it was trained with items that the protocol holds out."""
        from palate.recommender import Recommender

        loaded = Recommender.load(folder, data=self.data)
        check_held_out(loaded.meta, self.protocol, self.data.histories.interactions, folder.name)
        self.adapters[folder] = loaded

    def tuned(self, modes: Sequence[str]) -> list[System]:
        """Every adapter in every mode asked for; the adapter's own default where none is."""
        chosen: list[str | None] = [*modes] or [None]
        return [
            RecommenderSystem(rec, self.data, mode, f"{folder.name} ({mode or rec.default_mode})")
            for folder, rec in self.adapters.items()
            for mode in chosen
        ]

    def untuned(self) -> list[System]:
        """The first adapter's base (else the default one), untuned, by its log-probability of each title."""
        from palate.recommender import Recommender

        recommender = Recommender.load(base_of(next(iter(self.adapters), None)), data=self.data)
        return [RecommenderSystem(recommender, self.data, "likelihood", "untuned base (likelihood)")]

    def baselines(self, names: Sequence[str], report: Report | None = None) -> list[System]:
        """Retrievers fitted on the train split; those that read features take the first adapter's, if it has them.

        `ease+sasrec` mixes the z-scores of both, with weights learned on the validation part.
        """
        alone = dict.fromkeys(part for name in names for part in parts_of(name))
        mixed = {part for name in names if len(parts_of(name)) > 1 for part in parts_of(name)}
        fitted: dict[str, System] = {name: baseline(name, self.train, self._features(name)) for name in alone}
        known = {name: kept(system) if name in mixed else system for name, system in fitted.items()}
        return [known[name] if name in known else self._mixture(name, known, report) for name in names]

    def _mixture(self, name: str, known: Mapping[str, System], report: Report | None) -> System:
        parts = [known[part] for part in parts_of(name)]
        [learned] = learn(parts, self.protocol, self.data.histories.interactions, ["zscore"], self.seed, report)
        return FusedSystem(parts, learned, name)

    def _features(self, name: str) -> dict[str, Features]:
        kind, options = parse(name)
        if not build(kind, **options).reads_features:
            return {}
        return features_for(name, self.data, self.train, self._own())

    def _own(self) -> dict[str, Features]:
        """The item vectors that the first adapter carries."""
        soft = next((rec.model.soft for rec in self.adapters.values()), None)
        return {} if soft is None else soft.tables()

    @cached_property
    def _fields(self) -> dict[str, Field]:
        return profile(sampled(self.data.catalog))

    def likeness(self) -> LikenessOf:
        """How alike items (catalogue indices) are: by labels of the catalogue, else by the content vectors that the
        first adapter carries now; None where there is neither.
        """
        catalog, fields = self.data.catalog, self._fields
        tables = {} if label_field(fields) else self._own()
        return lambda items: alike([catalog.at(int(n)) for n in items], fields, tables)

    def fused(self, systems: Sequence[System], names: Sequence[str], report: Report | None = None) -> list[System]:
        """The systems, then the retrievers called so where they are not among them, then all of these mixed with the
        first adapter: by z-scores and by reciprocal ranks, weights learned on the validation part.
        """
        known = {s.name: s for s in systems}
        missing = self.baselines([name for name in names if name not in known])
        parts = [*([systems[0].name] if self.adapters else []), *names]
        if len(set(parts)) < 2:
            raise ConfigError(f"--fuse mixes an adapter with retrievers, or two retrievers; got {', '.join(parts)}")
        row: list[System] = [kept(s) if s.name in parts else s for s in [*systems, *missing]]
        mixed = [next(s for s in row if s.name == name) for name in dict.fromkeys(parts)]
        found = learn(mixed, self.protocol, self.data.histories.interactions, METHODS, self.seed, report)
        return [*row, *[FusedSystem(mixed, learned) for learned in found]]

    def diverse(self, systems: Sequence[System], diversity: float, method: Method) -> list[System]:
        """The systems, each followed by itself with its lists reordered for diversity."""
        items, likeness = len(self.data.catalog), self.likeness()
        row: list[System] = []
        for system in systems:
            remembered = kept(system)
            row += [remembered, DiverseSystem(remembered, items, likeness, diversity, method)]
        return row

    def run(self, systems: Sequence[System], report: Report | None = None) -> Result:
        """Every system on every case; fused ones come first, the best on validation before the others, so that a
        report compares it with all.
        """
        found = evaluate(self.data, systems, self.protocol, self.users, self.seed, "test", report, self.likeness())
        return replace(found, systems=tuple(sorted(found.systems, key=lambda s: -s.about.get("validation", -1.0))))
