"""Training: the task mixture, token-budget packs, the loop and its exact resume.

Importing this package loads no torch; `run` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.config import RunConfig, read_yaml
from palate.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from palate.train.loop import Outcome

__all__ = ["read_config", "run"]


def read_config(file: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A run config from a YAML file, with `dotted.key=value` overrides (values are read as YAML).

    Raises ConfigError for a file, key or value that does not fit.
    """
    import yaml

    values = read_yaml(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping of keys, got {type(values).__name__}")
    for text in overrides:
        key, found, value = text.partition("=")
        if not found or not key:
            raise ConfigError(f"expected KEY=VALUE such as train.epochs=2, got {text!r}")
        try:
            _put(values, key.split("."), yaml.safe_load(value), key)
        except yaml.YAMLError:
            raise ConfigError(f"{key}: expected a YAML value, got {value!r}") from None
    where = f"{file} with {' '.join(overrides)}" if overrides else str(file)
    return RunConfig.parse(values, where)


def _put(values: dict[str, Any], path: Sequence[str], value: Any, key: str) -> None:
    for part in path[:-1]:
        if values.get(part) is None:
            values[part] = {}
        if not isinstance(values[part], dict):
            raise ConfigError(f"{key}: {part!r} holds {values[part]!r}, which has no keys inside")
        values = values[part]
    values[path[-1]] = value


def run(
    file: str | Path, overrides: Sequence[str] = (), *, resume: bool = True, console: Console | None = None
) -> Outcome:
    """Train as `palate train FILE [KEY=VALUE ...] [--resume | --restart]` does."""
    config = read_config(file, overrides)
    from palate.train.loop import train

    return train(config, resume=resume, console=console)
