"""DP-SGD (Abadi et al., 2016) with a user as the unit; `train.privacy` says what it promises.

Each step draws every user with the same chance, clips the gradient of all that a drawn user says to one norm, adds
Gaussian noise to the sum and hands it to AdamW. Clipping and noise are Opacus's; Palate brings one gradient a user,
since a user is several examples of several tasks and not a row of a batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from palate.config import TrainConfig
from palate.errors import BudgetError
from palate.model import Model
from palate.schema import Ints
from palate.train.collate import Batch, Position, collate
from palate.train.mixture import Mixture
from palate.train.privacy import Plan
from palate.train.step import NO_ITEMS, TrainingStep
from palate.train.update import Measured, at, trained


class Draws:
    """`next()`: the drawn users of one step, one pack each. A user is drawn with chance `rate`, by itself.

    Raises BudgetError for one user's examples longer than `budget`.
    """

    def __init__(self, mixture: Mixture, plan: Plan, budget: int, seed: int | None, step: int = 0) -> None:
        self.mixture, self.plan, self.budget, self.seed, self.step = mixture, plan, budget, seed, step
        self.pool = users_of(mixture)

    def next(self) -> list[Batch]:
        self.step += 1
        # not from train.seed, which the bundle tells: who knows the draw knows who was in it
        rng = np.random.default_rng() if self.seed is None else np.random.default_rng([self.seed, self.step])
        drawn = self.pool[rng.random(len(self.pool)) < self.plan.rate]
        packs = [self._user(int(user), rng) for user in drawn]
        return [p for p in packs if p is not None]

    def _user(self, user: int, rng: np.random.Generator) -> Batch | None:
        """One example of each task the user has any of."""
        examples = []
        for task in self.mixture.tasks:
            numbers = task.numbers(user)
            made = task.example(int(rng.choice(numbers)), rng) if numbers else None
            if made is not None:
                examples.append(made)
        size = sum(map(len, examples))
        if size > self.budget:
            raise BudgetError(
                f"what one user is trained on in a step takes {size} tokens, a pack holds {self.budget}; raise "
                "train.batch_tokens, or lower prompt.max_sequence"
            )
        return collate(examples, self.mixture.names, Position(self.step, 0)) if examples else None


def users_of(mixture: Mixture) -> Ints:
    """Numbers of the users that any task learns from: int64."""
    return np.unique(np.concatenate([t.users for t in mixture.tasks]))


class PrivateUpdate:
    """`update(packs, factor, asked) -> Measured`: one noisy step, as `Update` takes one without noise.

    A user's loss is the weighted sum of the tasks' mean losses over that user's own targets.
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        weights: Sequence[float],
        accelerator: Any,
        plan: Plan,
        withheld: Ints = NO_ITEMS,
    ) -> None:
        from opacus.optimizers import DPOptimizer

        assert config.privacy is not None
        self.config, self.weights, self.accelerator, self.plan = config, list(weights), accelerator, plan
        groups = trained(model, config)
        self.peaks = [float(g["lr"]) for g in groups]
        self.parameters = [p for g in groups for p in g["params"]]
        self.module = TrainingStep(model, withheld)
        self.generator = torch.Generator(model.device)
        seed = config.privacy.seed
        self.generator.manual_seed(secrets.randbits(63) if seed is None else seed)
        self.optimizer = DPOptimizer(
            torch.optim.AdamW(groups),
            noise_multiplier=plan.noise,
            max_grad_norm=plan.clip,
            expected_batch_size=max(1, round(plan.rate * plan.users)),
            generator=self.generator,
        )

    def __call__(self, batches: Sequence[Batch], factor: float, asked: int) -> Measured | None:
        """Take a step at `factor` of the peak rates, with noise even where nobody was drawn; None where asked to stop.

        The norm told is the median of the users' before clipping.
        """
        if asked:
            return None
        at(self.optimizer, self.peaks, factor)
        sums, norms = np.zeros(len(self.weights)), []
        counts = np.sum([b.counts for b in batches], axis=0) if batches else np.zeros(len(self.weights))
        for n, batch in enumerate(batches, 1):
            losses, norm = self._gradient(batch)
            sums += losses
            norms.append(norm)
            self._apply(last=n == len(batches))
        if not batches:
            for p in self.parameters:
                p.grad_sample = torch.zeros((0, *p.shape), device=p.device)
            self._apply(last=True)
        means = [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)]
        return Measured(means, sum(len(b.pack) for b in batches), float(np.median(norms)) if norms else 0.0)

    def _gradient(self, batch: Batch) -> tuple[np.ndarray, float]:
        """One user's gradient where Opacus looks for it; summed losses and the norm."""
        scale = [w / c if c else 0.0 for w, c in zip(self.weights, batch.counts, strict=True)]
        with self.accelerator.autocast():
            out = self.module(batch)
        grads = torch.autograd.grad((out * out.new_tensor(scale)).sum(), self.parameters, allow_unused=True)
        for p, grad in zip(self.parameters, grads, strict=True):
            p.grad_sample = torch.zeros_like(p)[None] if grad is None else grad[None]
        norm = torch.stack([p.grad_sample.norm() for p in self.parameters]).norm()
        return out.detach().double().cpu().numpy(), float(norm)

    def _apply(self, last: bool) -> None:
        """Clip and add up one user's gradient; after the last, add noise and step."""
        self.optimizer.signal_skip_step(do_skip=not last)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The optimizer's. Not the generators': a run that goes on draws anew, which is as private."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave, after the weights were put back."""
        self.optimizer.load_state_dict(state["optimizer"])
