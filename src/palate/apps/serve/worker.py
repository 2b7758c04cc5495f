"""The owner of the model: one thread that takes waiting jobs of one kind together and runs them as one batch.

It need not be a thread of its own. On a CPU the main thread is the one to use (`work`): the same forward took twice as
long on another, measured on two cores (docs/notes/2026-11-25-serving.md): malloc gives memory back to the system
sooner there, and OpenMP keeps a second pool whose threads sleep instead of spinning.

Continuous micro-batching: nothing waits for a clock while the model is idle. What arrives while a batch runs is the
next batch. Clients that answer at once come back together, a moment after the batch that served them, so after a batch
with company the next one lingers that moment instead of starting with the first to return.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from palate.apps.serve.problems import Closing, Late, Overloaded

WAKE = 0.25
"""Seconds after which an idle worker looks around."""


@dataclass(frozen=True)
class Work:
    """One kind of job. key: jobs of equal keys may run together, at most `most` of them.

    run: payloads -> a result or an exception for each, in order.
    """

    key: Hashable
    run: Callable[[Sequence[Any]], Sequence[Any]]
    name: str
    most: int = 1 << 30


@dataclass(slots=True)
class Job:
    """One payload on its way. cost: in candidates; deadline: a time of `time.monotonic`."""

    work: Work
    payload: Any
    cost: int
    deadline: float
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class Batch:
    """What was run: for the metrics."""

    name: str
    jobs: int
    seconds: float


class Worker:
    """A bounded queue and the thread behind it: that which calls `work`, or a new one (`start`).

    limit: jobs that may wait; most, cost: jobs and candidates in one batch; linger: see above, seconds. observe: called
    with every batch, on the worker's thread.
    """

    def __init__(
        self, limit: int, most: int, cost: int, linger: float, observe: Callable[[Batch], None] = lambda batch: None
    ) -> None:
        self.limit, self.most, self.cost, self.linger, self.observe = limit, most, cost, linger, observe
        self._waiting: deque[Job] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._company = 1
        self._seconds = 0.05
        self._done = threading.Event()

    def start(self) -> None:
        """Work on a new thread."""
        threading.Thread(target=self.work, name="palate-worker", daemon=True).start()

    def work(self) -> None:
        """Run jobs on this thread until `stop`."""
        try:
            while jobs := self._take():
                start = time.monotonic()
                self._run(jobs)
                took = time.monotonic() - start
                self._company = len(jobs)
                self._seconds += 0.2 * (took - self._seconds)
                self.observe(Batch(jobs[0].work.name, len(jobs), took))
        finally:
            self._done.set()

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    def submit(self, work: Work, payload: Any, cost: int = 1, timeout: float = 30.0) -> Future[Any]:
        """Queue a job; its future gives the result, raises what the job raised, or Late past the timeout.

        A future that is cancelled before its job begins takes the job out. Raises Overloaded where the queue is full,
        Closing after `stop`.
        """
        job = Job(work, payload, cost, time.monotonic() + timeout)
        with self._change:
            self._admit()
            self._waiting.append(job)
            self._change.notify()
        return job.future

    def check(self) -> None:
        """Raise what `submit` would raise now: before anything is written down for a job that would be refused."""
        with self._change:
            self._admit()

    def _admit(self) -> None:
        if self._closing:
            raise Closing("the server is stopping; ask again in a moment")
        if len(self._waiting) >= self.limit:
            self._waiting = deque(j for j in self._waiting if not _gone(j))
        if len(self._waiting) >= self.limit:
            raise Overloaded(self._patience())

    def stop(self, timeout: float) -> bool:
        """Take no more jobs and finish those that wait; what is left after the timeout gets Closing.

        Returns whether all were finished. May be called twice.
        """
        with self._change:
            self._closing = True
            self._change.notify()
        done = self._done.wait(timeout)
        with self._change:
            for job in self._waiting:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(Closing("the server stopped before this was begun"))
            self._waiting.clear()
        return done

    # --- the thread ---------------------------------------------------------------------------------

    def _take(self) -> list[Job]:
        """The oldest job and all that may join it; [] when closing and nothing is left."""
        with self._change:
            while True:
                while not self._waiting and not self._closing:
                    # a signal that comes just before the wait is only handled once this thread runs again
                    self._change.wait(WAKE)
                if self._company > 1 and self.linger and not self._closing:
                    self._change.wait_for(lambda: len(self._waiting) >= self._company, self.linger)
                if jobs := self._pick():
                    return jobs
                if self._closing and not self._waiting:
                    return []

    def _pick(self) -> list[Job]:
        """Take the next batch out of the queue, expired and cancelled jobs out of the way."""
        jobs: list[Job] = []
        left: deque[Job] = deque()
        cost = 0
        for job in self._waiting:
            if jobs and (
                job.work.key != jobs[0].work.key
                or len(jobs) >= min(self.most, job.work.most)
                or cost + job.cost > self.cost
            ):
                left.append(job)
            elif job.future.set_running_or_notify_cancel():
                if time.monotonic() > job.deadline:
                    job.future.set_exception(Late("the request waited longer than its timeout for the model"))
                    continue
                jobs.append(job)
                cost += job.cost
        self._waiting = left
        return jobs

    def _run(self, jobs: Sequence[Job]) -> None:
        """Run a batch; where it fails as a whole, each job by itself, so that one costs no other its answer."""
        try:
            results = jobs[0].work.run([job.payload for job in jobs])
        except BaseException as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._run([job])
                return
            results = [error]
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    def _patience(self) -> float:
        """Seconds until a place in the queue is likely, from how long batches took of late."""
        return max(1.0, self._seconds * self.limit / max(1, self._company))


def _gone(job: Job) -> bool:
    """Whether nobody waits for a job any more: cancelled, or past its deadline (it is told so then)."""
    if time.monotonic() > job.deadline and job.future.set_running_or_notify_cancel():
        job.future.set_exception(Late("the request waited longer than its timeout for the model"))
        return True
    return job.future.cancelled()
