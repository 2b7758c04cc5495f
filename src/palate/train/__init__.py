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

__all__ = ["override", "place", "read_config", "run"]


def read_config(file: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A run config from a YAML file, with `dotted.key=value` overrides (values are read as YAML).

    Raises ConfigError for a file, key or value that does not fit.
    """
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping of keys, got {type(values).__name__}")
    for text in overrides:
        override(values, text)
    where = f"{file} with {' '.join(overrides)}" if overrides else str(file)
    return RunConfig.parse(values, where)


def override(values: dict[str, Any], text: str) -> None:
    """Put `dotted.key=value` into the mapping of a YAML file, the value read as YAML. Raises ConfigError."""
    import yaml

    key, found, value = text.partition("=")
    if not found or not key:
        raise ConfigError(f"expected KEY=VALUE such as train.epochs=2, got {text!r}")
    try:
        place(values, key, yaml.safe_load(value))
    except yaml.YAMLError:
        raise ConfigError(f"{key}: expected a YAML value, got {value!r}") from None


def place(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a value under a dotted key into the mapping of a YAML file. Raises ConfigError where there is no place."""
    *path, last = key.split(".")
    for part in path:
        if values.get(part) is None:
            values[part] = {}
        if not isinstance(values[part], dict):
            raise ConfigError(f"{key}: {part!r} holds {values[part]!r}, which has no keys inside")
        values = values[part]
    values[last] = value


def run(
    file: str | Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = True,
    console: Console | None = None,
    onward: str | Path | None = None,
) -> Outcome:
    """Train as `palate train FILE [KEY=VALUE ...] [--resume | --restart] [--continue ADAPTER]` does.

    onward: an adapter to go on from with what has come since it was trained, a few epochs; where nothing has, the
    outcome names the adapter itself, after no step. What comes of it is never worse than the adapter by the
    validation's NDCG@10 on the data as it is now.
    """
    config = read_config(file, overrides)
    from palate.train.loop import Extras, Outcome, train

    if onward is None:
        return train(config, resume=resume, console=console)
    from palate.train.prepare import open_dataset
    from palate.train.refresh import continued, news

    dataset = open_dataset(config)
    if news(onward, dataset).same_data:
        return Outcome(Path(onward), 0, 0, {}, Path(onward))
    config = continued(config, onward, dataset, {text.partition("=")[0] for text in overrides})
    return train(config, resume=resume, console=console, extras=Extras(first=True, dataset=dataset))
