"""What repeats a run: commands, fingerprints, hashes, protocol versions, package versions, the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from palate.apps.report.columns import Column
from palate.apps.report.parts import Facts, Lines, Part
from palate.apps.report.results import ResultFile
from palate.apps.report.tables import listed
from palate.evaluate.protocol import PROTOCOLS

if TYPE_CHECKING:
    from palate.apps.report.build import Asked


def facts(found: Sequence[Column], others: Sequence[ResultFile], asked: Asked, meta: Mapping[str, Any]) -> list[Part]:
    """One list for all files, one a protocol, one for the adapter, and what systems say of themselves.

    others: results that are in no column.
    """
    results = [r for c in found for r in c.results] + list(others)
    first = results[0]
    rows = [
        ("data set", f"{first.dataset}, fingerprint {first.data_fingerprint}"),
        ("files", listed(list(dict.fromkeys(r.file for r in results)))),
        ("Palate", listed(sorted({r.palate for r in results}))),
        ("versions", _versions(results)),
    ]
    commands = list(dict.fromkeys(r.command for r in results if r.command))
    rows += [("command", c) for c in commands] or [("command", "not in the files: they are of an older Palate")]
    if asked.command:
        rows.append(("this report", asked.command))
    parts: list[Part] = [Facts(rows), *[Facts(_protocol(c)) for c in found]]
    if meta:
        parts.append(Facts(_adapter(meta)))
    notes = {f"{s.name}: {s.about['note']}" for r in results for s in r.systems if isinstance(s.about.get("note"), str)}
    return [*parts, *([Lines(sorted(notes))] if notes else [])]


def _versions(results: Sequence[ResultFile]) -> str:
    seen: dict[str, set[str]] = {}
    for result in results:
        for name, version in result.versions.items():
            seen.setdefault(name, set()).add(version)
    told = [f"{name} {' and '.join(sorted(v))}" for name, v in seen.items()]
    return ", ".join(told) or "not in the files: they are of an older Palate"


def _protocol(column: Column) -> list[tuple[str, str]]:
    first = column.first
    known = PROTOCOLS.get(first.protocol)
    rows = [
        ("protocol", f"{column.label}{f': {known.description}' if known else ''}"),
        ("ranked among", first.candidate_policy),
        ("users", f"{first.n:,}; left out, with no {first.part} item or nothing known before it: {first.left_out:,}"),
        ("seeds", listed(column.seeds)),
    ]
    rows += [("candidates", f"sha256 {r.candidate_hash}, seed {r.seed}") for r in _once(column.results)]
    if first.short_lists:
        rows.append(("shorter lists", f"{first.short_lists:,}, of users with too few unseen items"))
    if first.at_random:
        rows.append(("a random order", ", ".join(f"{m} {v:.3f}" for m, v in first.at_random.items())))
    if first.interval:
        rows.append(("intervals", ", ".join(f"{k} {v}" for k, v in first.interval.items())))
    valid = [
        f"{name} {run.entry.valid:.1%}" for name, runs in column.runs.items() for run in runs if run.entry.valid < 1
    ]
    rows.append(("lists not fully scored", "; ".join(valid) or "none"))
    seconds = [f"{name} {runs[0].entry.seconds:.1f}" for name, runs in column.runs.items() if runs[0].entry.seconds]
    return [*rows, *([("seconds to score", ", ".join(seconds))] if seconds else [])]


def _once(results: Sequence[ResultFile]) -> list[ResultFile]:
    """One result a seed."""
    return list({r.seed: r for r in results}.values())


def _adapter(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, training = meta.get("model") or {}, meta.get("training") or {}
    lora = model.get("lora") or {}
    rows = [
        ("adapter", str(meta.get("name", ""))),
        ("base", f"{meta.get('base', '')}, sha256 {meta.get('base_sha256', '')}"),
        ("model", _pairs({k: v for k, v in model.items() if k not in ("base", "lora")})),
        ("LoRA", _pairs(lora)),
        ("features", _pairs(meta.get("fingerprints") or {})),
        ("training", _pairs(training)),
    ]
    return [(name, value) for name, value in rows if value]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if v is not None and not isinstance(v, dict | list))
