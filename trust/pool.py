"""Inputs thrown in processes that may die: what hangs or is killed costs one input, is counted, and the rest goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from palate.errors import PalateError
from trust.fuzz import SilentChange, Target

HANG = 5.0
"""Seconds of processor time that one input may take."""
WALL = 30.0
"""Seconds by the clock: for what waits without working, and for C code that no signal interrupts."""
MEMORY = 3 << 30
"""Bytes of address space beyond those after setup."""
KINDS = ("accepted", "refused", "crash", "hang", "silent")
KEPT = 200
"""Findings kept a target; all are counted."""


class _Hang(BaseException):
    """Too long: not an Exception, so that nothing swallows it."""


@dataclass
class Finding:
    """An input that broke a promise. kind: crash, hang or silent; case: its number; told: of the error."""

    kind: str
    case: int
    told: str
    shown: str


@dataclass
class Tally:
    """What came of a target's inputs. slowest: seconds of processor time; peak: bytes of memory beyond those at the
    start, the largest of its processes."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    peak: int = 0
    seconds: float = 0.0

    def add(self, kind: str, finding: Finding | None = None) -> None:
        self.counts[kind] += 1
        if finding is not None and len(self.findings) < KEPT:
            self.findings.append(finding)

    def merge(self, other: Tally) -> None:
        self.counts += other.counts
        self.findings = (self.findings + other.findings)[:KEPT]
        self.refusals += other.refusals
        self.slowest, self.peak = max(self.slowest, other.slowest), max(self.peak, other.peak)

    @property
    def broken(self) -> int:
        return sum(self.counts[k] for k in ("crash", "hang", "silent"))


def made_of(target: Target, seed: int, case: int) -> Any:
    """One input, from names and numbers alone. What a writer of the generator's refuses to write is made anew."""
    for again in range(100):
        try:
            return target.make(Random(f"{seed}:{target.name}:{case}:{again}"))
        except Exception as error:
            trouble = error
    raise RuntimeError(f"{target.name}: no input {case} can be made: {trouble!r}")


def one(target: Target, seed: int, case: int, tally: Tally) -> None:
    """Make an input, throw it, count what came of it."""
    made = made_of(target, seed, case)
    began = time.process_time()
    try:
        with _limited():
            target.judge(made)
        tally.add("accepted")
    except PalateError as error:
        told = str(error)
        if len(told.split()) < 3:
            tally.add(
                "crash", Finding("crash", case, f"refused without saying what is wrong: {told!r}", target.show(made))
            )
        else:
            tally.add("refused")
            if len(tally.refusals) < 2000:
                tally.refusals[_form(told)] += 1
    except SilentChange as error:
        tally.add("silent", Finding("silent", case, str(error)[:400], target.show(made)))
    except _Hang:
        tally.add("hang", Finding("hang", case, f"over {HANG:g} s: {_place()}", target.show(made)))
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)
        steps = [f"{Path(s.filename).name}:{s.lineno}" for s in where if "/trust/" not in s.filename][-4:]
        told = f"{type(error).__name__}: {str(error)[:200]} [{' < '.join(reversed(steps))}]"
        tally.add("crash", Finding("crash", case, told, target.show(made)))
    tally.slowest = max(tally.slowest, time.process_time() - began)


_LAST: list[str] = []


def _place() -> str:
    return " < ".join(_LAST)


def _form(told: str) -> str:
    """A refusal without its particulars: its first words."""
    return " ".join("".join(c if c.isalpha() or c == " " else " " for c in told).split()[-12:])[:80]


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def over(number: int, frame: Any) -> None:
        _LAST[:] = [f"{Path(f.filename).name}:{f.lineno}" for f in reversed(traceback.extract_stack(frame)[-4:])]
        raise _Hang

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def inline(target: Target, seed: int, cases: Sequence[int]) -> Tally:
    """All in this process: for tests, and to see a traceback."""
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="palate-trust-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.setup(Path(folder))
        for case in cases:
            one(target, seed, case, tally)
    tally.seconds = time.monotonic() - began
    return tally


