"""Examples: what some users chose, what was held out, and what each system put first, as cards with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palate.apps.report.columns import Column, Run
from palate.apps.report.parts import Card, Example, Shelf
from palate.data import Dataset
from palate.errors import DataError
from palate.evaluate.protocol import EvalCase
from palate.features.problem import Unusable
from palate.recommender.page import Picture, picture
from palate.schema import Item

THUMBNAIL = (112, 168)
"""Pixels a picture has at most; shown in half of that."""
MAX_PICTURES = 600
MAX_BYTES = 3_000_000
"""Characters of data URIs a page holds at most; cards go without a picture beyond."""
HISTORY = 10
TOP = 10
SYSTEMS = 8
MODALITY = "image"


class Pictures:
    """Takes pictures of items within the page's bounds, each file decoded once, and counts those it could not take."""

    def __init__(self, most: int = MAX_PICTURES, most_bytes: int = MAX_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.taken = self.nbytes = self.over = 0
        self.bad: dict[Path, str] = {}
        self._kept: dict[Path, Picture | None] = {}

    def take(self, path: Path | None) -> Picture | None:
        if path is None:
            return None
        if path not in self._kept:
            try:
                self._kept[path] = picture(path, THUMBNAIL)
            except Unusable as problem:
                self._kept[path] = None
                self.bad[path] = str(problem)
        found = self._kept[path]
        if found is None:
            return None
        if self.taken >= self.most or self.nbytes + len(found.uri) > self.most_bytes:
            self.over += 1
            return None
        self.taken, self.nbytes = self.taken + 1, self.nbytes + len(found.uri)
        return found

    def notes(self) -> list[str]:
        """What was left out, in words."""
        told = []
        if self.bad:
            first = next(iter(self.bad.items()))
            told.append(f"{len(self.bad)} pictures cannot be shown, such as {first[0].name}: {first[1]}.")
        if self.over:
            told.append(
                f"{self.over} cards are without their picture, as a page holds {self.most_bytes:,} bytes of them."
            )
        return told


def chosen(column: Column, count: int, seed: int) -> list[int]:
    """Places of the users to show, a seeded draw: half of them at random, half among those for whom some system has
    the held-out item in its first ten; others where there are too few of these.
    """
    result = column.first
    rng = np.random.default_rng(seed)
    order = rng.permutation(result.n)
    ranks = np.array([r.entry.table for runs in column.runs.values() for r in runs if r.result is result])
    hits = [int(u) for u in order if (ranks[:, u] <= TOP).any()]
    half = hits[: (count + 1) // 2]
    rest = [int(u) for u in order if u not in half]
    return [*half, *rest[: count - len(half)]]


def showable(found: Sequence[Column]) -> Column | None:
    """The column to take examples from: with ranks, positives and best items; one with full ranking if there is one."""
    able = [c for c in found if c.first.ranked and c.first.positives is not None and _runs(c)]
    return next((c for c in able if c.full), able[0] if able else None)


def _runs(column: Column) -> list[tuple[str, Run]]:
    """The systems of the first seed that have best items."""
    result = column.first
    return [
        (name, run)
        for name, runs in column.runs.items()
        for run in runs
        if run.result is result and run.entry.top is not None
    ]


def example(column: Column, place: int, case: EvalCase, dataset: Dataset, pictures: Pictures) -> Example:
    """One user of the column's first seed. place: its place in the file; case: what was asked of it."""
    word, ids = dataset.wording, dataset.catalog.item_ids
    result = column.first
    positive = ids[case.positive]
    if result.positives is None or result.positives[place] != positive:
        raise DataError(
            f"{result.file}: user {case.user_id!r}: expected {positive!r} as the positive, the file differs"
        )
    recent = [_card(dataset, ids[int(i)], pictures) for i in case.history[::-1][:HISTORY]]
    told = f"the last {len(recent)} of {len(case.history):,}" if len(case.history) > len(recent) else "all"
    shelves = [
        Shelf(f"{word.items.capitalize()} {word.verb}, newest first", recent, told),
        Shelf("Held out", [_card(dataset, positive, pictures, held_out=True)], "what the systems should rank first"),
    ]
    runs = _runs(column)
    for name, run in runs[:SYSTEMS]:
        best = (run.entry.top or [])[place][:TOP]
        cards = [_card(dataset, i, pictures, held_out=i == positive) for i in best]
        rank = f"held-out {word.item} at rank {run.entry.table[place]:g} of {(result.sizes or [])[place]:,}"
        shelves.append(Shelf(name, cards, rank, ordered=True))
    note = f"Not shown: {len(runs) - SYSTEMS} systems more." if len(runs) > SYSTEMS else ""
    return Example(f"{word.person.capitalize()} {case.user_id}", shelves, note)


def _card(dataset: Dataset, item_id: str, pictures: Pictures, held_out: bool = False) -> Card:
    item: Item | None = dataset.catalog.get(item_id)
    if item is None:
        raise DataError(
            f"the results name an item {item_id!r} that is not in {dataset.name}; is it the data set of the results?"
        )
    beside = " · ".join(item.text[f] for f in dataset.show.history if item.text.get(f))
    return Card(item.title, beside, pictures.take(item.media.get(MODALITY)), held_out)
