"""Columns of the main table: one protocol with its seeds, and all systems that were asked under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from palate.apps.report.results import Loaded, Mean, Pair, ResultFile, SystemEntry
from palate.errors import DataError
from palate.evaluate.metrics import Interval, Paired, Reals, intervals, paired
from palate.evaluate.protocol import PROTOCOLS
from palate.schema import Bools


@dataclass(frozen=True)
class Run:
    """One system in one result file."""

    result: ResultFile
    entry: SystemEntry

    @property
    def seed(self) -> int:
        return self.result.seed

    @property
    def told(self) -> str:
        """What tells it from the other runs of its system."""
        return f"{self.entry.source}, seed {self.seed}" if self.entry.source else f"seed {self.seed}"

    def values(self, metric: str) -> Reals:
        return self.result.values(self.entry, metric)


@dataclass(frozen=True)
class Value:
    """A mean over n users, and over `runs` runs. low and high are missing where no interval can be told."""

    value: float
    low: float | None
    high: float | None
    n: int
    runs: int = 1

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else f"[{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Column:
    """One protocol. runs: by system, in the order of first appearance. means, pairs: those that a summary keeps, of
    this protocol; they stand in for ranks that are not there.
    """

    label: str
    runs: Mapping[str, tuple[Run, ...]]
    means: Sequence[Mean] = ()
    pairs: Sequence[Pair] = ()

    @cached_property
    def results(self) -> list[ResultFile]:
        """The files it is made of, each once, by seed."""
        found = {id(run.result): run.result for runs in self.runs.values() for run in runs}
        return sorted(found.values(), key=lambda r: r.seed)

    @property
    def first(self) -> ResultFile:
        """The first seed's; what does not depend on the seed is read here."""
        return self.results[0]

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({r.seed for r in self.results})

    @cached_property
    def metrics(self) -> list[str]:
        """The protocol's metrics that every system has, the headline first."""
        rows = [run.entry.metrics for runs in self.runs.values() for run in runs]
        return [m for m in rows[0] if all(m in row for row in rows)]

    @property
    def full(self) -> bool:
        """Whether the positive is ranked among more than a short list."""
        known = PROTOCOLS.get(self.first.protocol)
        return known is None or known.negatives is None

    def values(self, system: str, metric: str, seeds: Sequence[int] | None = None) -> Reals | None:
        """Per-user means over a system's runs (of these seeds): float64 [n].

        None where ranks are missing, or where runs asked different users.
        """
        runs = [r for r in self.runs.get(system, ()) if seeds is None or r.seed in seeds]
        users = {tuple(r.result.user_ids or ()) for r in runs}
        if len(users) != 1 or not all(r.result.ranked for r in runs):
            return None
        return np.asarray(np.mean([r.values(metric) for r in runs], axis=0), dtype=np.float64)

    def value(self, system: str, metric: str) -> Value | None:
        """A system's mean; None where it was not run. Several runs: the mean over them, its interval over users."""
        runs = self.runs.get(system, ())
        if not runs:
            return None
        if len(runs) == 1:
            i = runs[0].entry.metrics[metric]
            return Value(i.value, i.low, i.high, i.n)
        row = self.values(system, metric)
        if row is not None:
            found = self.interval(row)
            return Value(found.value, found.low, found.high, found.n, len(runs))
        for kept in self.means:
            if (kept.system, kept.metric, kept.runs) == (system, metric, len(runs)):
                return Value(kept.value, kept.low, kept.high, kept.n, kept.runs)
        mean = float(np.mean([r.entry.metrics[metric].value for r in runs]))
        return Value(mean, None, None, runs[0].result.n, len(runs))

    def interval(self, values: Reals, mask: Bools | None = None) -> Interval:
        """Mean of per-user values with its interval, over the users of `mask`."""
        return intervals({"": values if mask is None else values[mask]}, self.seeds[0])[""]

    def compare(self, a: str, b: str, metric: str, mask: Bools | None = None) -> Paired | None:
        """System `a` minus `b`, paired over users, over the seeds both were run with; None where it cannot be told."""
        shared = [s for s in self.seeds if all(any(r.seed == s for r in self.runs.get(x, ())) for x in (a, b))]
        left, right = self.values(a, metric, shared), self.values(b, metric, shared)
        if left is None or right is None or len(left) != len(right):
            return None if mask is not None else self._stored(a, b, metric)
        return paired(left, right, self.seeds[0]) if mask is None else paired(left[mask], right[mask], self.seeds[0])

    def _stored(self, a: str, b: str, metric: str) -> Paired | None:
        """The difference that a file without ranks has."""
        alone = all(len(self.runs.get(name, ())) == 1 for name in (a, b))
        kept = [(d, r.n) for r in self.results for d in r.differences] if alone else []
        for d, n in [*((d, d.n) for d in self.pairs), *kept]:
            if (d.a, d.b, d.metric) == (a, b, metric):
                return Paired(d.diff, d.low, d.high, d.p, n)
        return None

    def best(self, metric: str) -> set[str]:
        """The systems with the highest mean; none where all are equal."""
        return best({name: v.value for name in self.runs if (v := self.value(name, metric)) is not None})


def best(values: Mapping[str, float]) -> set[str]:
    """The names with the highest value; none where all are equal."""
    top = {name for name, v in values.items() if v == max(values.values())}
    return top if len(top) < len(values) or len(values) == 1 else set()


def columns(loaded: Sequence[Loaded]) -> list[Column]:
    """One column a protocol, in the order of first appearance. Studies of `--ablate` and ratings are not among
    them.

    Raises DataError where files of one protocol and seed asked about different lists, or where two say different things
    of one system.
    """
    runs: dict[str, dict[str, list[Run]]] = {}
    lists: dict[tuple[str, int], ResultFile] = {}
    for result in (result for part in loaded for result in part.results):
        if result.ablation is not None or result.levels:
            continue
        other = lists.setdefault((result.label, result.seed), result)
        if other.candidate_hash != result.candidate_hash:
            raise DataError(
                f"{other.file} and {result.file}: both are {result.label} with seed {result.seed}, but asked about "
                f"different lists (n = {other.n:,} and {result.n:,}, candidates {other.candidate_hash[:12]} and "
                f"{result.candidate_hash[:12]}); evaluate both with the same --users and the same Palate"
            )
        for entry in result.systems:
            kept = runs.setdefault(result.label, {}).setdefault(entry.name, [])
            if not any(_same(run, result, entry) for run in kept):
                kept.append(Run(result, entry))
    return [
        Column(
            label,
            {name: tuple(sorted(found, key=lambda r: r.seed)) for name, found in systems.items()},
            [m for part in loaded for m in part.means if m.protocol == label],
            [d for part in loaded for d in part.pairs if d.protocol == label],
        )
        for label, systems in runs.items()
    ]


def _same(run: Run, result: ResultFile, entry: SystemEntry) -> bool:
    """Whether this is a run over again; DataError where it came out otherwise."""
    if (run.seed, run.entry.source) != (result.seed, entry.source):
        return False
    left, right = run.entry, entry
    if left.metrics != right.metrics or (left.ranks and right.ranks and left.ranks != right.ranks):
        raise DataError(
            f"{run.result.file} and {result.file} hold different numbers of {entry.name!r} for {result.label}, seed "
            f"{result.seed}; leave one out, or evaluate adapters from folders with names of their own"
        )
    return True
