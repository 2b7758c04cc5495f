"""A Result as a terminal table, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from palate import __version__
from palate.errors import ConfigError
from palate.evaluate.beyond import MEASURES
from palate.evaluate.environment import manifest, versions
from palate.evaluate.metrics import LEVEL, RESAMPLES, Interval, Paired
from palate.evaluate.run import TOP, Result

if TYPE_CHECKING:
    from palate.evaluate.rating import RatingResult

SUFFIXES = (".md", ".json")


def check_output(path: str | Path) -> Path:
    """The path, if a report can be written there by its suffix (.md or .json); else a ConfigError."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"expected an output file ending in .md or .json, got {str(path)!r}")
    return path


def write(result: Result, path: str | Path, command: str = "") -> Path:
    """Write Markdown or JSON, by suffix. The JSON holds every user's rank, so that it can be re-analysed.

    command: the command line that made the result, kept in the JSON.
    """
    return save(path, lambda: to_markdown(result), lambda: to_json(result, ranks=True, command=command))


def save(path: str | Path, markdown: Callable[[], str], plain: Callable[[], str]) -> Path:
    """Write Markdown or JSON, by suffix (.md or .json), into a folder that is made where there is none."""
    path = check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown() if path.suffix.lower() == ".md" else plain(), encoding="utf-8")
    return path


def facts(result: Result) -> str:
    """One paragraph: what a reader needs to trust and repeat the numbers."""
    p = result.protocol
    lines = [
        f"{p.label} ({p.description}), {result.part} items of {result.dataset}, n = {result.n:,} users, "
        f"seed {result.seed}.",
        f"Brackets: {LEVEL:.0%} bootstrap intervals over users, {RESAMPLES:,} resamples. Ties count half.",
        f"Data {result.fingerprint[:16]}, candidates {result.candidates[:16]}, Palate {__version__}.",
    ]
    random = ", ".join(f"{m} {v:.3f}" for m, v in list(result.at_random.items())[:2])
    lines.append(f"Ranked among {p.policy}; a random order gives {random}.")
    lines += [f"{s.name}: {s.about['note']}" for s in result.systems if "note" in s.about]
    if result.left_out:
        lines.append(f"Users left out, with no {result.part} item or nothing known before it: {result.left_out:,}.")
    if result.short_lists:
        lines.append(f"Shorter lists, of users with too few unseen items: {result.short_lists:,}.")
    return "\n".join(lines)


def _cells(result: Result) -> list[list[str]]:
    """Rows of text: system, each metric with its interval, valid share, seconds."""
    rows = []
    for s in result.systems:
        numbers = [str(s.metrics[m]) for m in result.protocol.metrics]
        rows.append([s.name, *numbers, f"{s.valid:.1%}", f"{s.seconds:.1f}"])
    return rows


def _headings(result: Result) -> list[str]:
    return ["system", *result.protocol.metrics, "valid", "seconds"]


def differences(result: Result, reference: str | None = None) -> list[dict[str, Any]]:
    """The reference system (default: the first) minus each other one, per metric, paired over users."""
    first = result.system(reference).name if reference else result.systems[0].name
    rows = []
    for other in (s.name for s in result.systems if s.name != first):
        for metric in result.protocol.metrics:
            d = result.compare(first, other, metric)
            rows.append(
                {
                    "a": first,
                    "b": other,
                    "metric": metric,
                    "diff": d.diff,
                    "low": d.low,
                    "high": d.high,
                    "p": d.p,
                }
            )
    return rows


def _difference_rows(result: Result, shown: int) -> list[list[str]]:
    """One row per other system: name, then the difference in each of the first `shown` metrics."""
    metrics = result.protocol.metrics[:shown]
    first = result.systems[0].name
    rows = []
    for other in result.systems[1:]:
        found = [result.compare(first, other.name, m) for m in metrics]
        rows.append([f"{first} - {other.name}", *map(difference, found)])
    return rows


def difference(found: Paired) -> str:
    """A paired difference as text: mean, interval, p."""
    return f"{found.diff:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p {p_value(found.p)}"


def p_value(p: float) -> str:
    """A p as a report shows it, with its sign of comparison."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def to_table(result: Result, metrics: int = 3) -> Table:
    """A rich table with the first `metrics` metrics, 80 columns wide; the best value of each is bold."""
    names = result.protocol.metrics[:metrics]
    table = Table(title=f"{result.dataset}, {result.protocol.label}", caption=facts(result), caption_justify="left")
    table.add_column("system", no_wrap=True)
    for name in [*names, "valid"]:
        table.add_column(name, justify="right", no_wrap=True, min_width=len("0.000-0.000") if name in names else None)
    best = {m: max(s.metrics[m].value for s in result.systems) for m in names}
    for s in result.systems:
        cells = []
        for m in names:
            found = s.metrics[m]
            value = f"[bold green]{found.value:.3f}[/]" if found.value == best[m] else f"{found.value:.3f}"
            cells.append(f"{value}\n[dim]{found.low:.3f}-{found.high:.3f}[/]")
        table.add_row(s.name, *cells, f"{s.valid:.0%}")
    return table


def difference_table(result: Result, metrics: int = 2) -> Table | None:
    """The first system minus each other one as a rich table; None where there is only one system."""
    if len(result.systems) < 2:
        return None
    table = Table(title="paired differences", title_justify="left", show_lines=True)
    table.add_column("systems")
    for name in result.protocol.metrics[:metrics]:
        table.add_column(name, justify="right")
    for row in _difference_rows(result, metrics):
        table.add_row(*row)
    return table


def beyond_facts(result: Result) -> str:
    """What the second table's columns mean."""
    distances = {s.beyond.distance for s in result.systems if s.beyond.distance}
    told = " and ".join(sorted(distances)) or "not told: the items have neither labels nor content vectors at hand"
    lines = [
        f"Beyond accuracy: the {TOP} best items of each list. coverage: share of the items that could be recommended "
        "that were, to anyone. Gini: how unevenly they are shown (0 to 1).",
        f"diversity: {told}; mean over the pairs of a list.",
        "novelty: bits, -log2 of the share of train users who chose the item. popularity: mean percentile by train "
        "events (0 to 1); lift: that less the mean percentile of the user's own history.",
    ]
    negatives = result.protocol.negatives
    if negatives is not None and negatives < 10 * TOP:
        lines.append(
            f"Lists hold {negatives + 1} candidates, so the candidates decide much of this; loo-full tells more."
        )
    return "\n".join(lines)


