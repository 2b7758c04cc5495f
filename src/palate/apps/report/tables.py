"""The tables of a report, from its columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from palate.apps.report.columns import Column, Run, Value
from palate.apps.report.parts import Cell, Table
from palate.apps.report.results import Number
from palate.evaluate.metrics import LEVEL, Paired
from palate.evaluate.report import p_value

METRICS = 2
"""The protocol's metrics that a column shows."""
ABSENT = "not run"
MINUS = "\N{MINUS SIGN}"


def systems(found: Sequence[Column]) -> list[str]:
    """Every system once, in the order of first appearance."""
    return list(dict.fromkeys(name for column in found for name in column.runs))


def headline(column: Column) -> list[str]:
    """The metrics that a report shows of a protocol."""
    return column.metrics[:METRICS]


def main(found: Sequence[Column]) -> Table:
    """Systems against protocols: each mean with its interval, the best in bold."""
    cells = {(c.label, m): c.best(m) for c in found for m in headline(c)}
    rows = []
    for name in systems(found):
        row = [_value(c.value(name, m), name in cells[c.label, m]) for c in found for m in headline(c)]
        rows.append((name, row))
    headings = ["system", *[f"{m}, {c.label}" for c in found for m in headline(c)]]
    return Table("Systems and protocols", headings, rows, terms(found))


def terms(found: Sequence[Column]) -> str:
    """What a reader of the main table needs to know to trust and repeat it."""
    told = []
    for c in found:
        seeds = f"seed {c.seeds[0]}" if len(c.seeds) == 1 else f"mean over seeds {listed(c.seeds)}"
        told.append(f"{c.label}: ranked among {c.first.candidate_policy}, n = {c.first.n:,} users, {seeds}")
    first = found[0].first
    part = {r.part for c in found for r in c.results}
    versions = sorted({r.palate for c in found for r in c.results})
    return (
        f"{listed(sorted(part)).capitalize()} items of {first.dataset} (data {first.data_fingerprint[:12]}). Brackets: "
        f"{LEVEL:.0%} bootstrap intervals over users. Bold: the highest mean. {'; '.join(told)}. "
        f"Palate {listed(versions)}."
    )


def _value(v: Value | None, best: bool = False) -> Cell:
    if v is None:
        return Cell(ABSENT)
    return Cell(f"{v.value:.3f}", v.interval or f"mean of {v.runs} runs", best)


def per_seed(column: Column) -> Table | None:
    """Each run of a protocol that was run more than once; None where there is one run a system."""
    if all(len(runs) == 1 for runs in column.runs.values()):
        return None
    metrics = headline(column)
    rows = []
    for name, runs in column.runs.items():
        for run in runs:
            cells = [_value(_of(run.entry.metrics[m])) for m in metrics]
            rows.append((f"{name}, {run.told}", cells))
        if len(runs) > 1:
            spread = [f"{min(v):.3f} to {max(v):.3f}" for v in _each(runs, metrics)]
            means = [column.value(name, m) for m in metrics]
            rows.append((f"{name}, mean", [_mean(v, s) for v, s in zip(means, spread, strict=True)]))
    note = "A mean's interval is over users, whose values are averaged over the runs first; then lowest to highest run."
    return Table(f"{column.label}: each run", ["system and run", *metrics], rows, note, folded=True)


def _of(number: Number) -> Value:
    return Value(number.value, number.low, number.high, number.n)


def _each(runs: Sequence[Run], metrics: Iterable[str]) -> list[list[float]]:
    return [[r.entry.metrics[m].value for r in runs] for m in metrics]


def _mean(v: Value | None, spread: str) -> Cell:
    if v is None:
        return Cell(ABSENT)
    return Cell(f"{v.value:.3f}", "; ".join(part for part in (v.interval, spread) if part))


def differences(found: Sequence[Column], reference: str) -> Table | None:
    """The reference minus every other system, paired over users; None where there is nothing to subtract."""
    kept = [c for c in found if reference in c.runs]
    rows = []
    for name in systems(kept):
        if name == reference:
            continue
        cells = [
            difference(c.compare(reference, name, m) if name in c.runs else None, name in c.runs)
            for c in kept
            for m in headline(c)
        ]
        rows.append((f"{MINUS}\N{NO-BREAK SPACE}{name}", cells))
    if not rows:
        return None
    headings = [f"{reference} ...", *[f"{m}, {c.label}" for c in kept for m in headline(c)]]
    note = (
        "Differences of means, paired over users, with intervals and two-sided bootstrap p. Bold: the interval lies on "
        "one side of zero. The p values are not corrected for their number."
    )
    return Table(f"Paired differences: {reference} minus each other system", headings, rows, note)


def difference(d: Paired | None, run: bool = True) -> Cell:
    """A paired difference as a cell; bold where its interval lies on one side of zero."""
    if d is None:
        return Cell("needs ranks" if run else ABSENT)
    told = f"[{signed(d.low)}, {signed(d.high)}], p {p_value(d.p)}"
    return Cell(signed(d.diff), told, d.low > 0 or d.high < 0)


def signed(value: float) -> str:
    """Three digits with a sign, the minus a minus."""
    return f"{value:+.3f}".replace("-", MINUS)


def listed(values: Iterable[object]) -> str:
    """As a sentence lists them: a, b and c."""
    words = [str(v) for v in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
