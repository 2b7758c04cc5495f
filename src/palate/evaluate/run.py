"""Run systems through a protocol: every user's rank, metrics with intervals, and what repeats the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from typing import Protocol as Shape

import numpy as np

from palate.errors import ConfigError, DataError, did_you_mean
from palate.evaluate.beyond import Beyond, LikenessOf, Observer
from palate.evaluate.metrics import Interval, Paired, Reals, at_random, intervals, paired, per_user, rank_of
from palate.evaluate.protocol import SEED, EvalCase, Part, Protocol, candidate_hash
from palate.schema import Floats, Ints

if TYPE_CHECKING:
    from palate.data import Dataset

TOP = 10
"""How many of each case's best items a result keeps."""


class System(Shape):
    """Anything that scores cases.

    `score(cases)` gives one float array a case, in the order of `case.items(N)`, higher is better; -inf means
    "not proposed". `batch` is how many cases it wants at a time. It may have `about`, JSON-able facts for the report
    (`note`: a sentence at its foot).
    """

    name: str
    batch: int

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]: ...


@dataclass(frozen=True)
class SystemResult:
    """One system's ranks (float64 [n], the cases' order) and metrics. valid: share of cases fully scored; about: what
    the system says of itself. top: int64 [n, TOP], catalogue indices of each case's best items, best first, ties in
    catalogue order, -1 where fewer were proposed. beyond: what kind of items those are.
    """

    name: str
    ranks: Reals
    metrics: Mapping[str, Interval]
    valid: float
    seconds: float
    top: Ints
    beyond: Beyond
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """An evaluation run: the systems and everything another run needs to agree with it.

    sizes: int64 [n], candidates per list. positives: int64 [n], the relevant item of each case, an index into
    `item_ids`, the catalogue. left_out: users who cannot be asked. short_lists: lists that got
    fewer negatives than the protocol asks for, because the user has seen nearly everything.
    """

    dataset: str
    fingerprint: str
    protocol: Protocol
    part: Part
    seed: int
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    positives: Ints
    sizes: Ints
    left_out: int
    short_lists: int
    candidates: str
    systems: tuple[SystemResult, ...]

    @property
    def n(self) -> int:
        return len(self.user_ids)

    def system(self, name: str) -> SystemResult:
        """The system called `name`; a ConfigError lists the choices."""
        for system in self.systems:
            if system.name == name:
                return system
        raise ConfigError(f"no system is called {name!r}; {did_you_mean(name, [s.name for s in self.systems])}")

    @property
    def at_random(self) -> dict[str, float]:
        """What a random order of each list would reach, exact, by metric."""
        return {m: at_random(m, self.sizes) for m in self.protocol.metrics}

    def values(self, name: str, metric: str) -> Reals:
        """Per-user values of any ranking metric for one system: float64 [n]."""
        return per_user(metric, self.system(name).ranks, self.sizes)

    def compare(self, a: str, b: str, metric: str) -> Paired:
        """Paired bootstrap difference of system `a` minus system `b`."""
        return paired(self.values(a, metric), self.values(b, metric), self.seed)


def measured_by(protocol: Protocol, metrics: Sequence[str]) -> Protocol:
    """The protocol with other metrics, the headline first; itself where none is named.

    The lists do not change, so neither does its label. An unknown metric is a ConfigError that suggests the right one.
    """
    for name in metrics:
        per_user(name, [1.0], [1])
    return replace(protocol, metrics=tuple(dict.fromkeys(metrics))) if metrics else protocol


