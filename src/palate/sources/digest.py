"""Digests of files and folders that are not computed twice."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from palate.errors import SourceError
from palate.sources.cache import MANIFEST, FileRecord, Manifest, cache_dir, files_under, sha256_file

SMALL = 1 << 20
"""Files below this many bytes are always read: quick, and an edit within one clock tick cannot hide."""


def digest(path: str | Path) -> str:
    """Hex sha256 of a file; of a folder: sha256 over the sorted lines "SHA256  name".

    Names that start with a dot do not count. A large file whose size and modification time did not change is
    not read again. A folder that `base_model` converted answers with the digest of the GGUF file it came
    from: converted weights need not be bit-equal over machines and library versions, their origin is.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise SourceError(f"cannot compute a digest: there is no file or folder at {path}")
    entry = _entry_of(path)
    if entry is not None and entry[1].origin and path == entry[0] / entry[1].payload:
        return entry[1].origin
    known = _known(entry, path) if entry is not None else _memo_read(path)
    records = {name: _record(file, known.get(name)) for name, file in files_under(path)}
    if entry is None and any(r.size >= SMALL and known.get(n) != r for n, r in records.items()):
        _memo_write(path, records)
    if path.is_file():
        return records["."].sha256
    lines = "".join(f"{r.sha256}  {name}\n" for name, r in sorted(records.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _record(file: Path, known: FileRecord | None) -> FileRecord:
    stat = file.stat()
    same = known is not None and (known.size, known.mtime) == (stat.st_size, stat.st_mtime_ns)
    if known is not None and same and stat.st_size >= SMALL:
        return known
    return FileRecord(stat.st_size, stat.st_mtime_ns, sha256_file(file))


def _entry_of(path: Path) -> tuple[Path, Manifest] | None:
    """The cache entry (folder, manifest) that `path` lies in, if any."""
    root = cache_dir()
    for folder in path.parents:
        if root not in folder.parents:
            return None
        manifest = Manifest.read(folder / MANIFEST)
        if manifest is not None:
            return folder, manifest
    return None


def _known(entry: tuple[Path, Manifest], path: Path) -> dict[str, FileRecord]:
    """The manifest's records, named relative to `path`."""
    folder, manifest = entry
    found = {}
    for name, record in manifest.files.items():
        file = folder / manifest.payload / name
        if file == path or path in file.parents:
            found[file.relative_to(path).as_posix()] = record
    return found


def _memo_path(path: Path) -> Path:
    return cache_dir() / "digests" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.json"


def _memo_read(path: Path) -> dict[str, FileRecord]:
    memo = Manifest.read(_memo_path(path))
    return memo.files if memo is not None else {}


def _memo_write(path: Path, records: dict[str, FileRecord]) -> None:
    memo = _memo_path(path)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        Manifest(source=f"path:{path}", payload=str(path), files=records).write(memo)
    except OSError:
        return  # a cache that cannot be written costs a second reading, nothing else
