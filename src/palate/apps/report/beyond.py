"""Beyond accuracy: coverage, exposure, diversity, novelty and popularity, as the result files tell them."""

from __future__ import annotations

from typing import Any

from palate.apps.report.columns import Column
from palate.apps.report.parts import Cell, Table
from palate.apps.report.tables import signed
from palate.evaluate.run import TOP

MEASURES = ("coverage", "gini", "diversity", "novelty", "popularity", "lift")
NOTE = (
    "coverage: share of the items that could be recommended that were, to anyone; gini: how unevenly they are shown, 0 "
    "alike, 1 one item alone; diversity: mean distance of two items of a list; novelty: bits, rarer items have more; "
    "popularity: mean percentile by train events, lift: that less the mean of the user's own history. No direction is "
    "the better one by itself, so nothing is bold."
)


def table(column: Column) -> Table | None:
    """Systems against measures, of the first seed; None where no file has them."""
    rows, distances = [], set()
    for name, runs in column.runs.items():
        found = runs[0].entry.beyond
        if not found:
            continue
        rows.append((name, [_cell(m, found.get(m)) for m in MEASURES]))
        if found.get("distance"):
            distances.add(str(found["distance"]))
    if not rows:
        return None
    short = "" if column.full else " Lists are short here, so the candidates decide much of this."
    told = f" Distance: {' and '.join(sorted(distances))}." if distances else ""
    caption = f"The {TOP} best items of each list, {column.label}, seed {column.seeds[0]}"
    return Table(caption, ["system", *MEASURES], rows, (told + short).strip())


def _cell(measure: str, value: Any) -> Cell:
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        show = signed if measure == "lift" else "{:.3f}".format
        return Cell(show(value["value"]), f"[{show(value['low'])}, {show(value['high'])}]")
    return Cell(f"{value:.3f}") if isinstance(value, int | float) else Cell("not told")
