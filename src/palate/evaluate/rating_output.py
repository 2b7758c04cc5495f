"""A RatingResult as terminal tables, Markdown or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from palate import __version__
from palate.evaluate.environment import manifest, versions
from palate.evaluate.metrics import LEVEL, RESAMPLES, Paired
from palate.evaluate.rating import RatingResult, RatingSystem
from palate.evaluate.rating_models import BIAS_ONLY
from palate.evaluate.rating_report import averages, classification, confusion, worst
from palate.evaluate.report import difference, grid, save

SHOWN = ("RMSE", "MAE", "accuracy", "AUC")
"""Metrics of the terminal's first table; the files hold all of them."""
WORST = 10
"""Worst errors listed."""


def write(result: RatingResult, path: str | Path, command: str = "") -> Path:
    """Write Markdown or JSON, by suffix. The JSON holds every prediction, so that it can be re-analysed, and the
    command.
    """
    return save(path, lambda: to_markdown(result), lambda: to_json(result, rows=True, command=command))


def facts(result: RatingResult) -> str:
    """One paragraph: what a reader needs to trust and repeat the numbers."""
    p = result.protocol
    lines = [
        f"{p.label} ({p.description}), {result.part} ratings of {result.dataset}, n = {result.n:,} ratings of "
        f"{len(set(result.users.tolist())):,} users, seed {result.seed}; {result.learned_from:,} others to learn from.",
        f"Brackets: {LEVEL:.0%} bootstrap intervals over ratings, of differences over users, {RESAMPLES:,} resamples. "
        f"Predictions are clipped to {result.levels[0]:g} to {result.levels[-1]:g}.",
        f'Accuracy, precision, recall, F1 and AUC are of "rated {result.like:g} or more".',
        f"Data {result.fingerprint[:16]}, Palate {__version__}.",
    ]
    lines += [f"{s.name}: {s.about['note']}." for s in result.systems if "note" in s.about]
    return "\n".join(lines)


def _compared(result: RatingResult) -> list[tuple[str, str, Paired]]:
    """Every later system, each reference before it, and the difference of their RMSE, paired over users."""
    names = [s.name for s in result.systems]
    first = names.index(BIAS_ONLY)
    return [
        (names[place], reference, result.compare(names[place], reference))
        for place in range(first + 1, len(names))
        for reference in names[first:place]
    ]


def differences(result: RatingResult) -> list[dict[str, Any]]:
    """RMSE of every later system minus that of each reference before it, paired over users."""
    return [
        {"a": a, "b": b, "metric": "RMSE", "diff": d.diff, "low": d.low, "high": d.high, "p": d.p}
        for a, b, d in _compared(result)
    ]


def _difference_rows(result: RatingResult) -> list[list[str]]:
    return [[f"{a} - {b}", difference(d)] for a, b, d in _compared(result)]


# --- the tables of one system's errors ------------------------------------------------------------------


def _confusion_cells(result: RatingResult, system: RatingSystem) -> tuple[list[str], list[list[str]]]:
    counts = confusion(result.truth, system.predicted, result.levels)
    headings = ["rated \\ predicted", *(f"{level:g}" for level in result.levels)]
    rows = [[f"{level:g}", *map(str, row)] for level, row in zip(result.levels, counts.tolist(), strict=True)]
    return headings, rows


def _level_cells(result: RatingResult, system: RatingSystem) -> tuple[list[str], list[list[str]]]:
    rows = classification(result.truth, system.predicted, result.levels)
    cells = [[f"{r.level:g}", f"{r.precision:.3f}", f"{r.recall:.3f}", f"{r.f1:.3f}", f"{r.support:,}"] for r in rows]
    for name, weighted in (("mean over levels", False), ("mean over ratings", True)):
        mean = averages(rows, weighted)
        cells.append([name, *(f"{mean[m]:.3f}" for m in ("precision", "recall", "f1")), f"{result.n:,}"])
    return ["level", "precision", "recall", "F1", "ratings"], cells


def _worst_rows(result: RatingResult, system: RatingSystem) -> list[dict[str, Any]]:
    return [
        {
            "user": result.user_ids[int(result.users[n])],
            "item": result.item_ids[int(result.items[n])],
            "title": result.titles[int(result.items[n])],
            "rated": float(result.truth[n]),
            "predicted": float(system.predicted[n]),
        }
        for n in worst(result.truth, system.predicted, WORST).tolist()
    ]


def _worst_cells(result: RatingResult, system: RatingSystem) -> tuple[list[str], list[list[str]]]:
    rows = [
        [r["title"], r["item"], r["user"], f"{r['rated']:g}", f"{r['predicted']:.2f}"]
        for r in _worst_rows(result, system)
    ]
    return ["item", "item id", "user", "rated", "predicted"], rows


