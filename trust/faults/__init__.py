"""Faults [plug-in]: one file a thing that goes wrong, with real processes and real signals."""

from __future__ import annotations

import tempfile
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import ClassVar


@dataclass
class Outcome:
    """What came of a fault. skipped: why it could not be tried, else empty; broken: what went wrong, a line each."""

    fault: str
    promise: str
    tried: int = 0
    held: int = 0
    skipped: str = ""
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)


class Cannot(Exception):
    """The fault cannot be tried here; its text says why."""


class Missed(Exception):
    """The fault did not hit this time (the job had ended before it): the try does not count."""


class Fault(ABC):
    """One fault. name: of `--only`; fault: what is done; promise: what must hold; times: how often it is tried."""

    name: ClassVar[str]
    fault: ClassVar[str]
    promise: ClassVar[str]
    times: ClassVar[int] = 10

    def setup(self, folder: Path) -> None:
        """Make what is needed once, in an empty folder. Raises Cannot."""
        self.folder = folder

    @abstractmethod
    def once(self, folder: Path, rng: Random) -> None:
        """Do it once, in an empty folder; an AssertionError says what did not hold. Raises Missed, Cannot."""

    def run(self, seed: int, times: float = 1.0) -> Outcome:
        """Try it, as often as `times` says, times its usual number; misses are tried again, twice as often at most."""
        import time

        outcome, began = Outcome(self.fault, self.promise), time.monotonic()
        wanted = max(1, round(self.times * times))
        with tempfile.TemporaryDirectory(prefix="palate-trust-") as root:
            try:
                (Path(root) / "setup").mkdir()
                self.setup(Path(root) / "setup")
                for n in range(3 * wanted):
                    if outcome.tried == wanted:
                        break
                    folder = Path(root) / f"try-{n}"
                    folder.mkdir()
                    self._once(folder, Random(f"{seed}:{self.name}:{n}"), outcome)
            except Cannot as why:
                outcome.skipped = str(why)
            finally:
                self.clear()
        outcome.seconds = time.monotonic() - began
        return outcome

    def clear(self) -> None:
        """Undo what setup did outside its folder."""

    def _once(self, folder: Path, rng: Random, outcome: Outcome) -> None:
        try:
            self.once(folder, rng)
        except Missed:
            return
        except Cannot:
            raise
        except Exception as error:
            outcome.tried += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} [{Path(place.filename).name}:{place.lineno}]"
            outcome.broken.append(told[:400])
            return
        outcome.tried += 1
        outcome.held += 1
