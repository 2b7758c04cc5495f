"""The study on disk: trials in SQLite, a lock a trial, and what a killed process left is found and tried again.

A trial's lock falls with its process, even a killed one. So a trial that the study calls running and whose lock is free
is dead: it is marked failed, and its very values wait as a new trial that goes on in the same folder, from the last
checkpoint there. No heartbeat and no time limit is needed, and a living process is never disturbed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.errors import ConfigError
from palate.train.tune.file import Pruning
from palate.train.tune.space import Knob

if TYPE_CHECKING:
    import optuna
    from filelock import FileLock
    from optuna.trial import FrozenTrial

KILLS = 3
"""Times a trial may be killed before its values are given up: they may be what kills it (too much memory)."""
DATABASE = "study.db"
WAIT = 120.0
"""Seconds to wait for another process that is just asking for a trial."""


@dataclass(frozen=True)
class Turn:
    """A trial that is this process's to run. folder: of the trial that first had these values; lock: held."""

    trial: optuna.Trial
    values: Mapping[str, Any]
    folder: Path
    lock: FileLock

    def report(self, number: int, score: float) -> None:
        """Tell a validation. Raises TrialPruned where the trial is to be given up."""
        from optuna import TrialPruned

        # a retried trial goes on from its checkpoint and passes validations again that are known already
        if number not in self.known:
            self.trial.report(score, number)
        if self.trial.should_prune():
            raise TrialPruned

    @property
    def known(self) -> set[int]:
        """Numbers of the validations that have been told."""
        return set(self.reported)

    @property
    def reported(self) -> dict[int, float]:
        """Number of a validation -> what came of it."""
        return dict(self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values)


class Study:
    """An Optuna study in a folder; see `open_study`."""

    def __init__(self, folder: Path, knobs: Sequence[Knob], wanted: int, seed: int, pruning: Pruning | None) -> None:
        import optuna
        from filelock import FileLock
        from sqlalchemy.pool import NullPool

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.knobs, self.wanted, self.seed = folder, knobs, wanted, seed
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / "locks" / "study.lock", timeout=WAIT)
        with self.lock:
            engine = {"poolclass": NullPool, "connect_args": {"timeout": WAIT}}
            storage = optuna.storages.RDBStorage(f"sqlite:///{folder / DATABASE}", engine_kwargs=engine)
            self.optuna = optuna.create_study(
                storage=storage,
                study_name="palate",
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(pruning),
            )

    # --- asking and telling ---------------------------------------------------------------------------

    @contextmanager
    def turn(self) -> Iterator[Turn | None]:
        """The next trial, its lock held inside the context; None where as many as wanted are done or under way."""
        from optuna.samplers import TPESampler

        with self.lock:
            self._bury()
            waiting = any(t.state.name == "WAITING" for t in self.trials)
            if not waiting and len(self.settled) + len(self.running) >= self.wanted:
                yield None
                return
            # drawn by the number of value sets so far, so that a study that was interrupted draws what it would have
            # drawn anyway, and no two processes draw the same
            number = sum("retry_of" not in t.user_attrs for t in self.trials)
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            self.optuna.sampler = TPESampler(seed=seed, n_startup_trials=5, multivariate=True)
            trial = self.optuna.ask({k.key: k.distribution for k in self.knobs})
            lock = self._lock(trial.number)
            lock.acquire(timeout=WAIT)
        try:
            for step, score in trial.user_attrs.get("reported", {}).items():
                trial.report(score, int(step))
            yield Turn(trial, {k.key: k.value(trial.params[k.key]) for k in self.knobs}, self.place(trial), lock)
        finally:
            lock.release()

    def tell(self, turn: Turn, value: float | None, reason: str = "") -> None:
        """End a trial: with its value, or as given up (None without a reason), or as failed with one."""
        from optuna.trial import TrialState

        if reason:
            turn.trial.set_user_attr("reason", reason)
            self.optuna.tell(turn.trial, state=TrialState.FAIL)
        elif value is None:
            self.optuna.tell(turn.trial, state=TrialState.PRUNED)
        else:
            self.optuna.tell(turn.trial, value)

    def put_back(self, turn: Turn) -> None:
        """End a trial that was interrupted; its values wait for whoever goes on."""
        with self.lock:
            self._again(self._frozen(turn.trial.number), killed=False)

    # --- what a kill left -----------------------------------------------------------------------------

    def _bury(self) -> None:
        """Mark trials of dead processes failed, and let their values wait as new ones."""
        from filelock import Timeout

        for trial in self.running:
            lock = self._lock(trial.number)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            lock.release()
            self._again(trial, killed=True)

    def _again(self, trial: FrozenTrial, *, killed: bool) -> None:
        from optuna.trial import TrialState

        told = trial.user_attrs
        kills = int(told.get("kills", 0)) + killed
        retried = {t.user_attrs.get("retry_of") for t in self.trials}
        if kills < KILLS and trial.number not in retried:  # a kill may have come between these two lines
            values = {str(step): score for step, score in trial.intermediate_values.items()}
            attrs = {"retry_of": trial.number, "first": first(trial), "kills": kills, "reported": values}
            self.optuna.enqueue_trial(trial.params, user_attrs=attrs)
        self.optuna.tell(trial.number, state=TrialState.FAIL)

    def _lock(self, number: int) -> FileLock:
        from filelock import FileLock

        return FileLock(self.folder / "locks" / f"{number:04d}.lock", is_singleton=False)

    # --- looking --------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    @property
    def running(self) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state.name == "RUNNING"]

    @property
    def settled(self) -> list[FrozenTrial]:
        """Trials that count: ended, given up, or failed for good."""
        retried = {t.user_attrs.get("retry_of") for t in self.trials}
        states = ("COMPLETE", "PRUNED", "FAIL")
        return [t for t in self.trials if t.state.name in states and t.number not in retried]

    @property
    def complete(self) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state.name == "COMPLETE"]

    @property
    def best(self) -> FrozenTrial | None:
        """The trial with the highest value, the earliest of equals; None where none has ended."""
        return max(self.complete, key=lambda t: (t.values[0], -t.number), default=None)

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """Key -> what the config got, of a trial."""
        return {k.key: k.value(trial.params[k.key]) for k in self.knobs}

    def place(self, trial: optuna.Trial | FrozenTrial) -> Path:
        """The folder of a trial, which is that of the first trial with its values where it is a retry."""
        return self.folder / "trials" / f"{first(trial):04d}"

    def _frozen(self, number: int) -> FrozenTrial:
        return self.trials[number]


