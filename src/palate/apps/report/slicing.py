"""Slices of the main table's users: by the length of their history, by how known the item asked about is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palate.apps.report.columns import Column, Value, best
from palate.apps.report.parts import Cell, Table
from palate.data import Dataset
from palate.errors import ConfigError, DataError
from palate.evaluate.metrics import Interval
from palate.evaluate.protocol import EvalCase, Part, candidate_hash, protocol
from palate.evaluate.slices import HEAD, Slice, by_history_length, by_popularity

FEW = 30
"""Below this many users a slice's interval is not to be trusted."""


@dataclass(frozen=True)
class Sliced:
    """One metric of one column over the slices of one kind. values: by system, None where it was not run."""

    column: Column
    by: str
    metric: str
    slices: Sequence[Slice]
    values: dict[str, list[Interval | None]]

    @property
    def known(self) -> dict[str, list[Interval]]:
        """The systems whose ranks are there."""
        return {name: [i for i in found if i is not None] for name, found in self.values.items() if None not in found}

    def table(self) -> Table:
        """Systems against slices."""
        tops = [best({s: v[n].value for s, v in self.known.items()}) for n in range(len(self.slices))]
        rows = [
            (
                name,
                [
                    Cell("needs ranks") if i is None else _cell(i, name in top)
                    for i, top in zip(found, tops, strict=True)
                ],
            )
            for name, found in self.values.items()
        ]
        headings = ["system", *[f"{part.name}, n = {part.n:,}" for part in self.slices]]
        few = [part.name for part in self.slices if part.n < FEW]
        note = f"Fewer than {FEW} users: {', '.join(few)}; read nothing into it." if few else ""
        return Table(f"{self.metric} by {self.by}, {self.column.label}", headings, rows, note)


def _cell(i: Interval, top: bool) -> Cell:
    return Cell(f"{i.value:.3f}", Value(i.value, i.low, i.high, i.n).interval, top)


def cases(column: Column, dataset: Dataset) -> list[EvalCase]:
    """What the column's first seed asked, drawn again from the data set, and checked against the file's hash.

    Raises DataError where this Palate would ask something else.
    """
    result = column.first
    options = "".join(f":{key}={value}" for key, value in result.protocol_options.items())
    try:
        chosen = protocol(f"{result.protocol}{options}")
    except ConfigError as error:
        raise DataError(f"{result.file}: {error}") from None
    part: Part = "valid" if result.part == "valid" else "test"
    interactions = dataset.histories.interactions
    found = chosen.cases(interactions, result.seed, part)
    if result.n < len(found):
        found = chosen.cases(interactions, result.seed, part, result.n)
    if candidate_hash(chosen, found, interactions.item_ids) != result.candidate_hash:
        raise DataError(
            f"{result.file}: expected the lists that {chosen.label} with seed {result.seed} asks about on "
            f"{dataset.name} (candidates {result.candidate_hash[:12]}), and this Palate draws others; evaluate again"
        )
    return found


def sliced(column: Column, asked: Sequence[EvalCase], dataset: Dataset) -> list[Sliced]:
    """The headline metric by history length and by popularity, from ranks; kinds with a single slice are left out.

    Where seeds asked different users, the first seed alone is looked at.
    """
    result = column.first
    options = "".join(f":{key}={value}" for key, value in result.protocol_options.items())
    train = protocol(f"{result.protocol}{options}").split(dataset.histories.interactions).train
    metric, word = column.metrics[0], dataset.wording
    kinds = {
        f"the {word.person}'s history ({word.items})": by_history_length(asked),
        f"how known the {word.item} asked about is": by_popularity(asked, train),
    }
    found = []
    for by, parts in kinds.items():
        if len(parts) > 1:
            values = {name: _over(column, name, metric, parts) for name in column.runs}
            found.append(Sliced(column, by, metric, parts, values))
    return found


def _over(column: Column, name: str, metric: str, parts: Sequence[Slice]) -> list[Interval | None]:
    row = column.values(name, metric)
    if row is None or len(row) != len(parts[0].mask):
        row = column.values(name, metric, [column.seeds[0]])
    return [None if row is None else column.interval(np.asarray(row), part.mask) for part in parts]


def lead(dataset: Dataset) -> str:
    """What the slices mean."""
    word = dataset.wording
    return (
        f"The same users as above, told apart. Known is counted in train events: the head are the {HEAD:.0%} of the "
        f"{word.items} with most. Histories are split into parts of about as many users each. The best of a slice is "
        "bold, which in small slices says little: read the intervals."
    )
