"""A Ray cluster to run on, or a Ray of one's own, that keeps its talk to itself."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, TextIO

from palate.errors import ConfigError

STORE = 256 << 20
"""Bytes of memory that a Ray started here keeps chunks in."""
CORES = 4
"""CPU cores of a worker where there are no GPUs and nobody says how many workers to start."""
STARTS = 3
"""Times a Ray is started before that is given up: it waits half a minute for itself, too short on a busy machine."""


@dataclass(frozen=True)
class Needs:
    """How many workers, and what each takes of the cluster."""

    workers: int
    cpus: float
    gpus: float

    @classmethod
    def of(cls, workers: int | None, cpus: float, gpus: float) -> Needs:
        if gpus:
            workers = workers or int(gpus)
            return cls(workers, 1, 1 if workers <= gpus else gpus / workers)
        workers = workers or max(1, int(cpus) // CORES)
        return cls(workers, cpus // workers if cpus >= workers else cpus / workers, 0)


@contextmanager
def cluster(workers: int | None) -> Iterator[Needs]:
    """A quiet Ray, ended again if it was started here."""
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(name, value)
    import ray

    began = not ray.is_initialized()
    with redirect_stdout(Aside(sys.stdout)), _quiet():
        if began:
            _start()
        try:
            has = ray.cluster_resources()
            yield Needs.of(workers, has.get("CPU", 1), has.get("GPU", 0))
        finally:
            if began:
                ray.shutdown()


def _start() -> None:
    """Go to the cluster of RAY_ADDRESS, or start a Ray here. Raises ConfigError where that cannot be done."""
    import ray

    here = "RAY_ADDRESS" not in os.environ
    own: dict[str, Any] = {"object_store_memory": STORE, "include_dashboard": False} if here else {}
    for attempt in range(1, STARTS + 1):
        try:
            with _silent():
                ray.init(log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, **own)
            return
        except Exception as error:  # Ray raises a bare Exception
            ray.shutdown()
            if attempt == STARTS or not here:
                raise ConfigError(f"Ray cannot be {'started' if here else 'reached'}: {error}") from error


class Aside(io.TextIOBase):
    """Standard output without what Ray writes there of its processes: it is no part of an answer."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.skips = out, False

    def write(self, text: str) -> int:
        ray = "(raylet)" in text
        if not ray and not (self.skips and text == "\n"):
            self.out.write(text)
        self.skips = ray and not text.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self.out.flush()


@contextmanager
def _silent() -> Iterator[None]:
    """Standard error closed to Ray's core, which cannot be told to say nothing; what is wrong it raises, too."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's notes on its own progress and its deprecated options out of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import ray.data  # noqa: F401 - it sets its loggers up

    loggers = [logging.getLogger(n) for n in ("ray", "ray.data")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@contextmanager
def by_row() -> Iterator[None]:
    """Ray Data told to keep to itself and to make a block of every row: a chunk is the unit of work and of loss."""
    from ray.data import DataContext

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray sets options that it has deprecated
        context = DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, "target_max_block_size": 1}
    before = {name: getattr(context, name) for name in wanted}
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
