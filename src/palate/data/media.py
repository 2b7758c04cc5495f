"""Media paths of a data set: only files inside its folder, and only those that are there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import pyarrow as pa

from palate.data.rejects import MAX_CHARS, Reject, RejectLog
from palate.schema import Ints

MODALITIES = ("image", "audio", "video")
OUTSIDE = "medium refused: expected a path inside the data set folder"
MISSING = "medium missing: no such file"


class MediaFolder:
    """Answers "is this relative path a file inside the folder?", listing each directory once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder.resolve()
        self._listed: dict[str, dict[str, bool] | None] = {}

    def problem(self, relative: str) -> str | None:
        """Why a path cannot be used; None where it can."""
        path = PurePosixPath(relative)
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\x00" in relative
            or PureWindowsPath(relative).drive
            or "\\" in relative
        ):
            return OUTSIDE
        files = self._files(str(path.parent))
        if files is None:
            return OUTSIDE
        if path.name not in files:
            return MISSING
        if files[path.name]:
            return self._follow(path)
        return None

    def _files(self, parent: str) -> dict[str, bool] | None:
        """Name -> is a symbolic link, of the files in a directory; None where it lies outside the folder."""
        if parent not in self._listed:
            self._listed[parent] = self._list(parent)
        return self._listed[parent]

    def _list(self, parent: str) -> dict[str, bool] | None:
        try:
            directory = (self.folder / parent).resolve()
            if not directory.is_relative_to(self.root):
                return None
            with os.scandir(directory) as entries:
                return {e.name: e.is_symlink() for e in entries if e.is_symlink() or e.is_file()}
        except (OSError, RuntimeError, ValueError):
            return {}

    def _follow(self, path: PurePosixPath) -> str | None:
        try:
            target = (self.folder / path).resolve()
        except (OSError, RuntimeError):
            return MISSING
        if not target.is_relative_to(self.root):
            return OUTSIDE
        return None if target.is_file() else MISSING


def usable(column: pa.Array, folder: MediaFolder, name: str, file: str, lines: Ints, log: RejectLog) -> pa.Array:
    """A media column with refused and missing files emptied; each goes to `log`, its item stays."""
    cleaned: list[str] = []
    for line, relative in zip(lines, column.to_pylist(), strict=True):
        why = folder.problem(relative) if relative else None
        if why:
            log.add(Reject(file, int(line), name, relative[:MAX_CHARS], why, "media"))
        cleaned.append("" if why else relative)
    return pa.array(cleaned, pa.large_string())


def paths(columns: Iterable[pa.Array]) -> Iterator[str]:
    """Every distinct relative path of some media columns."""
    seen: set[str] = set()
    for column in columns:
        for relative in column.to_pylist():
            if relative and relative not in seen:
                seen.add(relative)
                yield relative


def copy(relatives: Iterable[str], source: Path, target: Path) -> int:
    """Bring media files under `target`, same relative paths, as hard links where the disk allows; returns
    how many."""
    import shutil

    made: set[Path] = set()
    count = 0
    for relative in relatives:
        to = target / relative
        if to.parent not in made:
            to.parent.mkdir(parents=True, exist_ok=True)
            made.add(to.parent)
        origin = (source / relative).resolve()
        if to.exists():
            continue
        try:
            os.link(origin, to)
        except OSError:
            shutil.copyfile(origin, to)
        count += 1
    return count
