"""A replayed stream with training: a base adapter, then an update after every slice, each from what was there by then.

Each adapter is trained on `Dataset.before(moment)`: later events are not in the object it is given, so neither
training, encoders, teachers nor validation can read them. Nor are they in the data set that answers are scored from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.config import RunConfig
from palate.data import Dataset
from palate.errors import ConfigError
from palate.evaluate import protocol
from palate.evaluate.baselines import RecommenderSystem, baseline, features_for, parse
from palate.evaluate.stream import Arm, SliceResult, StreamResult, ask, bounds
from palate.train.guard import Stopped
from palate.train.refresh import EPOCHS

if TYPE_CHECKING:
    from rich.console import Console

    from palate.recommender import Recommender

FROZEN, LIVE, UPDATED, SCRATCH = (
    "model, histories frozen",
    "model, new events shown",
    "model, continued",
    "model, trained anew",
)


@dataclass(frozen=True)
class Plan:
    """How a stream is replayed.

    base: share of the events before it; slices; events, users, seed: see `stream.questions`. epochs: of each continued
    training. against: baselines, as `--against` takes them. mode: the adapter's scoring mode. scratch: also train an
    adapter anew for each slice, as the base was, to see what continuing costs.
    """

    base: float = 0.5
    slices: int = 4
    events: int = 5
    users: int | None = None
    seed: int = 1
    epochs: float = EPOCHS
    against: tuple[str, ...] = ("popularity", "ease")
    mode: str = "embedding"
    scratch: bool = False


def replay(
    config: RunConfig, plan: Plan, *, console: Console | None = None, say: Callable[[str], None] = lambda _: None
) -> StreamResult:
    """Train, ask and update, slice by slice. Trainings go to the run folder with `-stream` and resume.

    Raises ConfigError for a plan that does not fit, DataError for data without enough times, Stopped where a signal
    ended a training.
    """
    from palate.train.prepare import open_dataset

    check(plan, config)
    for name in plan.against:
        parse(name)
    dataset = open_dataset(config)
    events = dataset.histories.interactions
    moments = bounds(events, plan.base, plan.slices)
    trainer = Trainer(config, plan, dataset, moments, console)
    found = []
    for number in range(plan.slices):
        say(f"slice {number + 1} of {plan.slices}")
        arms = [*trainer.arms(number), *_baselines(plan, config, dataset, moments, number)]
        # what comes later is not there to be read
        shown = dataset.before(moments[number + 1]).histories.interactions
        found.append(_ask(plan, shown, moments, number, arms, say))
    return StreamResult(
        dataset.name,
        dataset.fingerprint,
        int(len(events.items) - sum(s.events for s in found)),
        plan.base,
        plan.seed,
        tuple(found),
        {"training": trainer.told, "train protocol": config.train.protocol, "mode": plan.mode},
    )


def _ask(
    plan: Plan, shown: Any, moments: Sequence[float], number: int, arms: Sequence[Arm], say: Callable[[str], None]
) -> SliceResult:
    return ask(
        shown,
        moments,
        number,
        arms,
        events=plan.events,
        users=plan.users,
        seed=plan.seed,
        progress=lambda name: say(f"  asking {name}"),
    )


class Trainer:
    """The adapters of a stream, trained when first asked for. told: what each training came to."""

    def __init__(
        self, config: RunConfig, plan: Plan, dataset: Dataset, moments: Sequence[float], console: Console | None
    ) -> None:
        run = Path(config.train.run or Path("runs") / config.name)
        self.folder = run.with_name(f"{run.name}-stream")
        self.config, self.plan, self.dataset, self.moments, self.console = config, plan, dataset, moments, console
        self.told: list[dict[str, Any]] = []
        self._first: Recommender | None = None
        self._last: Path | None = None

    def arms(self, number: int) -> list[Arm]:
        """The adapter's arms for a slice, trained on what came before it."""
        shown = self.dataset.before(self.moments[number + 1])
        known = self.dataset.before(self.moments[number])
        if number == 0:
            self._last = self._train("base", known)
            self._first = self._load(self._last, known)
        else:
            self._last = self._train(f"slice-{number}", known, self._last)
        assert self._first is not None
        assert self._last is not None
        updated = self._first if number == 0 else self._load(self._last, known)
        made = [(FROZEN, self._first, True), (LIVE, self._first, False), (UPDATED, updated, False)]
        if self.plan.scratch:
            anew = self._first if number == 0 else self._load(self._train(f"anew-{number}", known), known)
            made.append((SCRATCH, anew, False))
        return [Arm(n, RecommenderSystem(rec, shown, self.plan.mode, n), frozen) for n, rec, frozen in made]

    def _load(self, bundle: Path, known: Dataset) -> Recommender:
        from palate.recommender import Recommender

        return Recommender.load(bundle, data=known)

    def _train(self, name: str, known: Dataset, start: Path | None = None) -> Path:
        from palate.train.loop import Extras, train

        folder = self.folder / name
        changes: dict[str, Any] = {"run": str(folder), "output": str(folder / "adapter")}
        if start is not None:
            changes |= {"start": str(start), "epochs": self.plan.epochs}
        config = self.config.model_copy(update={"train": self.config.train.model_copy(update=changes)})
        outcome = train(config, console=self.console, extras=Extras(first=start is not None, dataset=known))
        if outcome.stopped:
            raise Stopped(outcome.stopped)
        self.told.append(
            {
                "adapter": name,
                "events": len(known.histories.interactions.items),
                "steps": outcome.step,
                "best step": outcome.metrics.get("step"),
                **{m: v["value"] for m, v in outcome.metrics.items() if m != "step"},
            }
        )
        return folder / "adapter"


def _baselines(plan: Plan, config: RunConfig, dataset: Dataset, moments: Sequence[float], number: int) -> list[Arm]:
    """Each baseline fitted before the stream and before the slice, on the same train split as the adapter."""
    held = protocol(config.train.protocol)
    out = []
    for text in plan.against:
        for when, moment in (("fitted once", moments[0]), ("fitted anew", moments[number])):
            known = dataset.before(moment)
            train = held.split(known.histories.interactions).train
            name = f"{text}, {when}"
            out.append(Arm(name, baseline(text, train, features_for(text, known, train), name)))
    return out


def check(plan: Plan, config: RunConfig) -> None:
    """Raises ConfigError where the plan does not fit the config."""
    if protocol(config.train.protocol).split_by not in ("user", "time"):
        raise ConfigError(
            f"a stream needs train.protocol loo-full or temporal, got {config.train.protocol!r}: it keeps out what "
            "each adapter is validated on"
        )
    if not plan.epochs > 0:
        raise ConfigError(f"epochs: expected a number above 0, got {plan.epochs}")
