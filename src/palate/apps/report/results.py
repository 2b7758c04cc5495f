"""Result files of `palate evaluate -o FILE.json`, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from palate.errors import DataError
from palate.evaluate.metrics import Interval, Reals, per_user

SUMMARY = "palate_report"
"""The key that tells a summary (see `summary`) from a result file; its value is the summary's format."""
MAX_BYTES = 2_000_000_000
CLOSE = 1e-6
"""A stored mean may differ this much from the one its ranks give."""


class Entry(BaseModel):
    """Part of a result file. Keys it does not know are of a newer Palate, and passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Number(Entry):
    """A metric's mean over n users with its interval."""

    value: float = Field(allow_inf_nan=False)
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    n: int = Field(ge=1)

    @property
    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high, self.n)


class Difference(Entry):
    """System `a` minus system `b`, paired over users."""

    a: str
    b: str
    metric: str
    diff: float
    low: float
    high: float
    p: float


class LevelEntry(Entry):
    """How well one rating level is told from the others."""

    level: float
    precision: float
    recall: float
    f1: float
    support: int


class WorstEntry(Entry):
    """One of the ratings predicted worst."""

    user: str
    item: str
    title: str = ""
    rated: float
    predicted: float


class SystemEntry(Entry):
    """One system: its metrics, and per user its rank and its best items where the file has them.

    source: its name in the file, where the report calls it otherwise.
    """

    name: str
    source: str = ""
    metrics: dict[str, Number] = Field(min_length=1)
    valid: float = 1.0
    seconds: float = 0.0
    about: dict[str, Any] = {}
    beyond: dict[str, Any] = {}
    confusion: list[list[int]] = []
    levels: list[LevelEntry] = []
    worst: list[WorstEntry] = []
    ranks: list[float] | None = None
    top: list[list[str]] | None = None

    @cached_property
    def table(self) -> Reals:
        """Ranks: float64 [n]."""
        return np.array(self.ranks or [], dtype=np.float64)


class Ablation(Entry):
    """What `--ablate modalities` adds to a result."""

    adapter: str
    metric: str
    items: int = 0
    present: dict[str, int] = {}
    variants: list[dict[str, Any]] = []
    slices: list[dict[str, Any]] = []
    sentences: list[str] = []


class ResultFile(Entry):
    """One evaluation, of rankings or (with `levels`) of predicted ratings.

    user_ids, sizes, positives and the systems' ranks are missing from a file of numbers alone.
    """

    palate: str
    dataset: str
    data_fingerprint: str
    protocol: str
    protocol_version: int
    protocol_options: dict[str, Any] = {}
    part: str
    candidate_policy: str = ""
    candidate_hash: str = ""
    n: int = Field(ge=1)
    seed: int
    levels: list[float] = []
    learned_from: int = 0
    liked_from: float | None = None
    left_out: int = 0
    short_lists: int = 0
    at_random: dict[str, float] = {}
    interval: dict[str, Any] = {}
    systems: list[SystemEntry] = Field(min_length=1)
    differences: list[Difference] = []
    user_ids: list[str] | None = None
    sizes: list[int] | None = None
    positives: list[str] | None = None
    ablation: Ablation | None = None
    command: str = ""
    versions: dict[str, str] = {}
    file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> ResultFile:
        """Lists are of one length, and each mean is the one its ranks give."""
        names = [(s.name, s.source) for s in self.systems]
        if len(set(names)) < len(names):
            raise ValueError(f"each system needs a name of its own, got {', '.join(s.name for s in self.systems)}")
        rows: list[tuple[str, Sequence[Any] | None]] = [
            ("user_ids", self.user_ids), ("sizes", self.sizes), ("positives", self.positives),
            *((f"ranks of {s.name}", s.ranks) for s in self.systems),
            *((f"top of {s.name}", s.top) for s in self.systems),
        ]  # fmt: skip
        for name, row in rows:
            if row is not None and len(row) != self.n:
                raise ValueError(f"{name}: expected one a user, {self.n}, got {len(row)}")
        for system in self.systems:
            shape = {len(system.confusion), *map(len, system.confusion)}
            if system.confusion and shape != {len(self.levels)}:
                raise ValueError(f"confusion of {system.name}: expected a row and a column for each rating level")
        if not self.levels and not self.candidate_hash:
            raise ValueError("expected a candidate_hash, as results of rankings have")
        if self.ranked:
            for system in self.systems:
                self._check(system)
        return self

    def _check(self, system: SystemEntry) -> None:
        if not (np.isfinite(system.table) & (system.table >= 1)).all():
            raise ValueError(f"ranks of {system.name}: expected numbers from 1")
        for metric, number in system.metrics.items():
            found = float(self.values(system, metric).mean())
            if not math.isclose(found, number.value, abs_tol=CLOSE):
                raise ValueError(
                    f"{metric} of {system.name} is written as {number.value:.6f} and its ranks give {found:.6f}; the "
                    "file was changed by hand, evaluate again"
                )

    @property
    def label(self) -> str:
        """The protocol's name, version and options, and the part where it is not the test items."""
        options = [f"{k}={v}" for k, v in self.protocol_options.items()]
        whole = ":".join([f"{self.protocol}/{self.protocol_version}", *options])
        return whole if self.part == "test" else f"{whole}, {self.part}"

    @property
    def ranked(self) -> bool:
        """Whether every system's ranks are there."""
        return self.sizes is not None and self.user_ids is not None and all(s.ranks is not None for s in self.systems)

    def values(self, system: SystemEntry, metric: str) -> Reals:
        """Per-user values of a metric for one of the systems, from its ranks: float64 [n]."""
        return per_user(metric, system.table, np.array(self.sizes))

    def renamed(self, names: Mapping[str, str]) -> ResultFile:
        """With other names for systems; those not in `names` keep theirs."""

        def called(name: str) -> str:
            return names.get(name, name)

        systems = [
            s.model_copy(update={"name": names[s.name], "source": s.source or s.name}) if s.name in names else s
            for s in self.systems
        ]
        minus = [d.model_copy(update={"a": called(d.a), "b": called(d.b)}) for d in self.differences]
        return self.model_copy(update={"systems": systems, "differences": minus})


