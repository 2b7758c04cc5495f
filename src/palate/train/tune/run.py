"""The tuning loop: ask, run, tell, write down; until enough trials are settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from palate.errors import ConfigError, TrainingDiverged
from palate.evaluate.environment import command_line, manifest
from palate.train.guard import Stopped
from palate.train.tune.file import TuneConfig
from palate.train.tune.objective import Fitting, Objective, forget, objective
from palate.train.tune.report import Summary, summary, write
from palate.train.tune.space import knobs
from palate.train.tune.study import Study, Turn, open_study

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tuned:
    """How a tuning run ended. stopped: the signal that ended it, 0 where all trials are done or under way elsewhere."""

    folder: Path
    summary: Summary
    use: str
    stopped: int = 0


def tune(
    config: TuneConfig,
    overrides: Sequence[str] = (),
    *,
    where: str = "the tune file",
    restart: bool = False,
    say: Say = lambda _: None,
) -> Tuned:
    """Run the study of a tune file, or go on with it; several processes may.

    overrides: `key=value` for the base config, the same in all trials. where: what errors call the file. say: a line
    for people. Raises ConfigError for a space that does not fit, before anything is trained. An error that is no
    trial's own (no validation items, no data) ends the study; a diverged run or one out of memory only its trial.
    """
    folder = Path(config.run or Path("runs") / "tune")
    asked = objective(config, overrides, folder)
    chosen = knobs(config.space, asked.check, where)
    space = {f"space {key}": told for key, told in config.space.items()}
    pruning = None if isinstance(asked, Fitting) else config.pruning
    identity = {
        **asked.identity(),
        **space,
        "seed": config.seed,
        "pruning": None if pruning is None else pruning.model_dump(),
    }
    study = open_study(
        folder, chosen, identity, trials=config.trials, seed=config.seed, pruning=pruning, restart=restart
    )
    stopped = 0
    while not stopped:
        with study.turn() as turn:
            if turn is None:
                break
            say(_begin(study, turn))
            try:
                say(_trial(study, asked, turn))
            except Stopped as stop:
                stopped = stop.signal
        _keep(study, asked)
    return Tuned(folder, _keep(study, asked), asked.use.format(file=folder / "best.yaml"), stopped)


def _begin(study: Study, turn: Turn) -> str:
    again = turn.trial.user_attrs.get("retry_of")
    told = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in turn.values.items()
    )
    return f"trial {turn.trial.number}{f' (trial {again} again)' if again is not None else ''}: {told}"


def _trial(study: Study, asked: Objective, turn: Turn) -> str:
    """Run one trial and tell its end; a line about it. Raises Stopped, and what is no trial's own fault."""
    from optuna import TrialPruned

    number = turn.trial.number
    try:
        value = asked.run(turn)
    except TrialPruned:
        study.tell(turn, None)
        forget(turn.folder)
        return f"trial {number}: given up after {len(turn.known)} validations"
    except TrainingDiverged as error:
        return _failed(study, turn, str(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            study.put_back(turn)
            raise
        return _failed(study, turn, "out of memory")
    except BaseException as error:
        # put back, so that the same command tries it again once whatever was wrong is mended
        study.put_back(turn)
        if isinstance(error, KeyboardInterrupt):
            raise Stopped(2) from None
        raise
    study.tell(turn, value)
    return f"trial {number}: {asked.metric} {value:.4f}"


def _failed(study: Study, turn: Turn, reason: str) -> str:
    study.tell(turn, None, reason)
    forget(turn.folder)
    return f"trial {turn.trial.number}: failed: {reason}"


def _keep(study: Study, asked: Objective) -> Summary:
    """Write down how the study stands; the best trial's checkpoints stay, those of other ended trials go."""
    with study.lock:
        best = study.best
        for trial in study.complete:
            if best is not None and study.place(trial) != study.place(best):
                forget(study.place(trial))
        found = summary(study, asked.name, asked.metric)
        made = manifest(command_line(), {"study": study.seed}, {"data": asked.identity()["data fingerprint"]})
        if best is not None:
            write(study.folder, found, asked.best(study.values(best), study.place(best)), made)
        return found


def check_ended(tuned: Tuned) -> None:
    """Raises ConfigError where no trial came to an end."""
    if not tuned.stopped and tuned.summary.best is None:
        reasons = {r.reason for r in tuned.summary.rows if r.reason}
        raise ConfigError(
            f"no trial in {tuned.folder} came to an end: {'; '.join(sorted(reasons)) or 'all were given up'}"
        )
