"""Token-budget packs out of the mixture's order: no padding, the same packs for the same seed and position.

Process r of W takes the examples r, r + W, ... of each epoch's order and packs its own share: nobody builds
an example that another process will use. Each process draws exactly as many packs as it takes steps, so
none waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from palate.engine.pack import concat
from palate.errors import BudgetError
from palate.schema import Ints, Pack
from palate.train.task import IGNORE, Example

T = TypeVar("T")
AHEAD = 3
"""Steps whose packs are built in the background while one is taken."""
SAMPLE = 96
"""Examples of each task that the length of an epoch is estimated from."""


class Source(Protocol):
    """What packs are drawn from (`Mixture`)."""

    names: tuple[str, ...]
    counts: list[int]

    @property
    def size(self) -> int: ...

    def order(self, epoch: int) -> Ints: ...

    def example(self, epoch: int, place: int) -> Example | None: ...


@dataclass(frozen=True, slots=True)
class Position:
    """Where a process stands in its data: the next example of its share of an epoch."""

    epoch: int = 0
    place: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """One pack and what it is supervised by.

    reads, targets, events: int64 [R], pack positions whose query must find that catalogue index, which is that of
    this train event.
    answers, labels: int64 [A], pack positions that must predict that token; answer_tasks: int64 [A], task
    numbers. choices: task number -> int64 [L], the tokens its labels are told from, where those are few.
    counts: float64 [tasks], supervised targets of each task. embedding: that task's number, or -1.
    after: the data position behind this pack.
    """

    pack: Pack
    reads: Ints
    targets: Ints
    events: Ints
    answers: Ints
    labels: Ints
    answer_tasks: Ints
    counts: np.ndarray
    embedding: int
    after: Position
    choices: Mapping[int, Ints] = field(default_factory=dict)


def collate(examples: Sequence[Example], names: Sequence[str], after: Position) -> Batch:
    """Lay examples side by side in one pack; `names` gives the task numbers."""
    reads, targets, events, answers, labels, tasks, start = [], [], [], [], [], [], 0
    for e in examples:
        wanted = e.targets >= 0
        reads.append(e.reads[wanted] + start)
        targets.append(e.targets[wanted])
        events.append(e.events[wanted])
        where = np.flatnonzero(e.labels != IGNORE)
        answers.append(where + start)
        labels.append(e.labels[where])
        tasks.append(np.full(len(where), list(names).index(e.task), dtype=np.int64))
        start += len(e)
    embedding = list(names).index("embedding") if "embedding" in names else -1
    answer_tasks = np.concatenate(tasks)
    counts = np.bincount(answer_tasks, minlength=len(names)).astype(np.float64)
    if embedding >= 0:
        counts[embedding] += sum(map(len, reads))
    choices = {list(names).index(e.task): np.asarray(e.choices, dtype=np.int64) for e in examples if e.choices}
    return Batch(
        concat([e.prompt for e in examples]), np.concatenate(reads), np.concatenate(targets), np.concatenate(events),
        np.concatenate(answers), np.concatenate(labels), answer_tasks, counts, embedding, after, choices,
    )  # fmt: skip


class Stream:
    """An endless stream of packs of at most `budget` tokens for one of `world` processes.

    A pack takes examples in order until the next does not fit (next fit). Raises BudgetError for one example
    longer than the budget, which nothing could train on.
    """

    def __init__(self, source: Source, budget: int, position: Position, rank: int = 0, world: int = 1) -> None:
        self.source, self.budget, self.position = source, budget, position
        self.rank, self.world = rank, world
        self._waiting: Example | None = None

    def next(self) -> Batch:
        """The next pack; moves `position` behind it."""
        taken: list[Example] = []
        used = 0
        while True:
            example = self._waiting or self._draw()
            self._waiting = None
            if len(example) > self.budget:
                raise BudgetError(
                    f"a training example of task {example.task!r} takes {len(example)} tokens, a pack holds "
                    f"{self.budget}; raise train.batch_tokens, or lower prompt.max_tokens"
                )
            if taken and used + len(example) > self.budget:
                self._waiting = example
                return collate(taken, self.source.names, self.position)
            taken.append(example)
            used += len(example)
            self.position = self._following(self._drawn)

    def _draw(self) -> Example:
        """The first example at or behind `position`; remembers where it was."""
        at, tries = self.position, 0
        while True:
            place = at.place * self.world + self.rank
            if place < self.source.size:
                example = self.source.example(at.epoch, place)
                if example is not None:
                    self._drawn = at
                    return example
            at, tries = self._following(at), tries + 1
            if tries > 2 * self.source.size + 2:
                raise BudgetError("no task found anything to learn from in two epochs; see train.tasks")

    def _following(self, at: Position) -> Position:
        if (at.place + 1) * self.world + self.rank < self.source.size:
            return Position(at.epoch, at.place + 1)
        return Position(at.epoch + 1, 0)


class Prefetch(Generic[T]):
    """Calls `draw` ahead in one background thread, so that tokenisation overlaps compute."""

    def __init__(self, draw: Callable[[], T]) -> None:
        self._draw = draw
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="palate-packs")
        self._ready: deque[Future[T]] = deque(self._worker.submit(draw) for _ in range(AHEAD))

    def next(self) -> T:
        """What comes next; an error raised while building it is raised here."""
        future = self._ready.popleft()
        self._ready.append(self._worker.submit(self._draw))
        return future.result()

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)


def packs_per_epoch(source: Source, budget: int) -> int:
    """How many packs one epoch makes, estimated from up to SAMPLE examples of each task in epoch 0.

    An estimate because building every example only to count tokens would double the work; it depends on the
    seed alone, so every process and every resumed run gets the same number.
    """
    order = source.order(0)
    tokens = longest = 0.0
    for number, count in enumerate(source.counts):
        places = np.flatnonzero(order[:, 0] == number)[:SAMPLE]
        sizes = [len(e) for p in places if (e := source.example(0, int(p))) is not None]
        if sizes:
            tokens += count * float(np.mean(sizes))
            longest = max(longest, float(np.mean(sizes)))
    # a pack closes when the next example does not fit, which costs half an example on average
    room = max(budget - longest / 2, budget / 2)
    return max(1, round(tokens / room))
