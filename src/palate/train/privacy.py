"""What differentially private training promises: what goes with it, what a run spends, what the bundle says of it.

The unit is a user. For the weights in a bundle: whoever knows all other users' events learns little about whether one
user was there at all, as epsilon and delta say. What is not covered stands in `NOT_COVERED`. The accounting is
Opacus's PRV accountant (Gopi et al., 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from palate.config import PrivacyConfig, RunConfig
from palate.errors import ConfigError
from palate.features.encoders import CollaborativeEncoder, build

ACCOUNTANT = "prv"
NOT_COVERED = (
    "metrics, which are computed from held-out events; the number of users, which sets the chance of a draw; "
    "settings that were chosen by looking at earlier runs; the run folder (its losses, norms and checkpoints), which "
    "must not be published; attacks on how floating-point noise is drawn"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run spends. rate: chance of a user to be in a step; noise: standard deviation over `clip`; steps: of the
    whole run; users: of the train split.
    """

    rate: float
    noise: float
    delta: float
    clip: float
    steps: int
    users: int
    repeatable: bool

    def line(self) -> str:
        """The plan in words."""
        spends = "its noise is repeatable, so nothing is promised" if self.repeatable else "of noise unknown to anybody"
        return (
            f"private: epsilon {self.epsilon(self.steps):.2f} at delta {self.delta:.2g} for a user, in {self.steps} "
            f"steps of {self.rate * self.users:.0f} users on average, with noise {self.noise:.2f} over a gradient of "
            f"norm {self.clip:g}; {spends}"
        )

    def epsilon(self, steps: int) -> float:
        """What so many steps have spent at `delta`."""
        return _epsilon([(self.noise, self.rate, steps)], self.delta) if steps else 0.0


def check(config: RunConfig, processes: int, how: str = "ddp") -> None:
    """ConfigError for what noise cannot cover or this way of training cannot do, before anything is loaded."""
    privacy = config.train.privacy
    if privacy is None:
        return
    if (privacy.epsilon is None) == (privacy.noise is None):
        raise ConfigError(
            "train.privacy: expected one of epsilon and noise, got " + ("both" if privacy.noise else "none")
        )
    fitted = [m for m, e in build(config.features).items() if isinstance(e, CollaborativeEncoder)]
    if fitted:
        raise ConfigError(
            f"train.privacy does not go with features.{fitted[0]}: its vectors are fitted on what users chose and lie "
            "in the bundle, where no noise covers them; leave it out, and use features of the items alone (text, image)"
        )
    if config.train.teacher is not None:
        raise ConfigError(
            "train.privacy does not go with train.teacher, which is fitted on what users chose; leave it out"
        )
    if config.train.start is not None:
        raise ConfigError(
            "train.privacy does not go with train.start: what that adapter learned of the same users is not in this "
            "run's epsilon; start anew"
        )
    if config.train.accumulate != 1:
        raise ConfigError("train.privacy: set train.privacy.users in the place of train.accumulate")
    if processes != 1 or how != "ddp":
        raise ConfigError(f"train.privacy trains in one process, got {processes} ({how}); start it with `palate train`")
    if config.model.dtype == "float16":
        raise ConfigError(
            "train.privacy does not go with model.dtype float16, whose loss is scaled; use bfloat16 or float32"
        )
    _opacus()


def plan(privacy: PrivacyConfig, users: int, steps: int) -> Plan:
    """Chance of a draw and noise for a run of `steps` over `users`. ConfigError where no noise is enough."""
    rate = min(1.0, privacy.users / users)
    delta = privacy.delta or users**-1.1
    if delta >= 1 / users:
        raise ConfigError(
            f"train.privacy.delta: expected less than 1 / users = {1 / users:.2g}, got {delta:g}; a larger one would "
            "allow to publish some users whole"
        )
    noise = privacy.noise
    if noise is None:
        assert privacy.epsilon is not None
        noise = _noise(privacy.epsilon, delta, rate, steps)
    return Plan(rate, noise, delta, privacy.clip, steps, users, privacy.seed is not None)


def told(plan: Plan, steps: int) -> dict[str, Any]:
    """What `palate.json` says of it; `export.describe` leaves out exact facts of the events."""
    epsilon = None if plan.repeatable else round(plan.epsilon(steps), 3)
    return {
        "unit": "user",
        "epsilon": epsilon,
        "delta": plan.delta,
        "noise": round(plan.noise, 4),
        "clip": plan.clip,
        "chance of a user in a step": round(plan.rate, 6),
        "steps": steps,
        "accountant": f"{ACCOUNTANT} (Opacus {_opacus().__version__})",
        "not covered": NOT_COVERED if epsilon else "anything: the noise was drawn from a known seed",
    }


# --- Opacus ---------------------------------------------------------------------------------------------


def _opacus() -> Any:
    try:
        import opacus
    except ImportError as e:
        raise ConfigError("train.privacy needs Opacus; install it with: pip install 'palate[privacy]'") from e
    return opacus


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Opacus says of its own tables: the log of a chance of 0, and an order at the end of the list, which
    only sets how wide a table is.
    """
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the largest alpha")
        yield


def _epsilon(history: list[tuple[float, float, int]], delta: float) -> float:
    from opacus.accountants import create_accountant

    accountant = create_accountant(ACCOUNTANT)
    accountant.history = history
    with _quiet():
        return float(accountant.get_epsilon(delta))


def _noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            return float(
                get_noise_multiplier(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant=ACCOUNTANT
                )
            )
    except ValueError as e:
        raise ConfigError(
            f"train.privacy: no noise reaches epsilon {epsilon:g} in {steps} steps at delta {delta:.2g}; raise "
            "epsilon, or lower train.epochs or train.privacy.users"
        ) from e