def _parts(result: RatingResult, system: RatingSystem) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and cells of each table about one system."""
    return [
        (f"{system.name}: confusion, predictions at the nearest level", *_confusion_cells(result, system)),
        (f"{system.name}: report per level", *_level_cells(result, system)),
        (f"{system.name}: worst errors", *_worst_cells(result, system)),
    ]


# --- forms ----------------------------------------------------------------------------------------------


def tables(result: RatingResult) -> list[Table]:
    """Rich tables: all systems, the paired differences, then confusion, levels and worst errors of the last one."""
    main = Table(title=f"{result.dataset}, {result.protocol.label}", caption=facts(result), caption_justify="left")
    main.add_column("system", no_wrap=True)
    for name in SHOWN:
        main.add_column(name, justify="right", no_wrap=True)
    for system in result.systems:
        cells = []
        for name in SHOWN:
            values = [s.metrics[name].value for s in result.systems]
            found = system.metrics[name]
            best = min(values) if name in ("RMSE", "MAE") else max(values)
            value = f"[bold green]{found.value:.3f}[/]" if found.value == best else f"{found.value:.3f}"
            cells.append(f"{value}\n[dim]{found.low:.3f}-{found.high:.3f}[/]")
        main.add_row(system.name, *cells)
    shown = [main, _plain("paired differences", ["systems", "RMSE"], _difference_rows(result))]
    return [*shown, *(_plain(*part) for part in _parts(result, result.headline))]


def _plain(title: str, headings: list[str], rows: list[list[str]]) -> Table:
    from rich.markup import escape

    table = Table(title=escape(title), title_justify="left")
    for n, heading in enumerate(headings):
        table.add_column(escape(heading), justify="right" if n else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def to_markdown(result: RatingResult) -> str:
    """A Markdown section: every metric of every system, the differences, the errors of the last system, the facts."""
    names = list(result.systems[0].metrics)
    rows = [[s.name, *(str(s.metrics[m]) for m in names), f"{s.seconds:.1f}"] for s in result.systems]
    parts = [f"## {result.dataset}, {result.protocol.label}", grid(["system", *names, "seconds"], rows)]
    parts.append(grid(["difference", "RMSE"], _difference_rows(result)))
    for title, headings, cells in _parts(result, result.headline):
        parts += [f"### {title}", grid(headings, cells)]
    parts.append(facts(result))
    return "\n\n".join(parts) + "\n"


def to_dict(result: RatingResult, rows: bool = False) -> dict[str, Any]:
    """Plain data for JSON. rows: also each rating's user, item, truth, and per system its prediction."""
    systems: list[dict[str, Any]] = []
    for s in result.systems:
        metrics = {m: {"value": i.value, "low": i.low, "high": i.high, "n": i.n} for m, i in s.metrics.items()}
        found: dict[str, Any] = {"name": s.name, "metrics": metrics, "seconds": round(s.seconds, 3)}
        found["confusion"] = confusion(result.truth, s.predicted, result.levels).tolist()
        levels = classification(result.truth, s.predicted, result.levels)
        found["levels"] = [
            {k: getattr(r, k) for k in ("level", "precision", "recall", "f1", "support")} for r in levels
        ]
        found["worst"] = _worst_rows(result, s)
        if s.about:
            found["about"] = dict(s.about)
        if rows:
            found["predicted"] = [round(p, 6) for p in s.predicted.tolist()]
        systems.append(found)
    told: dict[str, Any] = {
        "palate": __version__,
        "versions": versions(),
        "dataset": result.dataset,
        "data_fingerprint": result.fingerprint,
        "protocol": result.protocol.name,
        "protocol_version": result.protocol.version,
        "protocol_options": dict(result.protocol.options),
        "part": result.part,
        "n": result.n,
        "learned_from": result.learned_from,
        "seed": result.seed,
        "levels": list(result.levels),
        "liked_from": result.like,
        "interval": {
            "level": LEVEL, "resamples": RESAMPLES,
            "method": "percentile bootstrap over ratings; of differences over users",
        },
        "systems": systems,
        "differences": differences(result),
    }  # fmt: skip
    if rows:
        told["users"] = [result.user_ids[int(u)] for u in result.users]
        told["items"] = [result.item_ids[int(i)] for i in result.items]
        told["truth"] = result.truth.tolist()
    return told


def to_json(result: RatingResult, rows: bool = False, command: str = "") -> str:
    """`to_dict` as JSON, with the run manifest where the command is known: indented without rows, on one line with
    them.
    """
    plain = to_dict(result, rows)
    if command:
        adapters = {s.name: s.about["adapter"] for s in result.systems if "adapter" in s.about}
        prints = {"data": result.fingerprint, "adapters": adapters}
        plain |= {"command": command, "manifest": manifest(command, {"evaluation": result.seed}, prints)}
    return json.dumps(plain, indent=None if rows else 2, ensure_ascii=False) + "\n"
