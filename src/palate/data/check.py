"""Check: what a data set folder holds, what is missing and what was left out.

What happens to bad input, on opening and on importing alike (`file, line, column, value, reason` of each go
to `rejects.jsonl`; too many rejected rows stop the work, see `rejects.RejectLog`):

| found | answer |
|---|---|
| an item id twice (or a user's) | the first row is kept, the others are rejected |
| same user, item and time twice | the first row is kept, the others are rejected |
| same user and item at another time | kept: people come back |
| an event of an item that the item table lacks | rejected |
| an event of a user that the user table lacks | kept: a profile is optional |
| an empty user or item id | rejected |
| an empty title | rejected: a title is what a language model reads |
| a time that is no number and no ISO 8601 | rejected; an empty one is "unknown" and counts as the oldest |
| times in seconds, milli-, micro- or nanoseconds | told apart by size, value by value, and kept in seconds |
| a rating NaN, infinite, not a number, outside `rating_range` | rejected; an empty one is "unknown" |
| a user with no good event | in the data set where the user table has them, with an empty history |
| too few or too many columns in a row, a line that is no JSON object | rejected |
| a byte-order mark | skipped |
| a file that is not in its `encoding` (UTF-8 unless said) | DataError naming the byte and the setting |
| an empty, cut or corrupt file, a missing column | DataError |
| a medium outside the folder (`..`, absolute, by a link) | refused and recorded, the item stays |
| a medium that is not there | recorded as missing, the item stays |
| a fact with an empty cell, a link of an item that the item table lacks | rejected |
| a fact about no item, of a relation not asked for, whose object is an id without a name, said before, or beyond \
the number one field takes | left out, counted by relation and reason |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from palate.data.dataset import Dataset
from palate.data.rejects import REJECTS_FILE, SHOWN, Reject, read_rejects
from palate.schema import Interactions

QUANTILES = (0, 0.25, 0.5, 0.75, 0.9, 1)
RATINGS_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """What `palate data check` prints.

    counts: table -> rows kept. filled: table -> field -> rows that hold something. media: modality ->
    (items with a usable file, items without). rejected: (kind, file, reason, how many); first: the first
    few of them.
    """

    name: str
    folder: str
    fingerprint: str
    counts: dict[str, int]
    filled: dict[str, dict[str, int]]
    media: dict[str, tuple[int, int]]
    rejected: list[tuple[str, str, str, int]] = field(default_factory=list)
    first: list[Reject] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was left out."""
        return not self.rejected


def check(folder: str | Path) -> Report:
    """Open a data set folder without a limit on bad rows and report.

    For a folder that an import wrote, the rows that the import left out are reported.
    Raises DataError and ConfigError where the folder cannot be opened at all.
    """
    data = Dataset.open(folder, strict=False)
    log = data.rejects
    reasons = [(*key, n) for key, n in log.reasons.most_common()]
    first = list(log.first)
    if not reasons:
        reasons, first = _imported(Path(folder).expanduser() / REJECTS_FILE)
    table = data.catalog.records
    items = {name: table.filled(name) for name in data.catalog.text_fields}
    numbers = data.histories.interactions
    filled = {"items": items, "interactions": _filled_events(data)}
    if data.users:
        filled["users"] = {name: data.users.records.filled(name) for name in data.users.fields}
    pictures = {m: table.filled(c) for m, c in data.catalog.media_columns.items()}
    return Report(
        data.name,
        str(folder),
        data.fingerprint,
        {
            "items": len(data.catalog),
            "interactions": len(numbers.items),
            "users": len(numbers),
            "profiles": len(data.users),
        },
        filled,
        {m: (n, len(data.catalog) - n) for m, n in pictures.items()},
        reasons,
        first,
    )


def _imported(path: Path) -> tuple[list[tuple[str, str, str, int]], list[Reject]]:
    counts: dict[tuple[str, str, str], int] = {}
    first: list[Reject] = []
    for reject in read_rejects(path):
        key = (reject.kind, reject.file, reject.reason)
        counts[key] = counts.get(key, 0) + reject.count
        if len(first) < SHOWN:
            first.append(reject)
    return [(*key, n) for key, n in sorted(counts.items(), key=lambda kv: -kv[1])], first


def _filled_events(data: Dataset) -> dict[str, int]:
    numbers = data.histories.interactions
    spec = data.spec.interactions
    filled: dict[str, int] = {}
    if spec.timestamp is not None:
        filled["timestamp"] = int((~np.isnan(numbers.timestamps)).sum())
    if spec.rating is not None:
        filled["rating"] = int((~np.isnan(numbers.ratings)).sum())
    return filled | data.histories.filled()


def stats(dataset: Dataset) -> dict[str, Any]:
    """Numbers that describe a data set; every key is always there.

    users (with an event), items, events, density (share of the user-item grid that has an event),
    history_length (quantiles over users with an event), ratings (value -> count; beyond 20 values in 10
    equal bins), first and last (seconds since 1970, None without times), items_without_events, gini (of
    events over items, 0 equal, 1 all on one item), top10_share (share of events on the 10% most chosen
    items), modalities.
    """
    data = dataset.histories.interactions
    lengths = np.diff(data.indptr)
    lengths = lengths[lengths > 0]
    popularity = np.sort(np.bincount(data.items, minlength=len(data.item_ids)))
    times = data.timestamps[~np.isnan(data.timestamps)]
    top = max(1, round(0.1 * len(popularity)))
    quantiles = np.quantile(lengths, QUANTILES) if len(lengths) else np.zeros(len(QUANTILES))
    table = dataset.catalog.records
    return {
        "name": dataset.name,
        "users": len(lengths),
        "items": len(data.item_ids),
        "events": len(data.items),
        "density": _pairs(data) / max(1, len(lengths) * len(data.item_ids)),
        "history_length": {f"{int(q * 100)}%": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "ratings": _histogram(data.ratings[~np.isnan(data.ratings)]),
        "first": float(times.min()) if len(times) else None,
        "last": float(times.max()) if len(times) else None,
        "items_without_events": int((popularity == 0).sum()),
        "gini": gini(popularity),
        "top10_share": float(popularity[-top:].sum() / max(1, popularity.sum())),
        "modalities": {m: table.filled(c) for m, c in dataset.catalog.media_columns.items()},
        "fingerprint": dataset.fingerprint,
    }


def _pairs(data: Interactions) -> int:
    """Distinct (user, item) pairs."""
    users = np.repeat(np.arange(len(data), dtype=np.int64), np.diff(data.indptr))
    return len(np.unique(users * len(data.item_ids) + data.items))


def _histogram(ratings: np.ndarray) -> dict[str, int]:
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) > RATINGS_SHOWN:
        bins, edges = np.histogram(ratings, bins=10)
        return {f"{a:.3g} to {b:.3g}": int(n) for n, a, b in zip(bins, edges[:-1], edges[1:], strict=True)}
    return {f"{v:g}": int(n) for v, n in zip(values, counts, strict=True)}


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts sorted upwards: 0 where all are equal, near 1 where one has everything."""
    total = float(counts.sum())
    if not total:
        return 0.0
    n = len(counts)
    ranks = np.arange(1, n + 1)
    return float((2 * (ranks * counts).sum() / total - (n + 1)) / n)
