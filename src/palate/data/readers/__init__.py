"""Readers [plug-in]: one file a layout. A reader says where the tables are and what their columns mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from palate.data.knowledge import KnowledgeSources
from palate.data.rejects import Reject
from palate.data.spec import DatasetSpec
from palate.data.tables import TableSource


@dataclass(frozen=True)
class Layout:
    """What a reader found. spec: column names as the sources give them (its `path`s are not used).

    interactions: None where the layout is a catalogue alone. media_folder: the folder that media paths of the item
    table are relative to; None where it has none. knowledge: the tables of `spec.knowledge`. left_out: files of the
    layout that are in none of its tables.
    """

    spec: DatasetSpec
    items: TableSource
    interactions: TableSource | None
    users: TableSource | None = None
    media_folder: Path | None = None
    knowledge: KnowledgeSources | None = None
    left_out: Sequence[Reject] = ()


class Reader(ABC):
    """One layout of data on disk. Reading streams: `read` opens nothing but headers, or lists the files that are
    the rows.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    """The files it looks for, in one line."""
    language: str = "en"
    """The language wanted, where a layout has its texts in several."""

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether the folder is laid out this way. At most one reader says yes to a folder."""

    @abstractmethod
    def read(self, path: Path) -> Layout:
        """The tables of the folder. DataError where one is missing."""
