"""Packs: the token budget, order, sharding and data positions; and the learning rate."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import BudgetError
from palate.schema import Ints, Prompt, Slot
from palate.train.collate import Position, Prefetch, Stream, collate, packs_per_epoch
from palate.train.schedule import FLOOR, rate
from palate.train.task import IGNORE, Example

NAMES = ("embedding", "letters")


def example(task: str, length: int, mark: int = 0) -> Example:
    """`length` tokens; the first holds `mark`, so that a pack tells which examples it holds."""
    ids = np.full(length, 7, dtype=np.int64)
    ids[0] = mark
    labels = np.full(length, IGNORE, dtype=np.int64)
    if task == "embedding":
        ends = tuple(range(1, length))
        targets = np.arange(length, dtype=np.int64)
        slots = (Slot(length - 1, 1, "behaviour", str(mark)),)
        return Example(task, Prompt(ids, slots, ("x",) * len(ends), ends), labels, targets, targets + 100)
    labels[-2] = 5
    return Example(task, Prompt(ids), labels, np.array([-1]), np.array([-1]))


@dataclass
class Fake:
    """A source of examples with given lengths; number n is marked 1000 x epoch + n. None where a length is
    0.
    """

    lengths: list[int]
    names: tuple[str, ...] = NAMES
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [(len(self.lengths) + 1) // 2, len(self.lengths) // 2]

    @property
    def size(self) -> int:
        return len(self.lengths)

    def order(self, epoch: int) -> Ints:
        numbers = np.arange(self.size, dtype=np.int64)
        return np.column_stack([numbers % 2, numbers])

    def example(self, epoch: int, place: int) -> Example | None:
        length = self.lengths[place]
        return example(NAMES[place % 2], length, 1000 * epoch + place) if length else None


def marks(stream: Stream, packs: int) -> list[list[int]]:
    """The examples in each of the next packs."""
    found = []
    for _ in range(packs):
        batch = stream.next()
        found.append([int(batch.pack.token_ids[s.start]) for s in batch.pack.segments])
    return found


LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)


@settings(deadline=None)
@given(LENGTHS, st.integers(40, 200))
def test_packs_keep_the_budget_and_hold_every_example_in_order(lengths: list[int], budget: int) -> None:
    stream = Stream(Fake(lengths), budget, Position())
    seen: list[int] = []
    sizes = []
    while len(seen) < 2 * len(lengths):
        batch = stream.next()
        assert len(batch.pack) <= budget
        sizes.append([s.prefix for s in batch.pack.segments])
        seen += [int(batch.pack.token_ids[s.start]) for s in batch.pack.segments]
    whole = [1000 * e + n for e in range(100) for n in range(len(lengths))]
    assert seen == whole[: len(seen)]
    for this, following in pairwise(sizes):
        assert sum(this) + following[0] > budget  # next fit: no pack closes early


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(40, 120))
def test_processes_share_every_epoch_without_overlap(lengths: list[int], world: int, budget: int) -> None:
    shares = []
    for rank in range(min(world, len(lengths))):
        stream = Stream(Fake(lengths), budget, Position(), rank, world)
        own: list[int] = []
        while not own or max(own) < 1000:  # until the second epoch has begun
            own += marks(stream, 1)[0]
        shares.append([m for m in own if m < 1000])
    everything = Counter(m for share in shares for m in share)
    assert everything == Counter(range(len(lengths)))
    for rank, share in enumerate(shares):
        assert all(m % world == rank for m in share)


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 12), st.integers(1, 3))
def test_a_stream_opened_at_a_position_goes_on_from_it(lengths: list[int], packs: int, world: int) -> None:
    rank = min(world, len(lengths)) - 1
    one = Stream(Fake(lengths), 60, Position(), rank, world)
    position = Position()
    for _ in range(packs):
        position = one.next().after
    two = Stream(Fake(lengths), 60, position, rank, world)
    assert marks(one, 5) == marks(two, 5)


def test_prefetching_changes_nothing_and_passes_errors_on() -> None:
    lengths = [5, 9, 3, 30, 2, 17]
    plain, ahead = Stream(Fake(lengths), 40, Position()), Prefetch(Stream(Fake(lengths), 40, Position()).next)
    for _ in range(20):
        a, b = plain.next(), ahead.next()
        assert np.array_equal(a.pack.token_ids, b.pack.token_ids)
        assert a.after == b.after
    ahead.close()
    broken = Prefetch(Stream(Fake([50, 5]), 40, Position()).next)
    with pytest.raises(BudgetError, match=r"takes 50 tokens, a pack holds 40; raise train\.batch_tokens"):
        broken.next()
    broken.close()


def test_examples_with_nothing_to_learn_are_passed_over() -> None:
    assert marks(Stream(Fake([0, 8, 0, 8]), 16, Position()), 2) == [[1, 3], [1001, 1003]]
    with pytest.raises(BudgetError, match="no task found anything to learn from"):
        Stream(Fake([0, 0]), 16, Position()).next()


def test_collate_moves_reads_and_labels_to_their_places_in_the_pack() -> None:
    batch = collate([example("letters", 6), example("embedding", 3, 9)], NAMES, Position(1, 2))
    assert batch.pack.positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert (batch.answers.tolist(), batch.labels.tolist(), batch.answer_tasks.tolist()) == ([4], [5], [1])
    assert (batch.reads.tolist(), batch.targets.tolist()) == ([6, 7, 8], [0, 1, 2])
    assert batch.events.tolist() == [100, 101, 102]
    assert batch.counts.tolist() == [3, 1]
    assert [(s.start, s.item_id) for s in batch.pack.slots] == [(8, "9")]
    assert batch.after == Position(1, 2)
    only = collate([example("letters", 6)], ("letters",), Position())
    assert only.embedding == -1
    assert only.counts.tolist() == [1]


@settings(deadline=None)
@given(st.lists(st.integers(2, 40), min_size=40, max_size=90), st.integers(200, 400))
def test_the_length_of_an_epoch_is_estimated_well(lengths: list[int], budget: int) -> None:
    stream = Stream(Fake(lengths), budget, Position())
    packs = 0
    while stream.position.epoch < 4:
        stream.next()
        packs += 1
    assert packs_per_epoch(Fake(lengths), budget) == pytest.approx(packs / 4, abs=1 + packs / 40)


@given(st.integers(1, 2000), st.floats(0, 0.9))
def test_rate_rises_to_the_peak_and_falls_to_a_tenth(total: int, warmup: float) -> None:
    curve = [rate(step, total, warmup) for step in range(total)]
    warm = round(warmup * total)
    assert all(0 < r <= 1 for r in curve)
    assert all(a < b for a, b in pairwise(curve[:warm]))
    assert all(a >= b for a, b in pairwise(curve[warm:]))
    assert max(curve) == pytest.approx(1)
    if total - warm > 1:
        assert curve[-1] == pytest.approx(FLOOR)
