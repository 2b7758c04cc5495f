"""The cache: one folder per source, locked while it is built, renamed into place whole.

cache_dir()/sources/NAME-KEY/manifest.json      what is here: source, hashes, sizes
cache_dir()/sources/NAME-KEY/PAYLOAD            the file or folder that `fetch` answers with
cache_dir()/sources/.NAME-KEY.partial/          being built; whoever holds the lock may delete it
cache_dir()/sources/.NAME-KEY.lock
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from palate.errors import SourceError

MANIFEST = "manifest.json"
CHUNK = 1 << 20


def cache_dir() -> Path:
    """Where fetched weights and data live: $PALATE_CACHE, else the platform's user cache folder."""
    chosen = os.environ.get("PALATE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("palate", appauthor=False))


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def files_under(path: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to `path` with /, file) for every file below, sorted; a file alone is named ".".

    Names that start with a dot are skipped (`.cache`, `.git`: bookkeeping, not content).
    """
    if path.is_file():
        yield ".", path
        return
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(folder) / n for n in names if not n.startswith(".")]
    yield from sorted((f.relative_to(path).as_posix(), f) for f in found)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file was when it was stored. `mtime` in nanoseconds: a change means "hash it again"."""

    size: int
    mtime: int
    sha256: str

    @classmethod
    def of(cls, path: Path, sha256: str | None = None) -> FileRecord:
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, sha256 or sha256_file(path))


@dataclass(frozen=True)
class Manifest:
    """The contents of one cache entry.

    payload: what `fetch` answers with, relative to the entry (or absolute: a snapshot in the hub's cache).
    files: name under the payload -> record. archive_sha256: of the wheel the files came out of.
    origin: for a converted model, the digest of what it was converted from.
    """

    source: str
    payload: str
    files: dict[str, FileRecord] = field(default_factory=dict)
    archive: str = ""
    archive_sha256: str = ""
    origin: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files.values())

    def write(self, path: Path) -> None:
        """Write atomically, so that a reader never sees half a manifest."""
        part = path.with_name(f".{path.name}.{os.getpid()}.partial")
        part.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """The manifest at `path`; None where it is missing or damaged (the entry is then built anew)."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            raw["files"] = {str(name): FileRecord(**record) for name, record in raw["files"].items()}
            manifest = cls(**raw)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return manifest if manifest.files else None


def record_payload(path: Path, known: dict[str, str] | None = None) -> dict[str, FileRecord]:
    """A record per file under `path`; `known` holds sha256 values that need no second reading."""
    return {name: FileRecord.of(file, (known or {}).get(name)) for name, file in files_under(path)}


@dataclass(frozen=True)
class Entry:
    """One cache entry. `label` makes the folder readable, `identity` makes it unique."""

    label: str
    identity: str
    room: str = "sources"

    @property
    def name(self) -> str:
        key = hashlib.sha256(self.identity.encode()).hexdigest()[:12]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.label).strip('.-')[:80] or 'source'}-{key}"

    @property
    def folder(self) -> Path:
        return cache_dir() / self.room / self.name

    @property
    def manifest(self) -> Manifest | None:
        return Manifest.read(self.folder / MANIFEST)

    def ready(self, verify: bool = False) -> Path | None:
        """The payload, if every file is there with its size; None if anything is missing or changed.

        A file whose modification time moved is hashed again, the others only with `verify`.
        """
        manifest = self.manifest
        if manifest is None:
            return None
        payload = self.folder / manifest.payload
        moved = False
        for name, record in manifest.files.items():
            try:
                stat = (payload / name).stat()
                if stat.st_size != record.size:
                    return None
                touched = stat.st_mtime_ns != record.mtime
                if (verify or touched) and sha256_file(payload / name) != record.sha256:
                    return None
            except OSError:
                return None
            moved = moved or touched
        if moved:
            self._remember_times(manifest, payload)
        return payload

    def _remember_times(self, manifest: Manifest, payload: Path) -> None:
        records = {n: FileRecord.of(payload / n, r.sha256) for n, r in manifest.files.items()}
        try:
            Manifest(**{**vars(manifest), "files": records}).write(self.folder / MANIFEST)
        except OSError:
            return  # a read-only cache is fine: the files are right, only the shortcut is lost

    def build(self, fill: Callable[[Path], Manifest], verify: bool = False) -> Path:
        """The payload, built by `fill(empty folder)` unless it is (by now) ready. One builder at a time.

        A builder killed half-way leaves only a `.partial` folder, which the next builder removes.
        """
        from filelock import FileLock

        room = self.folder.parent
        try:
            room.mkdir(parents=True, exist_ok=True)
            with FileLock(room / f".{self.name}.lock"):
                return self.ready(verify) or self._build(fill)
        except OSError as error:
            raise SourceError(
                f"the cache folder {cache_dir()} cannot be written: {error}; "
                "free some space, or set PALATE_CACHE to a folder that can be written"
            ) from None

    def _build(self, fill: Callable[[Path], Manifest]) -> Path:
        partial, stale = (self.folder.parent / f".{self.name}.{kind}" for kind in ("partial", "stale"))
        for leftover in (partial, stale):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial).write(partial / MANIFEST)
            if self.folder.exists():
                self.folder.replace(stale)
            partial.replace(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(stale, ignore_errors=True)
        manifest = self.manifest
        if manifest is None:
            raise SourceError(f"{self.folder} vanished while it was being built; try again")
        return self.folder / manifest.payload


def damaged() -> dict[str, str]:
    """Entries that are not what was stored: source (or folder, where the manifest is damaged) -> what is wrong.

    Every file is hashed: about a second for the default weights.
    """
    found: dict[str, str] = {}
    for path in sorted(cache_dir().glob(f"*/*/{MANIFEST}")):
        if path.parent.name.startswith("."):
            continue
        manifest = Manifest.read(path)
        if manifest is None:
            found[str(path.parent)] = f"{path} cannot be read"
            continue
        for name, record in manifest.files.items():
            file = path.parent / manifest.payload / name
            try:
                wrong = "" if sha256_file(file) == record.sha256 else "has not the sha256 it was stored with"
            except OSError as error:
                wrong = f"cannot be read: {error.strerror}"
            if wrong:
                found[manifest.source] = f"{file} {wrong}"
                break
    return found


def entries() -> Iterator[tuple[Path, Manifest]]:
    """Every finished entry of the cache: (folder, manifest)."""
    for path in sorted(cache_dir().glob(f"*/*/{MANIFEST}")):
        manifest = Manifest.read(path)
        if manifest is not None and not path.parent.name.startswith("."):
            yield path.parent, manifest
