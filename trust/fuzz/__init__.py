"""Fuzz targets [plug-in]: one file a door that strangers' bytes come in by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import Any, ClassVar


class SilentChange(Exception):
    """An input was taken, and something else than it came out."""


class Target(ABC):
    """One door. Inputs follow from a seed and a number alone, so each can be made again.

    name: of `--only`; about: what is generated; share: of the asked number of inputs, for a door that is slow to open.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    share: ClassVar[float] = 1.0

    def setup(self, folder: Path) -> None:
        """Make what inputs are thrown at, in an empty folder; once a process."""
        self.folder = folder

    @abstractmethod
    def make(self, rng: Random) -> Any:
        """One input."""

    @abstractmethod
    def judge(self, case: Any) -> None:
        """Throw an input at the door. Returning is "accepted".

        Raises PalateError, whose text says what is wrong, where it is refused; SilentChange where it comes back as
        something else; any other error is a crash.
        """

    def show(self, case: Any) -> str:
        """An input for people, cut short."""
        return repr(case)[:300]
