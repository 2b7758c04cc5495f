"""A summary: the numbers of a report without any user, item or rank, small enough to keep beside a README."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from palate.apps.report.columns import Column
from palate.apps.report.results import SUMMARY, ResultFile, SystemEntry
from palate.evaluate.environment import manifest

FORMAT = 1
DIGITS = 6
_KEPT = (
    "palate", "versions", "command", "dataset", "data_fingerprint", "protocol", "protocol_version", "protocol_options",
    "part", "candidate_policy", "candidate_hash", "n", "seed", "levels",
    "learned_from", "liked_from", "left_out", "short_lists", "at_random", "interval",
)  # fmt: skip
"""Keys of a result that say nothing of a single user or item."""


def summary(found: Sequence[Column], ratings: Sequence[ResultFile], reference: str, command: str = "") -> str:
    """The columns with the differences from `reference`, and ratings, as JSON that `results.read` takes; numbers with
    six digits. command: what asked for it, for the run manifest.
    """
    rows = [_result(result) for column in found for result in column.results]
    rows += [{**_result(r), "differences": [d.model_dump() for d in r.differences]} for r in ratings]
    means = [row for column in found for row in _means(column)]
    pairs = [row for column in found for row in _pairs(column, reference)]
    plain: dict[str, Any] = {SUMMARY: FORMAT, "results": rows, "means": means, "pairs": pairs}
    if command:
        prints = sorted({str(row["data_fingerprint"]) for row in rows})
        plain["manifest"] = manifest(command, None, {"data": prints})
    return json.dumps(_short(plain), indent=1, ensure_ascii=False) + "\n"


def _result(result: ResultFile) -> dict[str, Any]:
    plain = result.model_dump(mode="json", include=set(_KEPT))
    return {**{key: plain[key] for key in _KEPT}, "systems": [_system(s) for s in result.systems]}


def _system(entry: SystemEntry) -> dict[str, Any]:
    plain = {"name": entry.name, "metrics": {m: i.model_dump() for m, i in entry.metrics.items()}}
    return {**plain, "source": entry.source} if entry.source else plain


def _means(column: Column) -> list[dict[str, Any]]:
    found = []
    for name, runs in column.runs.items():
        for metric in column.metrics if len(runs) > 1 else ():
            v = column.value(name, metric)
            if v is not None and v.low is not None:
                row = {"value": v.value, "low": v.low, "high": v.high, "n": v.n, "runs": v.runs}
                found.append({"protocol": column.label, "system": name, "metric": metric, **row})
    return found


def _pairs(column: Column, reference: str) -> list[dict[str, Any]]:
    found = []
    for name in column.runs:
        for metric in column.metrics:
            d = None if name == reference else column.compare(reference, name, metric)
            if d is not None:
                row = {"a": reference, "b": name, "metric": metric, **asdict(d)}
                found.append({"protocol": column.label, **row})
    return found


def _short(value: Any) -> Any:
    """Floats cut to DIGITS significant ones, all through."""
    if isinstance(value, dict):
        return {key: _short(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
