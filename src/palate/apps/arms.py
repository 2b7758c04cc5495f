"""Arms of a comparison: one run config for each setting, everything else alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from palate.config import RunConfig
from palate.errors import ConfigError, did_you_mean
from palate.train import read_config

ALL = "all"


@dataclass(frozen=True)
class Arm:
    """One setting: its name in the table, and the overrides that make it from the config's file."""

    name: str
    overrides: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its run and its bundle go."""
        return Path("runs") / self.name

    @property
    def bundle(self) -> Path:
        return self.folder / self.name


def arms(file: Path, overrides: Sequence[str], vary: Sequence[str], modalities: str | None) -> list[Arm]:
    """The grid of all varied values and modality sets, each a complete config (checked here, before any training).

    vary: `key=a,b` each. modalities: sets of the config's features, `text; text,image; all`. Raises ConfigError for
    a key, value or modality that does not fit, or where there is nothing to compare.
    """
    config = read_config(file, overrides)
    axes = [_values(text) for text in vary]
    if modalities is not None:
        axes.append(_feature_sets(config, modalities))
    grid = list(product(*axes))
    if len(grid) < 2:
        raise ConfigError(
            "expected at least two settings to compare; name them as --vary model.fusion=feature,model or "
            '--modalities "text; text,image"'
        )
    found = []
    for combination in grid:
        name = "-".join([config.name, *(label for label, _ in combination)])
        arm = Arm(name, (*overrides, *(text for _, text in combination)))
        places = (f"name={name}", f"train.run={arm.folder}", f"train.output={arm.bundle}")
        arm = Arm(name, (*arm.overrides, *places))
        read_config(file, arm.overrides)
        found.append(arm)
    if len({a.name for a in found}) < len(found):
        raise ConfigError(f"expected settings that differ, got {', '.join(a.name for a in found)}")
    return found


def _values(text: str) -> list[tuple[str, str]]:
    """`model.fusion=feature,model` as (label, override) pairs."""
    key, mark, values = text.partition("=")
    parts = [v.strip() for v in values.split(",") if v.strip()]
    if not (mark and key and parts):
        raise ConfigError(f"--vary: expected KEY=VALUE,VALUE such as model.fusion=feature,model, got {text!r}")
    return [(_label(v) if not _plain(v) else f"{key.rpartition('.')[2]}{_label(v)}", f"{key}={v}") for v in parts]


def _plain(value: str) -> bool:
    """Whether a value alone says too little for a name: a number, or a switch."""
    return not isinstance(yaml.safe_load(value), str)


def _label(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+]+", "_", value)


def _feature_sets(config: RunConfig, text: str) -> list[tuple[str, str]]:
    """Sets of modalities as (label, override) pairs; the options of each stay the config's."""
    found = []
    for part in text.split(";"):
        names = [n.strip() for n in part.split(",") if n.strip()]
        names = list(config.features) if names == [ALL] else names
        if not names:
            raise ConfigError(f'--modalities: expected sets such as "text; text,image; all", got {text!r}')
        for name in names:
            if name not in config.features:
                raise ConfigError(
                    f"--modalities: the config has no features called {name!r}; {did_you_mean(name, config.features)}"
                )
        chosen = {n: config.features[n].model_dump(mode="json", exclude_defaults=True) for n in names}
        flow = yaml.safe_dump(chosen, default_flow_style=True, width=10**6, sort_keys=False).strip()
        found.append(("+".join(names), f"features={flow}"))
    return found
