"""The caption cache: content to text in one SQLite file, which is what makes it safe against two processes and
a kill.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from palate.errors import FeatureError

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""
PART = 500
"""Keys asked for in one query; older SQLite takes at most 999."""
TABLE = "CREATE TABLE IF NOT EXISTS texts (key BLOB PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"


class TextStore:
    """Texts by key, where a key stands for a captioner and a medium's content.

    `folder` is made on first write; None finds it under the cache folder. A damaged file is set aside with a
    warning and begun anew: it holds nothing that cannot be made again. Both methods raise FeatureError where
    the file cannot be used at all.
    """

    def __init__(self, folder: str | Path | None = None):
        if folder is None:
            from palate import sources

            folder = sources.cache_dir() / "captions"
        self.path = Path(folder) / "captions.sqlite"

    def read(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The texts of those keys that are stored."""
        return self._run(lambda database: _select(database, keys)) if self.path.is_file() else {}

    def write(self, texts: Mapping[bytes, str]) -> None:
        """Keep texts, all of them or none. A key that is there already is left as it is."""
        if texts:
            rows = list(texts.items())
            self._run(lambda database: database.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", rows))

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` in one transaction; once more on a new file where this one turns out to be damaged."""
        try:
            return self._attempt(work)
        except sqlite3.DatabaseError as error:
            warnings.warn(f"{self.path}: damaged cache file, its captions are made again: {error}", stacklevel=3)
            self.path.replace(self.path.with_suffix(".damaged"))
            return self._attempt(work)

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as database, database:
                database.execute(TABLE)
                return work(database)
        except (sqlite3.OperationalError, OSError) as error:  # locked, read-only, full: the file may be sound
            raise FeatureError(
                f"the caption cache {self.path} cannot be used: {error}; PALATE_CACHE may name another cache folder"
            ) from None


def _select(database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for start in range(0, len(keys), PART):
        part = list(keys[start : start + PART])
        query = f"SELECT key, text FROM texts WHERE key IN ({','.join('?' * len(part))})"  # noqa: S608
        found.update(database.execute(query, part).fetchall())
    return found
