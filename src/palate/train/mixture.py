"""The mixture of tasks as one endless, seeded order of examples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from palate.config import TASKS, TasksConfig
from palate.errors import ConfigError, DataError, did_you_mean
from palate.schema import Ints
from palate.train.task import Example, Material, Task
from palate.train.tasks import MAKE


class Mixture:
    """Tasks with a share above zero; `order(epoch)` names every example of an epoch.

    names: task names in use; counts: examples of each in one epoch (share x pool, at least 1).
    A share above 1 runs through a pool more than once, with other cuts and negatives each time.
    """

    def __init__(self, material: Material, shares: TasksConfig, seed: int) -> None:
        self.seed = seed
        self.tasks: list[Task] = []
        self.counts: list[int] = []
        for name in TASKS:
            share = float(getattr(shares, name))
            if not share:
                continue
            task = MAKE[name](material)
            if task.pool:
                self.tasks.append(task)
                self.counts.append(max(1, round(share * task.pool)))
        self.names = tuple(t.name for t in self.tasks)
        if not self.tasks:
            raise DataError(
                "there is nothing to train on: every task has share 0 or finds no user with two or more "
                "train events; raise a share in train.tasks, or add interactions"
            )
        self._order = lru_cache(maxsize=2)(self._draw)

    @property
    def size(self) -> int:
        """Examples in one epoch."""
        return sum(self.counts)

    def weights(self, given: Mapping[str, float]) -> list[float]:
        """Loss weights in task order, 1 where `given` has none. An unknown task is a ConfigError."""
        for name, value in given.items():
            if name not in TASKS:
                raise ConfigError(f"train.task_weights: no task is called {name!r}; {did_you_mean(name, TASKS)}")
            if not value >= 0:
                raise ConfigError(f"train.task_weights.{name}: expected a number from 0, got {value}")
        return [float(given.get(name, 1.0)) for name in self.names]

    def order(self, epoch: int) -> Ints:
        """Task number and pool number of every example of an epoch: int64 [size, 2].

        Tasks are interleaved evenly, so that every stretch of the order holds them in their shares.
        """
        return self._order(epoch)

    def _draw(self, epoch: int) -> Ints:
        rows, keys = [], []
        for number, (task, count) in enumerate(zip(self.tasks, self.counts, strict=True)):
            rng = self._rng(epoch, number)
            rounds = -(-count // task.pool)
            drawn = np.concatenate([rng.permutation(task.pool) for _ in range(rounds)])[:count]
            rows.append(np.column_stack([np.full(count, number, dtype=np.int64), drawn]))
            keys.append((np.arange(count) + rng.random(count)) / count)
        return np.concatenate(rows)[np.argsort(np.concatenate(keys), kind="stable")]

    def example(self, epoch: int, place: int) -> Example | None:
        """Example number `place` of an epoch's order; None where the task found nothing to learn there."""
        number, chosen = map(int, self.order(epoch)[place])
        # `place` enters the seed too: a pool number that comes twice in an epoch is cut anew
        return self.tasks[number].example(chosen, self._rng(epoch, number, chosen, place))

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, *key]))