def evaluate(
    dataset: Dataset,
    systems: Sequence[System],
    protocol: Protocol,
    users: int | None = None,
    seed: int = SEED,
    part: Part = "test",
    progress: Callable[[str, int, int], None] | None = None,
    likeness: LikenessOf | None = None,
) -> Result:
    """Score every case of `protocol` with every system and summarise.

    users: a seeded draw of that many, None for all. progress: called with (system, cases done, cases in all).
    likeness: how alike the items of these catalogue indices are, for the diversity of lists.
    Systems must be fitted on `protocol.split(interactions).train` only. Raises DataError where a system
    returns a NaN or the wrong number of scores, naming the system and the user.
    """
    names = [s.name for s in systems]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"expected one system or more, each with its own name, got {names}")
    interactions = dataset.histories.interactions
    cases = protocol.cases(interactions, seed, part, users)
    split = protocol.split(interactions)
    able = len(protocol.askable(split, part))
    observer = Observer(cases, split.train, likeness, seed)
    items = len(interactions.item_ids)
    sizes = np.array([len(c.items(items)) for c in cases], dtype=np.int64)
    short = int((sizes < protocol.negatives + 1).sum()) if protocol.negatives else 0
    report = progress or (lambda name, done, total: None)
    return Result(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        protocol=protocol,
        part=part,
        seed=seed,
        user_ids=tuple(c.user_id for c in cases),
        item_ids=tuple(interactions.item_ids),
        positives=np.array([c.positive for c in cases], dtype=np.int64),
        sizes=sizes,
        left_out=len(interactions) - able,
        short_lists=short,
        candidates=candidate_hash(protocol, cases, interactions.item_ids),
        systems=tuple(_run(s, observer, items, sizes, protocol, report) for s in systems),
    )


def _run(
    system: System,
    observer: Observer,
    items: int,
    sizes: Ints,
    protocol: Protocol,
    progress: Callable[[str, int, int], None],
) -> SystemResult:
    cases, started = observer.cases, time.perf_counter()
    ranks: list[float] = []
    top = np.full((len(cases), TOP), -1, dtype=np.int64)
    whole = 0
    for start in range(0, len(cases), system.batch):
        chunk = cases[start : start + system.batch]
        for case, scores in zip(chunk, _scores(system, chunk), strict=True):
            ranks.append(_rank(system.name, case, scores, items))  # checks the scores, so it comes first
            found = best(np.asarray(scores), case.items(items), TOP)
            top[len(ranks) - 1, : len(found)] = found
            whole += bool(np.isfinite(scores).all())
        progress(system.name, min(start + system.batch, len(cases)), len(cases))
    seconds = time.perf_counter() - started
    table = np.array(ranks)
    metrics = intervals({m: per_user(m, table, sizes) for m in protocol.metrics}, observer.seed)
    about = dict(getattr(system, "about", {}))
    beyond = observer.measure(top)
    return SystemResult(system.name, table, metrics, whole / len(cases), seconds, top, beyond, about)


def best(scores: Floats, items: Ints, k: int) -> Ints:
    """The k best of `items` (catalogue indices [C]) by `scores` [C], best first: int64 [k or fewer].

    Equal scores keep catalogue order, whatever the list's order. -inf means "not proposed": such items are left out.
    """
    proposed = np.flatnonzero(scores > -np.inf)
    if len(proposed) > k:  # sorting a whole catalogue per user is slow; whoever ties for place k stays in
        least = np.partition(scores[proposed], len(proposed) - k)[len(proposed) - k]
        proposed = proposed[scores[proposed] >= least]
    order = np.lexsort((items[proposed], -scores[proposed]))
    return np.asarray(items[proposed[order[:k]]], dtype=np.int64)


def _scores(system: System, chunk: Sequence[EvalCase]) -> list[Floats]:
    scores = system.score(chunk)
    if len(scores) != len(chunk):
        raise DataError(f"{system.name}: expected scores for {len(chunk)} cases, got {len(scores)}")
    return scores


def _rank(name: str, case: EvalCase, scores: Floats, items: int) -> float:
    listed = case.items(items)
    if np.shape(scores) != listed.shape:
        raise DataError(
            f"{name}, user {case.user_id!r}: expected {len(listed)} scores, one a candidate, "
            f"got shape {np.shape(scores)}"
        )
    try:
        return rank_of(scores, int(np.flatnonzero(listed == case.positive)[0]))
    except DataError as error:
        raise DataError(f"{name}, user {case.user_id!r}: {error}") from None
