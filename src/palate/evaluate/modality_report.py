"""A modality study as terminal tables, Markdown or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from palate.evaluate.ablate import FULL
from palate.evaluate.modalities import Study
from palate.evaluate.report import difference, facts, grid, made_by, save, to_dict
from palate.evaluate.slices import COLD, Slice

METRICS = 2
"""How many of the protocol's metrics are shown a slice; each costs a bootstrap for every system."""
NOTES = (
    "Differences are all modalities minus the row, paired over users; p values are not corrected for their number.",
    "Without a modality: as if no item had it. Shuffled: the same vectors, each with another item that has one.",
)


def terms(study: Study) -> str:
    """What a reader needs to trust and repeat the numbers."""
    split = f"An item with at most {COLD} train events is cold."
    return "\n".join([facts(study.result), *NOTES, split])


def tables(study: Study) -> Group:
    """Two tables of the protocol's first metric, a column a slice: values and differences; the sentences below."""
    names = [s.name for s in study.result.systems]
    values = _table(study, f"{study.adapter}, {study.result.protocol.label}: {study.metric}")
    for name in names:
        cells = [part.value(study.result, name, study.metric) for part in study.slices]
        values.add_row(name, *[f"{c.value:.3f}\n[dim]{c.low:.3f}-{c.high:.3f}[/]" for c in cells])
    minus = _table(study, f"{FULL} minus ...")
    for name in names[1:]:
        found = [part.compare(study.result, FULL, name, study.metric) for part in study.slices]
        minus.add_row(name, *[difference(d).replace(", p", "\np") for d in found])
    told = "\n".join(f"- {line}" for line in study.sentences())
    return Group(values, minus, told, "", terms(study))


def _table(study: Study, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("system")
    for part in study.slices:
        table.add_column(f"{part.name}\nn = {part.n:,}", justify="right")
    return table


def to_markdown(study: Study) -> str:
    """A Markdown section: the sentences, a table a slice, and the terms."""
    result = study.result
    parts = [f"## What each modality adds: {study.adapter}, {result.dataset}, {result.protocol.label}"]
    parts.append("\n".join(f"- {line}" for line in study.sentences()))
    metrics = result.protocol.metrics[:METRICS]
    for part in study.slices:
        rows = [[name, *_cells(study, part, name)] for name in (s.name for s in result.systems)]
        headings = [f"{part.name}, n = {part.n:,}", *metrics, *[f"all minus it, {m}" for m in metrics]]
        parts.append(grid(headings, rows))
    return "\n\n".join([*parts, terms(study)]) + "\n"


def _cells(study: Study, part: Slice, name: str) -> list[str]:
    metrics = study.result.protocol.metrics[:METRICS]
    values = [str(part.value(study.result, name, m)) for m in metrics]
    if name == FULL:
        return [*values, *[""] * len(metrics)]
    return [*values, *[difference(part.compare(study.result, FULL, name, m)) for m in metrics]]


def to_json(study: Study, ranks: bool = False, command: str = "") -> str:
    """The result as `report.to_dict` has it, with `ablation`: slices, their values and differences, sentences; and the
    run manifest where the command is known.
    """
    result = study.result
    ablation = {
        "adapter": study.adapter,
        "metric": study.metric,
        "items": study.items,
        "present": dict(study.present),
        "text_fields": study.fields,
        "variants": [
            {"name": v.name, "hidden": sorted(v.hidden), "shuffled": sorted(v.shuffled), "text_fields": v.fields}
            for v in study.variants
        ],
        "slices": [_slice(study, part) for part in study.slices],
        "sentences": study.sentences(),
    }
    plain = {**to_dict(result, ranks), "ablation": ablation} | made_by(result, command)
    return json.dumps(plain, indent=None if ranks else 2, ensure_ascii=False) + "\n"


def _slice(study: Study, part: Slice) -> dict[str, Any]:
    result, metrics = study.result, study.result.protocol.metrics[:METRICS]
    names = [s.name for s in result.systems]
    values = {name: {m: _plain(part.value(result, name, m)) for m in metrics} for name in names}
    minus = {name: {m: _plain(part.compare(result, FULL, name, m)) for m in metrics} for name in names[1:]}
    return {"name": part.name, "n": part.n, "values": values, "differences": minus}


def _plain(found: Any) -> dict[str, float]:
    return {key: getattr(found, key) for key in found.__slots__}


def write(study: Study, path: str | Path, command: str = "") -> Path:
    """Write Markdown or JSON, by suffix; the JSON holds every user's rank, and the command that made it."""
    return save(path, lambda: to_markdown(study), lambda: to_json(study, ranks=True, command=command))
