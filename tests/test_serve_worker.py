"""The worker: what runs together, what waits, what is refused; and that nobody gets another's answer."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.apps.serve.problems import Closing, Late, Overloaded
from palate.apps.serve.worker import Batch, Work, Worker
from palate.errors import RequestError


class Gate:
    """A work that holds the worker until it is opened."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.work = Work("gate", self._run, "gate")

    def _run(self, payloads: Sequence[Any]) -> list[Any]:
        self.entered.set()
        assert self.open.wait(30)
        return list(payloads)


def echo(seen: list[list[Any]], key: str = "echo", most: int = 1 << 30) -> Work:
    """A work that gives its payloads back and notes its batches."""

    def run(payloads: Sequence[Any]) -> list[Any]:
        seen.append(list(payloads))
        return list(payloads)

    return Work(key, run, key, most)


@pytest.fixture
def batches() -> list[Batch]:
    return []


@pytest.fixture
def worker(batches: list[Batch]) -> Iterator[Worker]:
    made = Worker(limit=8, most=4, cost=100, linger=0.0, observe=batches.append)
    made.start()
    yield made
    made.stop(10)


def held(worker: Worker) -> Gate:
    """A worker that is busy until the gate opens."""
    gate = Gate()
    worker.submit(gate.work, None)
    assert gate.entered.wait(30)
    return gate


def test_what_arrives_while_the_model_is_busy_is_one_batch(worker: Worker, batches: list[Batch]) -> None:
    gate, seen = held(worker), list[list[Any]]()
    work = echo(seen)
    futures = [worker.submit(work, n) for n in range(4)]
    gate.open.set()
    assert [f.result(30) for f in futures] == [0, 1, 2, 3]
    assert seen == [[0, 1, 2, 3]]
    assert worker.stop(10)
    assert [(b.name, b.jobs) for b in batches] == [("gate", 1), ("echo", 4)]


def test_a_batch_is_bounded_in_jobs_and_in_candidates(worker: Worker) -> None:
    gate, seen = held(worker), list[list[Any]]()
    work = echo(seen)
    futures = [worker.submit(work, n, cost=60 if n == 1 else 30) for n in range(6)]
    gate.open.set()
    assert [f.result(30) for f in futures] == list(range(6))
    assert sorted(n for batch in seen for n in batch) == list(range(6))
    assert all(len(batch) <= 4 and sum(60 if n == 1 else 30 for n in batch) <= 100 for batch in seen)
    assert seen[0][0] == 0


def test_kinds_do_not_mix_and_the_oldest_goes_first(worker: Worker) -> None:
    gate, seen = held(worker), list[list[Any]]()
    a, b = echo(seen, "a"), echo(seen, "b")
    futures = [worker.submit(work, n) for n, work in enumerate([a, b, a, b, a])]
    gate.open.set()
    wait(futures, 30)
    assert seen == [[0, 2, 4], [1, 3]]


def test_a_work_may_refuse_company(worker: Worker) -> None:
    gate, seen = held(worker), list[list[Any]]()
    work = echo(seen, most=1)
    wait([worker.submit(work, n) for n in range(3)] if gate.open.set() is None else [], 30)
    assert seen == [[0], [1], [2]]


def test_a_full_queue_refuses_with_a_time(worker: Worker) -> None:
    gate = held(worker)
    work = echo([])
    futures = [worker.submit(work, n) for n in range(8)]
    with pytest.raises(Overloaded, match=r"too many requests are waiting; try again in \d+ s") as refused:
        worker.submit(work, 8)
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert worker.waiting == 8
    gate.open.set()
    assert [f.result(30) for f in futures] == list(range(8))
    assert worker.submit(work, 9).result(30) == 9


def test_who_has_left_makes_room(worker: Worker) -> None:
    gate, seen = held(worker), list[list[Any]]()
    work = echo(seen)
    futures = [worker.submit(work, n) for n in range(8)]
    assert futures[3].cancel()
    assert futures[5].cancel()
    more = [worker.submit(work, n) for n in (8, 9)]
    gate.open.set()
    kept = [f for f in futures if not f.cancelled()] + more
    assert [f.result(30) for f in kept] == [0, 1, 2, 4, 6, 7, 8, 9]
    assert {n for batch in seen for n in batch} == {0, 1, 2, 4, 6, 7, 8, 9}
    with pytest.raises(CancelledError):
        futures[3].result(0)