# --- processes --------------------------------------------------------------------------------------


def _work(cls: type[Target], seed: int, cases: Sequence[int], folder: Path, at: Any, pipe: Connection) -> None:
    """A worker: tells where it is in `at` (case, when), and in the end its tally."""
    warnings.simplefilter("ignore")
    sink = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(sink, 2)  # decoders that talk
    os.dup2(sink, 1)
    target = cls()
    target.setup(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = Tally()
    for case in cases:
        at[0], at[1] = float(case), time.monotonic()
        one(target, seed, case, tally)
        if len(tally.findings) or not case % 64:
            tally.peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
            pipe.send((case, tally))
            tally = Tally()
    tally.peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
    pipe.send((None, tally))
    os._exit(0)  # what libraries do at the end is not of interest


@dataclass
class _Lane:
    """One worker and what is left for it. told: the last case it has reported."""

    cases: list[int]
    process: BaseProcess
    pipe: Connection
    at: Any
    folder: Path
    began: float


class Pool:
    """Targets on so many processes at a time."""

    def __init__(self, seed: int, processes: int) -> None:
        self.seed, self.processes = seed, processes
        self.context = multiprocessing.get_context("fork")

    def run(self, cls: type[Target], cases: Sequence[int]) -> Tally:
        """Throw the inputs of these numbers at a target."""
        tally, began = Tally(), time.monotonic()
        lanes = [self._lane(cls, list(cases[n :: self.processes])) for n in range(self.processes)]
        lanes = [lane for lane in lanes if lane.cases]
        while lanes:
            wait([lane.pipe for lane in lanes], timeout=1.0)
            for lane in list(lanes):
                if self._step(cls, lane, tally):
                    lanes.remove(lane)
        tally.seconds = time.monotonic() - began
        return tally

    def _lane(self, cls: type[Target], cases: list[int]) -> _Lane:
        folder = Path(tempfile.mkdtemp(prefix="palate-trust-"))
        mine, theirs = self.context.Pipe(duplex=False)
        at = self.context.Array("d", [-1.0, 0.0], lock=False)
        process = self.context.Process(target=_work, args=(cls, self.seed, cases, folder, at, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Lane(cases, process, mine, at, folder, time.monotonic())

    def _step(self, cls: type[Target], lane: _Lane, tally: Tally) -> bool:
        """Take what a worker says; True when it has done all. A dead or stuck one is replaced."""
        try:
            while lane.pipe.poll():
                case, part = lane.pipe.recv()
                tally.merge(part)
                if case is None:
                    self._end(lane)
                    return True
                lane.cases = lane.cases[lane.cases.index(case) + 1 :]
        except EOFError:
            return self._again(cls, lane, tally, "crash", f"the process died: {self._code(lane)}")
        if lane.at[1] and time.monotonic() - lane.at[1] > WALL and lane.process.is_alive():
            return self._again(cls, lane, tally, "hang", f"over {WALL:g} s by the clock, no signal heard")
        return False

    def _code(self, lane: _Lane) -> str:
        lane.process.join(10)
        code = lane.process.exitcode
        log = (lane.folder / "log").read_text(errors="replace")[-300:] if code and code > 0 else ""
        return f"{signal.Signals(-code).name if code is not None and code < 0 else code} {log}"

    def _again(self, cls: type[Target], lane: _Lane, tally: Tally, kind: str, told: str) -> bool:
        case = int(lane.at[0])
        self._end(lane)
        if case < 0:
            raise RuntimeError(f"{cls.name}: setup failed: {told}")
        tally.add(kind, Finding(kind, case, told, ""))
        # those between the last report and the end were thrown too; they are thrown again, to be counted once
        lane.cases.remove(case)
        if not lane.cases:
            return True
        fresh = self._lane(cls, lane.cases)
        vars(lane).update(vars(fresh))
        return False

    @staticmethod
    def _end(lane: _Lane) -> None:
        lane.process.kill()
        lane.process.join(10)
        lane.pipe.close()
        shutil.rmtree(lane.folder, ignore_errors=True)
