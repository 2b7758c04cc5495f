"""Work done in threads ahead of the consumer, in order, with a bound on what waits."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def default_workers() -> int:
    """Threads for decoding: one per core that this process may use, between 2 and 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(2, min(16, cores))


def prefetch(work: Callable[[A], B], inputs: Iterable[A], workers: int, ahead: int) -> Iterator[B]:
    """Yield `work(x)` for each input in order, computed in `workers` threads, at most `ahead` results
    waiting.

    An exception of `work` is raised where its result would have been yielded.
    """
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="palate-decode") as pool:
        try:
            for value in inputs:
                waiting.append(pool.submit(work, value))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
