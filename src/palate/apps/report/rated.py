"""Results of the rating protocol as tables: errors, differences, confusion, levels, and the worst predictions."""

from __future__ import annotations

from collections.abc import Sequence

from palate.apps.report.columns import Value, best
from palate.apps.report.parts import Cell, Part, Section, Table
from palate.apps.report.results import ResultFile, SystemEntry
from palate.apps.report.tables import MINUS, difference
from palate.evaluate.metrics import LEVEL, Paired

LOWER = ("RMSE", "MAE")
"""Metrics of which less is better."""


def main(results: Sequence[ResultFile]) -> Table:
    """Systems against the metrics of each result; errors first, the best bold."""
    headings, names = ["system"], list(dict.fromkeys(s.name for r in results for s in r.systems))
    rows: dict[str, list[Cell]] = {name: [] for name in names}
    for result in results:
        for metric in result.systems[0].metrics:
            found = {s.name: s.metrics[metric] for s in result.systems if metric in s.metrics}
            sign = -1 if metric in LOWER else 1
            top = best({name: sign * i.value for name, i in found.items()})
            told = f", {result.label}, seed {result.seed}" if len(results) > 1 else ""
            headings.append(f"{metric}{' (less is better)' if metric in LOWER else ''}{told}")
            for name in names:
                i = found.get(name)
                value = None if i is None else Value(i.value, i.low, i.high, i.n)
                rows[name].append(
                    Cell("not run") if value is None else Cell(f"{value.value:.3f}", value.interval, name in top)
                )
    first = results[0]
    liked = "" if first.liked_from is None else f' Accuracy and what follows: of "rated {first.liked_from:g} or more".'
    note = (
        f"{first.label}, {first.part} ratings of {first.dataset} (data {first.data_fingerprint[:12]}), n = {first.n:,} "
        f"ratings, {first.learned_from:,} others to learn from. Brackets: {LEVEL:.0%} bootstrap intervals over "
        f"ratings. Bold: the best.{liked}"
    )
    return Table("Predicted ratings", headings, list(rows.items()), note)


def section(results: Sequence[ResultFile]) -> Section:
    """All tables of the rating protocol; what one system got wrong is told of each result's last."""
    parts: list[Part] = [main(results)]
    for result in results:
        minus = _differences(result)
        last = result.systems[-1]
        parts += [t for t in (minus, _confusion(result, last), _levels(result, last), _worst(result, last)) if t]
    return Section("ratings", "Predicted ratings", "", parts)


def _differences(result: ResultFile) -> Table | None:
    if not result.differences:
        return None
    rows = [
        (f"{d.a} {MINUS} {d.b}", [difference(Paired(d.diff, d.low, d.high, d.p, result.n))]) for d in result.differences
    ]
    note = "Below zero: the first errs less. Paired, with intervals over users. Bold: the interval excludes zero."
    return Table(
        f"Differences of {result.differences[0].metric}, {result.label}", ["systems", "difference"], rows, note
    )


def _confusion(result: ResultFile, system: SystemEntry) -> Table | None:
    if not system.confusion:
        return None
    names = [f"{level:g}" for level in result.levels]
    rows = [
        (f"rated {name}", [Cell(f"{count:,}", best=n == k) for k, count in enumerate(row)])
        for n, (name, row) in enumerate(zip(names, system.confusion, strict=True))
    ]
    note = "How many ratings of each level were predicted as which, at the nearest level. Bold: right."
    return Table(f"{system.name}: confusion", ["rating", *[f"predicted {name}" for name in names]], rows, note)


def _levels(result: ResultFile, system: SystemEntry) -> Table | None:
    if not system.levels:
        return None
    rows = [
        (f"rated {r.level:g}", [*(Cell(f"{v:.3f}") for v in (r.precision, r.recall, r.f1)), Cell(f"{r.support:,}")])
        for r in system.levels
    ]
    return Table(f"{system.name}: each level", ["level", "precision", "recall", "F1", "ratings"], rows)


def _worst(result: ResultFile, system: SystemEntry) -> Table | None:
    if not system.worst:
        return None
    rows = [
        (w.title or w.item, [Cell(w.item), Cell(w.user), Cell(f"{w.rated:g}"), Cell(f"{w.predicted:.2f}")])
        for w in system.worst
    ]
    return Table(f"{system.name}: worst errors", ["title", "item", "user", "rated", "predicted"], rows)
