"""What a study leaves for people: the best config, a table of trials, importances, all in plain files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from palate.train.tune.study import Study

FEWEST = 4
"""Ended trials below which importances would say nothing."""
STATES = {"COMPLETE": "ended", "PRUNED": "given up", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


@dataclass(frozen=True)
class Row:
    """One trial. value: None unless it ended; reported: validation -> value; reason: why it failed."""

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    reported: Mapping[int, float]
    seconds: float | None
    retry_of: int | None
    reason: str


@dataclass(frozen=True)
class Summary:
    """A study as it stands. importances: key -> its share of the variance of the value over ended trials (fANOVA;
    Hutter et al., 2014), empty while there are too few. best: the best row's number.
    """

    name: str
    metric: str
    rows: tuple[Row, ...]
    best: int | None
    importances: Mapping[str, float]

    @property
    def best_row(self) -> Row | None:
        return None if self.best is None else self.rows[self.best]

    def count(self, state: str) -> int:
        """How many trials ended, were given up, or failed; a failed one that was tried again counts as its retry."""
        retried = {r.retry_of for r in self.rows}
        return sum(r.state == state and r.number not in retried for r in self.rows)


def summary(study: Study, name: str, metric: str) -> Summary:
    """The study as it stands."""
    rows = tuple(
        Row(
            t.number,
            STATES[t.state.name],
            t.values[0] if t.state.name == "COMPLETE" and t.values else None,
            study.values(t) if t.params else {},
            dict(sorted(t.intermediate_values.items())),
            None if t.duration is None else round(t.duration.total_seconds(), 1),
            t.user_attrs.get("retry_of"),
            str(t.user_attrs.get("reason", "")),
        )
        for t in study.trials
    )
    best = study.best
    return Summary(name, metric, rows, None if best is None else best.number, _importances(study))


def _importances(study: Study) -> dict[str, float]:
    ended = study.complete
    if len(ended) < FEWEST or len({t.values[0] for t in ended}) < 2:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    found = get_param_importances(study.optuna, evaluator=FanovaImportanceEvaluator(seed=study.seed))
    return {key: round(float(share), 4) for key, share in found.items()}


def write(folder: Path, found: Summary, best: Mapping[str, Any], made_by: Mapping[str, Any]) -> None:
    """best.yaml, trials.csv and summary.json, each whole or not at all. made_by: the run manifest."""
    assert found.best_row is not None
    ended, given_up = found.count("ended"), found.count("given up")
    head = (
        f"# The best of {ended + given_up} trials ({ended} ended, {given_up} given up): trial {found.best}, "
        f"{found.metric} {found.best_row.value:.4f} on validation items.\n# The best of many is luck in part: only "
        "held-out test items (palate evaluate) say how good it is.\n"
    )
    _replace(folder / "best.yaml", head + yaml.safe_dump(dict(best), sort_keys=False, allow_unicode=True))
    keys = list(dict.fromkeys(key for row in found.rows for key in row.values))
    made = folder / ".trials.csv.tmp"
    with made.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", found.metric, "validations", "seconds", "retry_of", *keys, "reason"])
        for r in found.rows:
            values = [json.dumps(r.values.get(k)) for k in keys]
            known = [r.number, r.state, r.value, len(r.reported), r.seconds, r.retry_of]
            table.writerow([*("" if v is None else v for v in known), *values, r.reason])
    made.replace(folder / "trials.csv")
    _replace(folder / "summary.json", to_json(found, made_by))


def to_json(found: Summary, made_by: Mapping[str, Any] | None = None) -> str:
    """The whole summary, with the run manifest where it is given."""
    plain = asdict(found) | ({"manifest": dict(made_by)} if made_by is not None else {})
    return json.dumps(plain, indent=1, default=str) + "\n"


def _replace(path: Path, text: str) -> None:
    made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
