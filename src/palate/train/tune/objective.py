"""What a trial does: one training run, or one retriever fitted and asked. Both read validation items alone."""

from __future__ import annotations

import inspect
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from palate.config import RunConfig, read_yaml
from palate.errors import ConfigError, did_you_mean
from palate.evaluate import protocol
from palate.train import override, place, read_config
from palate.train.guard import Stopped
from palate.train.tune.file import TuneConfig
from palate.train.tune.study import Turn

if TYPE_CHECKING:
    from palate.data import Dataset

METRIC = "NDCG@10"
ELSEWHERE = {
    "name": "names the run",
    "data": "would ask other questions in every trial",
    "media": "names a folder of this machine",
    "train.run": "is chosen by the study",
    "train.output": "is chosen by the study",
    "train.protocol": "would ask other questions in every trial",
    "train.validate_users": "would ask other questions in every trial",
    "train.checkpoint_every": "changes nothing that is learned",
}
"""Config keys that a study cannot search, and why: scores of two trials must be comparable."""
CHECKPOINTS = ("step-*", ".step-*.tmp", "best.safetensors")


class Objective(ABC):
    """name: of what is tuned; metric: what a trial's value is, higher is better."""

    name: str
    metric: str = METRIC

    @abstractmethod
    def check(self, key: str, value: Any) -> Any:
        """The value as the key takes it. Raises ConfigError for a key or value that does not fit."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be the same for a study to go on."""

    @abstractmethod
    def run(self, turn: Turn) -> float:
        """The trial's value on validation items. Raises Stopped, TrialPruned, or a PalateError."""

    @abstractmethod
    def best(self, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The YAML of the best trial, whose folder is `folder`."""

    @property
    @abstractmethod
    def use(self) -> str:
        """What to do with best.yaml, as {file} names it."""


class Training(Objective):
    """A run config; a trial is a training run of it, checkpointed in the trial's folder."""

    use = "palate train {file} saves its adapter; its run is kept, so nothing is trained again"

    def __init__(self, file: str | Path, overrides: Sequence[str], study: Path) -> None:
        self.base = read_config(file, overrides)
        self.file, self.overrides, self.study = file, tuple(overrides), study
        self.name = self.base.name
        if protocol(self.base.train.protocol).split_by == "rating":
            self.metric = "-RMSE"  # the sign training gives it, so that higher is better

    def check(self, key: str, value: Any) -> Any:
        if key in ELSEWHERE:
            raise ConfigError(f"space: {key} {ELSEWHERE[key]}, so it cannot be searched")
        config = self.config({key: value}, self.study / "trials" / "0000")
        if key.startswith("features."):
            from palate.features.encoders import build

            build(config.features)
        return _read(config, key.split("."), key)

    def identity(self) -> dict[str, Any]:
        from palate.train.prepare import IDLE, flat, open_dataset

        told = {k: v for k, v in flat(self.base.model_dump(mode="json")).items() if k not in IDLE}
        return {**told, "data fingerprint": open_dataset(self.base).fingerprint}

    def config(self, values: Mapping[str, Any], folder: Path) -> RunConfig:
        """The run config of a trial."""
        return RunConfig.parse(self.best(values, folder), f"{self.file} with {_told(values)}")

    def best(self, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        base = read_yaml(self.file)
        for text in self.overrides:
            override(base, text)
        for key, value in values.items():
            place(base, key, value)
        base["name"] = self.study.name
        base["train"] = {**(base.get("train") or {}), "run": str(folder), "output": str(self.study / "adapter")}
        found: dict[str, Any] = base
        return found

    def run(self, turn: Turn) -> float:
        from rich.console import Console

        from palate.train.loop import Extras, train

        turn.folder.mkdir(parents=True, exist_ok=True)
        config = self.config(turn.values, turn.folder)
        with (turn.folder / "train.log").open("a", encoding="utf-8") as log:
            outcome = train(config, console=Console(file=log), extras=Extras(watch=turn.report, save=False))
        if outcome.stopped:
            raise Stopped(outcome.stopped)
        if not turn.known:
            raise ConfigError(
                f"{self.file}: a trial is judged by its validations, and there was none; set train.validate_users and "
                "a protocol that leaves validation items"
            )
        return max(turn.reported.values())


class Fitting(Objective):
    """A retriever; a trial fits it on the train split and asks for the validation items."""

    use = "palate evaluate DIR --against takes the text in it"

    def __init__(self, config: TuneConfig) -> None:
        from palate.retrieve import build

        assert config.retriever is not None
        assert config.data is not None
        build(config.retriever, **config.options)
        self.name, self.options, self.protocol = config.retriever, config.options, config.protocol
        self.folder = Path(config.data)
        if METRIC not in protocol(config.protocol).metrics:
            raise ConfigError(f"a retriever is tuned by {METRIC}, which protocol {config.protocol!r} does not report")
        self._data: Dataset | None = None

    @property
    def data(self) -> Dataset:
        from palate.data import Dataset

        self._data = self._data or Dataset.open(self.folder)
        return self._data

    def check(self, key: str, value: Any) -> Any:
        from palate import registry
        from palate.retrieve import PACKAGE, Retriever, build

        cls = registry.plugin(PACKAGE, Retriever, self.name)  # type: ignore[type-abstract]
        known = {} if cls.__init__ is object.__init__ else dict(inspect.signature(cls).parameters)
        if key not in known:
            raise ConfigError(f"space: retriever {self.name!r} has no option {key!r}; {did_you_mean(key, known)}")
        if isinstance(value, int) and not isinstance(value, bool) and "float" in str(known[key].annotation):
            value = float(value)
        build(self.name, **{**self.options, key: value})
        return value

    def identity(self) -> dict[str, Any]:
        return {
            "retriever": self.name,
            "options": self.options,
            "protocol": self.protocol,
            "data fingerprint": self.data.fingerprint,
        }

    def run(self, turn: Turn) -> float:
        from palate.evaluate import evaluate
        from palate.evaluate.baselines import baseline, features_for

        held = protocol(self.protocol)
        train = held.split(self.data.histories.interactions).train
        text = self.text(turn.values)
        system = baseline(text, train, features_for(text, self.data, train))
        return float(evaluate(self.data, [system], held, part="valid").systems[0].metrics[METRIC].value)

    def text(self, values: Mapping[str, Any]) -> str:
        """The retriever with its options, as `--against` takes it."""
        options = {**self.options, **values}
        return ":".join([self.name, *(f"{k}={_plain(v)}" for k, v in options.items())])

    def best(self, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        return {"retriever": self.name, "options": {**self.options, **values}, "against": self.text(values)}


def objective(config: TuneConfig, overrides: Sequence[str], study: Path) -> Objective:
    """What the tune file tunes. Raises ConfigError for overrides without a run config to apply them to."""
    if config.base is not None:
        return Training(config.base, overrides, study)
    if overrides:
        raise ConfigError(f"{overrides[0]!r} changes a run config, and a retriever has none; use options: in the file")
    return Fitting(config)


def forget(folder: Path) -> None:
    """Drop a trial's checkpoints; its metrics and log stay."""
    for path in [p for pattern in CHECKPOINTS for p in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _read(value: Any, path: Sequence[str], key: str) -> Any:
    """What a validated config holds under a dotted key."""
    for part in path:
        if isinstance(value, BaseModel) and part in type(value).model_fields:
            value = getattr(value, part)
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            raise ConfigError(f"space: the config has no key {key!r}")
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _told(values: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={json.dumps(v, default=str)}" for k, v in values.items())


def _plain(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