def test_who_waits_too_long_is_told(worker: Worker) -> None:
    gate, seen = held(worker), list[list[Any]]()
    late = worker.submit(echo(seen), "late", timeout=0.01)
    time.sleep(0.05)
    gate.open.set()
    with pytest.raises(Late, match="waited longer than its timeout"):
        late.result(30)
    assert seen == []


def test_expired_jobs_do_not_fill_the_queue(worker: Worker) -> None:
    gate = held(worker)
    work = echo([])
    futures = [worker.submit(work, n, timeout=0.01) for n in range(8)]
    time.sleep(0.05)
    assert worker.submit(work, 8).cancel()
    with pytest.raises(Late, match="waited longer"):
        futures[0].result(0)
    gate.open.set()


def test_one_bad_job_costs_no_other_its_answer(worker: Worker) -> None:
    gate = held(worker)

    def run(payloads: Sequence[Any]) -> list[Any]:
        if "bad" in payloads:
            raise ValueError("whole batch")
        return [RequestError("mine alone") if p == "mine" else p for p in payloads]

    work = Work("picky", run, "picky")
    futures = {p: worker.submit(work, p) for p in ("a", "bad", "mine", "b")}
    gate.open.set()
    assert futures["a"].result(30) == "a"
    assert futures["b"].result(30) == "b"
    with pytest.raises(ValueError, match="whole batch"):
        futures["bad"].result(30)
    with pytest.raises(RequestError, match="mine alone"):
        futures["mine"].result(30)
    assert worker.submit(work, "after").result(30) == "after"


def test_stopping_finishes_what_waits_and_takes_no_more() -> None:
    worker = Worker(8, 4, 100, 0.0)
    worker.start()
    gate, seen = held(worker), list[list[Any]]()
    futures = [worker.submit(echo(seen), n) for n in range(3)]
    threading.Timer(0.1, gate.open.set).start()
    assert worker.stop(30)
    assert [f.result(0) for f in futures] == [0, 1, 2]
    with pytest.raises(Closing, match="the server is stopping"):
        worker.submit(echo(seen), 3)


def test_stopping_in_a_hurry_tells_those_who_wait() -> None:
    worker = Worker(8, 4, 100, 0.0)
    worker.start()
    gate = held(worker)
    future = worker.submit(echo([]), 0)
    assert not worker.stop(0.05)
    with pytest.raises(Closing, match="before this was begun"):
        future.result(0)
    gate.open.set()


def test_after_company_a_batch_waits_a_moment_for_more() -> None:
    worker = Worker(8, 4, 100, linger=5.0)
    worker.start()
    gate, seen = held(worker), list[list[Any]]()
    work = echo(seen)
    futures = [worker.submit(work, n) for n in range(2)]
    gate.open.set()
    wait(futures, 30)
    first = worker.submit(work, 2)
    time.sleep(0.1)
    assert not first.done()
    began = time.monotonic()
    assert worker.submit(work, 3).result(30) == 3
    assert first.result(30) == 2
    assert time.monotonic() - began < 4, "as many as last time are enough"
    assert seen == [[0, 1], [2, 3]]
    worker.stop(10)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 90), st.booleans(), st.booleans()), min_size=1, max_size=40
    )
)
def test_everyone_gets_their_own_answer(jobs: list[tuple[str, int, bool, bool]]) -> None:
    worker = Worker(limit=100, most=5, cost=120, linger=0.0005)
    worker.start()
    batches: list[list[tuple[str, int]]] = []

    def works(key: str) -> Work:
        def run(payloads: Sequence[tuple[str, int, bool]]) -> list[Any]:
            batches.append([(key, cost) for _, cost, _ in payloads])
            return [
                RequestError(str(n)) if bad else (key, n) for n, (_, _, bad) in zip(payloads, payloads, strict=True)
            ]

        return Work(key, run, key)

    kinds = {key: works(key) for key in "abc"}
    futures = []
    for key, cost, bad, cancel in jobs:
        future = worker.submit(kinds[key], (key, cost, bad), cost)
        futures.append((key, cost, bad, future, cancel and future.cancel()))
    assert worker.stop(30)
    for key, cost, bad, future, cancelled in futures:
        if cancelled:
            assert future.cancelled()
        elif bad:
            with pytest.raises(RequestError, match=re.escape(str((key, cost, bad)))):
                future.result(0)
        else:
            assert future.result(0) == (key, (key, cost, bad))
    for batch in batches:
        assert len({key for key, _ in batch}) == 1
        assert len(batch) <= 5
        assert len(batch) == 1 or sum(cost for _, cost in batch) <= 120