def first(trial: optuna.Trial | FrozenTrial) -> int:
    """Number of the trial that first had this one's values: its own, unless it is a retry."""
    return int(trial.user_attrs.get("first", trial.number))


def open_study(
    folder: Path,
    knobs: Sequence[Knob],
    identity: Mapping[str, Any],
    *,
    trials: int,
    seed: int,
    pruning: Pruning | None,
    restart: bool = False,
) -> Study:
    """The study in a folder, made where there is none; restart: made anew.

    identity: JSON-able facts that must be the same to go on. Raises ConfigError where the study there is another one,
    or restart meets a process at work.
    """
    if restart and folder.exists():
        _clear(folder)
    study = Study(folder, knobs, trials, seed, pruning)
    with study.lock:
        now = {k: json.loads(json.dumps(v)) for k, v in identity.items()}
        saved = study.optuna.user_attrs.get("identity")
        if saved is None:
            study.optuna.set_user_attr("identity", now)
            return study
    if differ := [k for k in sorted({*saved, *now}) if saved.get(k, "(absent)") != now.get(k, "(absent)")]:
        told = "\n".join(f"  {k}: {saved.get(k, '(absent)')!r} there, {now.get(k, '(absent)')!r} now" for k in differ)
        raise ConfigError(
            f"the study in {folder} is another one:\n{told}\nput these back to go on, start anew with --restart, or "
            "give the study another folder (run:)"
        )
    return study


def _clear(folder: Path) -> None:
    """Remove a study, and nothing else of the folder. ConfigError where a process is at work on it."""
    from filelock import FileLock, Timeout

    for path in sorted((folder / "locks").glob("*.lock")):
        try:
            with FileLock(path, timeout=0, is_singleton=False):
                pass
        except Timeout:
            raise ConfigError(f"another process is at work on the study in {folder}; end it before --restart") from None
    for name in ("locks", "trials"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (DATABASE, "best.yaml", "trials.csv", "summary.json", "study.svg"):
        (folder / name).unlink(missing_ok=True)


def _pruner(pruning: Pruning | None) -> Any:
    from optuna.pruners import NopPruner, PercentilePruner

    if pruning is None:
        return NopPruner()
    return PercentilePruner(pruning.percentile, n_startup_trials=pruning.startup, n_warmup_steps=pruning.warmup + 1)