class Mean(Number):
    """A mean over seeds, as a summary keeps it: without ranks it could not be computed again."""

    protocol: str
    system: str
    metric: str
    runs: int


class Pair(Difference):
    """A difference over all seeds, as a summary keeps it."""

    protocol: str
    n: int


class Loaded(Entry):
    """What one file holds."""

    results: list[ResultFile]
    means: list[Mean] = []
    pairs: list[Pair] = []


def read(path: Path) -> Loaded:
    """The results of one file: one, or all of a summary. Raises DataError with the file, what was expected and came."""
    plain = _json(path)
    rows = plain.get("results") if SUMMARY in plain else [plain]
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, dict) or not {"systems", "protocol"} <= row.keys():
            raise DataError(
                f"{path}: expected results of `palate evaluate ... -o FILE.json`, got JSON with the keys "
                f"{', '.join(list(plain)[:4]) or '(none)'}"
            )
        row["file"] = path.name
    try:
        kept = {k: plain.get(k, []) for k in ("means", "pairs")} if SUMMARY in plain else {}
        return Loaded.model_validate({"results": rows, **kept})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][2:])) or "the result"
        raise DataError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes, more than the limit of {MAX_BYTES:,}")
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"expected a result file at {path}, found nothing there") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        hint = "; write it with -o FILE.json" if path.suffix.lower() == ".md" else ""
        raise DataError(
            f"{path}: expected JSON of `palate evaluate ... -o FILE.json`, got other text{hint} ({error})"
        ) from None
    if not isinstance(plain, dict):
        raise DataError(f"{path}: expected a JSON object of `palate evaluate`, got {type(plain).__name__}")
    return plain


def check_one_data_set(results: Sequence[ResultFile]) -> None:
    """DataError where results of different data would stand in one table; it names the files of each."""
    files: dict[str, list[str]] = {}
    for result in results:
        files.setdefault(f"{result.dataset} ({result.data_fingerprint[:16]})", []).append(result.file)
    if len(files) > 1:
        told = "; ".join(f"{name} in {', '.join(dict.fromkeys(found))}" for name, found in files.items())
        raise DataError(
            f"expected results on one data set, got {len(files)} fingerprints: {told}. "
            "Their numbers cannot be compared; write a report for each"
        )
