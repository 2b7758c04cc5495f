"""The tune file: what is tuned, over which space, with how many trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from palate.config import Config
from palate.errors import ConfigError, did_you_mean

SPACES: dict[str, dict[str, Any]] = {
    "ease": {"penalty": {"low": 10, "high": 3000, "log": True}, "recency": [None, 3, 5, 10, 20, 50]},
    "itemknn": {"neighbours": {"low": 10, "high": 500, "log": True}, "recency": [None, 3, 5, 10, 20, 50]},
    "sasrec": {
        "epochs": [20, 40, 80, 120],
        "width": [32, 64, 128],
        "dropout": {"low": 0.1, "high": 0.6},
        "lr": {"low": 3e-4, "high": 3e-3, "log": True},
    },
}
"""Retriever -> the space that `palate tune --retriever NAME DIR` searches."""


class Pruning(Config):
    """When a trial is given up: its best validation so far is below this percentile of what the other trials had at the
    same validation (the median rule of Google Vizier; Golovin et al., 2017).
    """

    startup: int = Field(4, ge=0)
    """Trials that run to their end before any is given up."""
    warmup: int = Field(1, ge=0)
    """Validations of a trial before it may be given up."""
    percentile: float = Field(50.0, gt=0, lt=100)
    """Of the others, the best 100. Lower gives up more."""


class TuneConfig(Config):
    """The whole of one study; see `palate.train.tune`."""

    base: str | None = None
    """A run config, beside this file or from the working folder: what is tuned, but for the keys of `space`."""
    retriever: str | None = None
    """A retriever, in the place of `base`: its options are the keys of `space`."""
    options: dict[str, Any] = Field({})
    """Options of the retriever that stay as they are."""
    data: str | None = None
    """With a retriever: the data set folder."""
    protocol: str = "loo-full"
    """With a retriever: whose validation items are asked; a run config names its own."""
    trials: int = Field(20, ge=1)
    """Trials that end by themselves or are given up. Those killed on the way do not count."""
    space: dict[str, Any] = Field(min_length=1)
    """Key -> {low, high, log, step}, or the list of its choices."""
    seed: int = 1
    run: str | None = None
    """Folder of the study; None means runs/ and the name of the tune file."""
    pruning: Pruning | None = Pruning()
    """null lets every trial run to its end."""


def read(file: str | Path) -> TuneConfig:
    """A tune file, checked as far as it can be without its base. Raises ConfigError.

    `base` and `run` come back as paths from the working folder.
    """
    file = Path(file)
    found = TuneConfig.load(file)
    if (found.base is None) == (found.retriever is None):
        raise ConfigError(f"{file}: expected either base (a run config) or retriever, got {_got(found)}")
    if found.retriever is not None and found.data is None:
        raise ConfigError(f"{file}: key 'data' is required with a retriever: the data set folder")
    for key in ("data", "options") if found.base is not None else ():
        if getattr(found, key):
            raise ConfigError(f"{file}: key {key!r} goes with a retriever; a run config names its own")
    changes = {"run": found.run or str(Path("runs") / file.stem)}
    if found.base is not None:
        beside = file.parent / found.base
        changes["base"] = str(beside if beside.is_file() else found.base)
    return found.model_copy(update=changes)


def _got(found: TuneConfig) -> str:
    return "neither" if found.base is None else "both"


def for_retriever(name: str, folder: Path, protocol: str = "loo-full") -> TuneConfig:
    """What `palate tune --retriever NAME DIR` runs. Raises ConfigError for one without a space of its own."""
    from palate.retrieve import build

    build(name)  # a wrong name is an error that suggests the right one
    if name not in SPACES:
        raise ConfigError(
            f"no search space is shipped for the retriever {name!r}; {did_you_mean(name, SPACES)} Or write a file with "
            f"retriever: {name}, data: {folder} and a space over its options"
        )
    run = Path("runs") / f"tune-{name}-{folder.resolve().name}"
    return TuneConfig(
        retriever=name, data=str(folder), protocol=protocol, space=SPACES[name], trials=30, run=str(run), pruning=None
    )
