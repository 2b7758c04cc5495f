"""The modality report: does the picture matter, and for which items?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from palate.evaluate.ablate import FULL, PROBES, Ablation, Variant, variants
from palate.evaluate.metrics import Paired
from palate.evaluate.report import difference
from palate.evaluate.run import Result, System
from palate.evaluate.slices import Slice, by_train_count

if TYPE_CHECKING:
    from palate.evaluate.bench import Bench
    from palate.recommender import Recommender


@dataclass(frozen=True)
class Study:
    """One adapter under every variant, on the same users and candidates.

    result: a system a variant, the full one first, then baselines. present: how many of the `items` have each
    modality. fields: whether the mode's prompts show text fields, so that there is a variant without them.
    """

    adapter: str
    result: Result
    variants: tuple[Variant, ...]
    slices: tuple[Slice, ...]
    present: Mapping[str, int]
    items: int
    fields: bool

    @property
    def metric(self) -> str:
        """The protocol's first metric, which the sentences speak of."""
        return self.result.protocol.metrics[0]

    def added(self, variant: Variant, metric: str | None = None, part: Slice | None = None) -> Paired:
        """What `variant` lacks adds: all modalities minus the variant, over a slice's users (None: all)."""
        name = next(v.name for v in self.variants if v.sight == variant.sight)
        return (part or self.slices[0]).compare(self.result, FULL, name, metric or self.metric)

    def sentences(self) -> list[str]:
        """Plain words: what each modality, and text in the prompt, adds; on which items; and the shuffled control."""
        found = []
        for m, count in self.present.items():
            lacking = Variant("", hidden=frozenset([m]))
            found.append(
                f"{self._adds(m, lacking)} {count:,} of {self.items:,} items have it.{self._by_slice(lacking)} "
                + self._control(m)
            )
        if self.fields:
            lacking = Variant("", fields=False)
            found.append(self._adds("text fields in the prompt", lacking, "add", "cost") + self._by_slice(lacking))
        else:
            found.append("The prompts of this mode show no text field beside a title, so there is none to leave out.")
        return found

    def _adds(self, what: str, lacking: Variant, adds: str = "adds", costs: str = "costs") -> str:
        d = self.added(lacking)
        told = f"[{d.low:+.3f}, {d.high:+.3f}] (p {difference(d).rpartition(' p ')[2]}, n = {d.n:,})"
        if d.low > 0:
            return f"{what} {adds} {d.diff:+.3f} {self.metric} {told}."
        if d.high < 0:
            return f"{what} {costs} {-d.diff:.3f} {self.metric} {told}: the adapter ranks better without."
        return f"{what} {adds} nothing that can be told from chance: {d.diff:+.3f} {self.metric} {told}."

    def _by_slice(self, lacking: Variant) -> str:
        told = [f"on {p.name} {difference(self.added(lacking, part=p))}, n = {p.n:,}" for p in self.slices[1:]]
        return f" Of that {'; '.join(told)}." if told else ""

    def _control(self, modality: str) -> str:
        if self.present[modality] < 2:
            return "Too few to shuffle."
        d = self.added(Variant("", shuffled=frozenset([modality])))
        if d.low > 0:
            return f"Its own vectors beat those of other items by {difference(d)}."
        if d.high < 0:
            return f"The vectors of other items do better than its own: {difference(d)}."
        return f"Its own vectors cannot be told from those of other items: {difference(d)}."


def study(
    recommender: Recommender,
    bench: Bench,
    mode: str | None = None,
    *,
    name: str = "adapter",
    baselines: Sequence[System] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Study:
    """Run every variant of a loaded adapter on a bench; its tables are as they were afterwards.

    mode: a scoring mode, None for the adapter's own; baselines: further systems for the same table; progress: as for
    `evaluate`. Raises ConfigError for an untuned base.
    """
    dataset, interactions = bench.data, bench.data.histories.interactions
    cases = bench.protocol.cases(interactions, bench.seed, "test", bench.users)
    with Ablation(recommender, bench.seed) as ablation:
        probes = [c.request(interactions, dataset.histories.events(c.user_id)) for c in cases[:PROBES]]
        fields = ablation.shows_fields(mode, probes)
        # embedding mode knows items by their vectors alone: without any, all are equal
        asked = variants(tuple(ablation.tables), fields, nothing=recommender.mode(mode).name != "embedding")
        result = bench.run([*ablation.systems(dataset, mode, asked), *baselines], progress)
        present = {m: int(t.present.sum()) for m, t in ablation.tables.items()}
    slices = by_train_count(cases, bench.train)
    return Study(name, result, tuple(asked), tuple(slices), present, len(interactions.item_ids), fields)
