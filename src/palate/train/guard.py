"""What guards a run: one at a time in a folder, and a checkpoint before a polite end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palate.errors import ConfigError

ASKS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def locked(run: Path, main: bool) -> Iterator[None]:
    """Hold a run folder, on the main process; ConfigError where another run has it.

    Two runs in one folder would overwrite each other. The lock falls with the process, even a killed one.
    """
    if not main:
        yield
        return
    from filelock import FileLock, Timeout

    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"another training run is using {run}; wait for it, or set train.run or name to another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Stopped(Exception):
    """A signal ended a training, with a checkpoint saved; the same command goes on."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class Interrupt:
    """Inside the context, SIGTERM and SIGINT are only noted in `signal`; a second one has its usual effect.

    Outside the main thread (where Python takes no signals) nothing changes.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._usual: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._usual = {s: signal.getsignal(s) for s in ASKS}
            for s in ASKS:
                signal.signal(s, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def heard(self) -> None:
        """Another process was asked to stop, so this one is too."""
        self.signal = self.signal or int(signal.SIGTERM)

    def _note(self, number: int, frame: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for s, handler in self._usual.items():
            signal.signal(s, handler)
        self._usual = {}
