"""Real processes for faults: forked from this one, so that nothing is imported twice, and killed by real signals."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

LONGEST = 120.0


def start(work: Callable[[], object], log: Path) -> int:
    """Do the work in a forked process; its id. It exits with 0 where the work returns, else 1 and a traceback in log."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        work()
        code = 0
    except BaseException:
        log.open("a").write(traceback.format_exc())
    finally:
        os._exit(code)


def ended(pid: int, log: Path | None = None) -> int:
    """Wait for a process: its exit code, negative for a signal."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"a process hung for {LONGEST:g} s")


def killed(work: Callable[[], object], log: Path, when: Callable[[], bool], after: float = 0.0) -> bool:
    """Start the work and SIGKILL it once `when` says so, `after` seconds later. False where it had ended before."""
    pid = start(work, log)
    while not when():
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, f"failed by itself: {log.read_text()[-300:]}"
            return False
        time.sleep(0.002)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def done(work: Callable[[], object], log: Path) -> None:
    """Do the work in a process to its end; AssertionError with its traceback where it fails."""
    code = ended(start(work, log))
    assert code == 0, f"exit code {code}: {log.read_text()[-300:] if log.exists() else ''}"
