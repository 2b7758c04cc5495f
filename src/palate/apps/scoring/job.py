"""What a scoring run is asked to do, how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Place = str | Path
"""A path, or where fsspec is meant a URL such as s3://bucket/candidates/."""


@dataclass(frozen=True)
class Job:
    """One run: which tables, to where, how.

    source: a file, folder, glob or URL, or several. output: a file by its extension, else a folder. mode: one, several
    or the default. top_k: only the best so many of each request, best first; None: every candidate in its place.
    rejects: None stands for OUTPUT.rejects.jsonl. resume: go on where an unfinished run stopped; restart: throw its
    work away. work: the folder for unfinished work, by default OUTPUT.parts.
    """

    source: Place | Sequence[Place]
    output: Place
    mode: str | Sequence[str] | None = None
    new_items: Path | None = None
    rejects: Place | None = None
    max_rejects: int = 0
    top_k: int | None = None
    resume: bool = False
    restart: bool = False
    work: Path | None = None

    @property
    def sources(self) -> list[Place]:
        return [self.source] if isinstance(self.source, str | Path) else list(self.source)

    @property
    def modes(self) -> list[str | None]:
        return [self.mode] if self.mode is None or isinstance(self.mode, str) else list(self.mode)


@dataclass
class Progress:
    """How far a run is. rows: candidates scored; read: rows read; share: of the input read, 0..1."""

    requests: int = 0
    rows: int = 0
    read: int = 0
    rejected: int = 0
    tokens: int = 0
    share: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Rows scored a second."""
        return self.rows / self.seconds if self.seconds else 0.0


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Summary:
    """What a run did. rows, requests, rejected, tokens: of the whole output; resumed_rows: those an earlier run scored.

    seconds and rows_per_second: this run's. tokens: positions the model ran; prefix_hits: share of prompt positions it
    did not have to. finished: False for one of several processes that was not the last.
    """

    input: str
    output: str
    requests: int
    rows: int
    rejected: int
    rejects_file: str | None
    new_items: int
    mode: str
    seconds: float
    rows_per_second: float
    tokens: int
    prefix_hits: float
    resumed_rows: int = 0
    parts: int = 0
    finished: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
