"""How far a scoring run is: a bar on a terminal, a line now and then elsewhere, both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from palate.apps.scoring.job import OnProgress, Progress
from palate.apps.scoring.share import Share

EVERY = 30.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def watch(share: Share) -> Iterator[OnProgress | None]:
    """What to call with each progress; only the first of several processes tells."""
    if share.rank:
        yield None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines()


def rates(done: Progress) -> str:
    return f"{done.rows:,} candidates, {done.rate:,.0f} rows/s, {done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s"


@contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("scoring"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[rates]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, rates="")
        yield lambda done: bar.update(task, completed=done.share, rates=rates(done))


def _lines() -> OnProgress:
    told = time.monotonic()

    def show(done: Progress) -> None:
        nonlocal told
        if time.monotonic() - told < EVERY:
            return
        told = time.monotonic()
        left = timedelta(seconds=round(done.seconds * (1 / done.share - 1))) if done.share else "?"
        print(f"palate: {done.share:.1%}, {rates(done)}, {left} left", file=sys.stderr, flush=True)  # noqa: T201

    return show
