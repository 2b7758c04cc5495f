"""Host work one step ahead: the next pack is laid while the device runs this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_END = object()


@contextmanager
def ahead(items: Iterable[T], threaded: bool) -> Iterator[Iterator[T]]:
    """Iterate with the next item already in the making, in one thread of its own.

    Errors come out where the item would have. The thread has stopped when the block is left. threaded=False
    iterates as usual: where host and device are the same cores there is nothing to gain.
    """
    source = iter(items)
    if not threaded:
        yield source
        return
    with ThreadPoolExecutor(1, thread_name_prefix="palate-ahead") as pool:
        yield _drawn(source, pool)


def _drawn(source: Iterator[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    coming: Future[object] = pool.submit(next, source, _END)
    while (item := coming.result()) is not _END:
        coming = pool.submit(next, source, _END)
        yield item  # type: ignore[misc]  # _END is sorted out above
