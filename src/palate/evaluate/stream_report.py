"""A replayed stream as Markdown, terminal tables or JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from palate import __version__
from palate.evaluate.environment import manifest
from palate.evaluate.metrics import LEVEL, RESAMPLES
from palate.evaluate.report import difference, grid, save
from palate.evaluate.stream import GROUPS, METRICS, StreamResult

ABOUT = {
    "all": "all questions",
    "returning": "users with an event before the slice",
    "new": "users without one",
}


def day(seconds: float) -> str:
    """A moment as a date, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def facts(result: StreamResult) -> str:
    """What a reader needs to trust and repeat the numbers."""
    told = [
        f"{result.dataset}: the oldest {result.base_events:,} events first ({result.base:.0%}), then "
        f"{len(result.slices)} slices; each question is one event, ranked among all items its user had not chosen "
        "before that second.",
        f"Brackets: {LEVEL:.0%} bootstrap intervals over users ({RESAMPLES:,} resamples, seed {result.seed}); a user's "
        "questions are averaged first. Ties count half.",
        f"Data {result.fingerprint[:16]}, Palate {__version__}, mode {result.facts.get('mode', '?')}, training "
        f"protocol {result.facts.get('train protocol', '?')}.",
    ]
    return "\n".join(told)


def slice_rows(result: StreamResult) -> list[list[str]]:
    """One row a slice: number, days, events, questions, users (returning, new), questions about cold items."""
    rows = []
    for n, s in enumerate(result.slices, 1):
        users = {g: len(set(s.users[s.mask(g)].tolist())) for g in GROUPS}
        rows.append(
            [
                str(n),
                f"{day(s.start)} to {day(s.stop)}",
                f"{s.events:,}",
                f"{len(s.users):,}",
                f"{users['all']:,} ({users['returning']:,} returning, {users['new']:,} new)",
                f"{int(s.cold.sum()):,}",
            ]
        )
    return rows


SLICE_HEADS = ("slice", "days", "events", "questions", "users", "about items nobody had chosen before")


def value_rows(result: StreamResult, metric: str, group: str) -> list[list[str]]:
    """One row an arm: name, the metric in each slice, in all together."""
    places = [*range(len(result.slices)), None]
    rows = []
    for arm in result.arms:
        found = [result.value(arm, metric, group, n) for n in places]
        rows.append([arm, *("-" if f is None else str(f) for f in found)])
    return rows


def value_heads(result: StreamResult) -> list[str]:
    return ["", *(f"slice {n}" for n in range(1, len(result.slices) + 1)), "all slices"]


def difference_rows(result: StreamResult, metric: str) -> list[list[str]]:
    """Each arm minus the one of the same system before it, and the first system's last minus the others' last: by
    group, over all slices.
    """
    rows = []
    for a, b in _pairs(result.arms):
        cells = [result.compare(a, b, metric, group) for group in GROUPS]
        rows.append([f"{a} - {b}", *("-" if c is None else difference(c) for c in cells)])
    return rows


def _pairs(arms: list[str]) -> list[tuple[str, str]]:
    """(arm, the one it is compared with). A system's arms share their name up to the comma."""
    last = {arm.split(",")[0]: arm for arm in arms}
    first, *others = last.values()
    own = [(b, a) for a, b in itertools.pairwise(arms) if a.split(",")[0] == b.split(",")[0]]
    return [*own, *((first, other) for other in others)]


def to_markdown(result: StreamResult) -> str:
    """The whole report."""
    parts = [f"# {result.dataset}, replayed", facts(result), grid(list(SLICE_HEADS), slice_rows(result))]
    for group in GROUPS:
        if any(s.mask(group).any() for s in result.slices):
            parts.append(f"## {METRICS[0]}: {ABOUT[group]}")
            parts.append(grid(value_heads(result), value_rows(result, METRICS[0], group)))
    parts.append(f"## {METRICS[0]}: differences over all slices, paired over users")
    parts.append(grid(["", *GROUPS], difference_rows(result, METRICS[0])))
    return "\n\n".join(parts) + "\n"


def tables(result: StreamResult) -> list[Table]:
    """For a terminal."""
    shown: list[tuple[str, Sequence[str], list[list[str]]]] = [("the stream", SLICE_HEADS, slice_rows(result))]
    for group in GROUPS:
        if any(s.mask(group).any() for s in result.slices):
            shown.append((f"{METRICS[0]}: {ABOUT[group]}", value_heads(result), value_rows(result, METRICS[0], group)))
    shown.append((f"{METRICS[0]}: differences", ("", *GROUPS), difference_rows(result, METRICS[0])))
    out = []
    for title, heads, rows in shown:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for head in heads:
            table.add_column(head)
        for row in rows:
            table.add_row(*(cell.replace("[", "\\[") for cell in row))
        out.append(table)
    return out


def to_json(result: StreamResult, command: str = "") -> str:
    """Everything, every question's rank too; and the run manifest where the command is known."""
    told: dict[str, Any] = {
        "data set": result.dataset,
        "fingerprint": result.fingerprint,
        "base": result.base,
        "base events": result.base_events,
        "seed": result.seed,
        **result.facts,
        "slices": [
            {
                "start": s.start,
                "stop": s.stop,
                "events": s.events,
                "users": s.users.tolist(),
                "new": s.new.tolist(),
                "cold": s.cold.tolist(),
                "ranks": {arm: r.tolist() for arm, r in s.ranks.items()},
            }
            for s in result.slices
        ],
        "values": [
            {"arm": arm, "metric": m, "group": g, "slice": n, "value": f.value, "low": f.low, "high": f.high, "n": f.n}
            for arm in result.arms
            for m in METRICS
            for g in GROUPS
            for n in (*range(len(result.slices)), None)
            if (f := result.value(arm, m, g, n)) is not None
        ],
    }
    if command:
        told["manifest"] = manifest(command, {"replay": result.seed}, {"data": result.fingerprint})
    return json.dumps(told, indent=1) + "\n"


def write(result: StreamResult, path: str | Path, command: str = "") -> Path:
    """Write Markdown or JSON, by suffix (.md or .json)."""
    return save(path, lambda: to_markdown(result), lambda: to_json(result, command))