def _beyond_rows(result: Result) -> list[list[str]]:
    rows = []
    for s in result.systems:
        found = [s.beyond.value(m) for m in MEASURES]
        rows.append([s.name, *["" if v is None else str(v) if isinstance(v, Interval) else f"{v:.3f}" for v in found]])
    return rows


def beyond_table(result: Result) -> Table:
    """What kind of items each system recommends, as a rich table."""
    told = (
        f"{beyond_facts(result)}\n±: half of a {LEVEL:.0%} interval over users; both its ends are in a written report."
    )
    table = Table(title="beyond accuracy", title_justify="left", caption=told, caption_justify="left")
    table.add_column("system")
    for name in MEASURES:
        table.add_column(name, justify="right", no_wrap=True)
    for s in result.systems:
        table.add_row(s.name, *[_short(s.beyond.value(m)) for m in MEASURES])
    return table


def _short(value: float | Interval | None) -> str:
    if isinstance(value, Interval):
        return f"{value.value:.3f}\n[dim]±{(value.high - value.low) / 2:.3f}[/]"
    return "" if value is None else f"{value:.3f}"


def to_markdown(result: Result) -> str:
    """A Markdown section: the table, the paired differences, what is beyond accuracy, and the facts below."""
    parts = [f"## {result.dataset}, {result.protocol.label}", grid(_headings(result), _cells(result))]
    if len(result.systems) > 1:
        headings = ["difference", *result.protocol.metrics[:2]]
        parts.append(grid(headings, _difference_rows(result, 2)))
    parts += [facts(result), grid(["system", *MEASURES], _beyond_rows(result)), beyond_facts(result)]
    return "\n\n".join(parts) + "\n"


def grid(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: the first column left, the others right; `|` in names is escaped."""
    rule = [":--"] + ["--:"] * (len(headings) - 1)
    lines = [headings, rule, *[[c.replace("|", r"\|") for c in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_dict(result: Result, ranks: bool = False) -> dict[str, Any]:
    """Plain data for JSON. ranks: also each user's id, list size and positive, and per system its rank and best
    items, best first (`top`: at most 10 item ids).
    """
    systems: list[dict[str, Any]] = []
    for s in result.systems:
        metrics = {m: {"value": i.value, "low": i.low, "high": i.high, "n": i.n} for m, i in s.metrics.items()}
        row: dict[str, Any] = {
            "name": s.name,
            "metrics": metrics,
            "valid": s.valid,
            "seconds": round(s.seconds, 3),
            "beyond": s.beyond.plain(),
        }
        if s.about:
            row["about"] = dict(s.about)
        if ranks:
            row["ranks"] = s.ranks.tolist()
            row["top"] = [[result.item_ids[i] for i in best if i >= 0] for best in s.top.tolist()]
        systems.append(row)
    found: dict[str, Any] = {
        "palate": __version__,
        "versions": versions(),
        "dataset": result.dataset,
        "data_fingerprint": result.fingerprint,
        "protocol": result.protocol.name,
        "protocol_version": result.protocol.version,
        "part": result.part,
        "protocol_options": dict(result.protocol.options),
        "candidate_policy": result.protocol.policy,
        "candidate_hash": result.candidates,
        "n": result.n,
        "seed": result.seed,
        "left_out": result.left_out,
        "short_lists": result.short_lists,
        "at_random": result.at_random,
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "method": "percentile bootstrap over users"},
        "systems": systems,
        "differences": differences(result),
    }
    if ranks:
        positives = [result.item_ids[i] for i in result.positives.tolist()]
        found |= {"user_ids": list(result.user_ids), "sizes": result.sizes.tolist(), "positives": positives}
    return found


def card_rows(result: Result | RatingResult, metrics: int = 2) -> list[dict[str, Any]]:
    """One row a system and metric, for the card of a bundle: protocol, value, interval, n, seed."""
    return [
        {
            "system": s.name,
            "protocol": f"{result.protocol.label}, {result.part}",
            "metric": m,
            **{k: getattr(s.metrics[m], k) for k in ("value", "low", "high", "n")},
            "seed": result.seed,
        }
        for s in result.systems
        for m in result.protocol.metrics[:metrics]
    ]


def made_by(result: Result, command: str) -> dict[str, Any]:
    """The command and the run manifest, as keys of a result file; nothing without a command."""
    if not command:
        return {}
    prints = {"data": result.fingerprint, "candidates": result.candidates}
    adapters = {s.name: s.about["adapter"] for s in result.systems if "adapter" in s.about}
    made = manifest(command, {"evaluation": result.seed}, {**prints, "adapters": adapters})
    return {"command": command, "manifest": made}


def to_json(result: Result, ranks: bool = False, command: str = "") -> str:
    """`to_dict` as JSON, with the run manifest where the command is known: indented without ranks, on one line with
    them.
    """
    plain = to_dict(result, ranks) | made_by(result, command)
    return json.dumps(plain, indent=None if ranks else 2, ensure_ascii=False) + "\n"
