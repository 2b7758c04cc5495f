"""The search space: ranges and choices for keys, checked before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from palate.config import Config
from palate.errors import ConfigError

Check = Callable[[str, Any], Any]
"""(key, value) -> the value as the key takes it; ConfigError where it does not fit."""


class Range(Config):
    """Numbers from low to high, both included; log: drawn by their logarithm; step: multiples of it from low."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None


@dataclass(frozen=True)
class Knob:
    """One key of the space. distribution: what Optuna draws from; choices: what the drawn label stands for, where the
    key has choices.
    """

    key: str
    distribution: Any
    choices: Mapping[str | int | float | bool | None, Any] | None = None

    def value(self, drawn: Any) -> Any:
        """What the config gets for what was drawn."""
        return drawn if self.choices is None else self.choices[drawn]


def knobs(space: Mapping[str, Any], check: Check, where: str) -> list[Knob]:
    """The space of a tune file. Each end of a range and each choice goes through `check`; `where` names the file.

    Raises ConfigError for a key or value that does not fit, with the right key suggested.
    """
    return [_knob(key, told, check, f"{where}: space: {key}") for key, told in space.items()]


def _knob(key: str, told: Any, check: Check, where: str) -> Knob:
    from optuna.distributions import CategoricalDistribution

    if isinstance(told, list):
        values = [check(key, v) for v in told]
        labels = [_label(v) for v in values]
        if len(set(map(repr, labels))) < 2 or len(set(map(repr, labels))) < len(labels):
            raise ConfigError(f"{where}: expected at least two choices that differ, got {told!r}")
        return Knob(key, CategoricalDistribution(labels), dict(zip(labels, values, strict=True)))
    if not isinstance(told, dict):
        raise ConfigError(f"{where}: expected a range {{low, high}} or a list of choices, got {told!r}")
    found = Range.parse(told, where)
    low, high = check(key, found.low), check(key, found.high)
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise ConfigError(f"{where}: a range is for a number; write a list of choices instead")
    return Knob(key, _distribution(found, low, high, where))


def _distribution(found: Range, low: float, high: float, where: str) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if not low < high:
        raise ConfigError(f"{where}: expected low below high, got {low} and {high}")
    whole = isinstance(low, int) and isinstance(high, int) and isinstance(found.step, int | None)
    try:
        if whole:
            return IntDistribution(int(low), int(high), log=found.log, step=int(found.step or 1))
        return FloatDistribution(float(low), float(high), log=found.log, step=found.step)
    except ValueError as error:
        raise ConfigError(f"{where}: {str(error).rstrip('.')}; log goes with low above 0 and without step") from None


def _label(value: Any) -> str | int | float | bool | None:
    """What stands for a choice in the study: itself, or JSON where Optuna has no such type."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, sort_keys=True)
