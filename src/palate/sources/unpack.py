"""Unpacking archives from strangers: no name leaves the folder, no link, bounded in bytes and files."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from palate.errors import SourceError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 8 << 30
MAX_FILES = 20_000


MAX_NAME, MAX_PART = 1000, 255
"""Bytes of a name and of each of its parts; file systems take no longer parts."""


class _Damaged(Exception):
    """An archive that cannot be read. Not an OSError: those are of the disk that is written to."""


@contextmanager
def opened(archive: Path, label: str) -> Iterator[zipfile.ZipFile]:
    """The zip at `archive`; anything wrong with its format is a SourceError that names `label`."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    except (
        zlib.error,
        lzma.LZMAError,
        struct.error,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        _Damaged,
    ) as error:
        raise SourceError(f"{label}: not a readable zip archive ({error}); it may be damaged, try again") from None


def files(zipped: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are files. By the name as the archive has it: `is_dir` fails on an emptied one."""
    return [m for m in zipped.infolist() if not m.orig_filename.endswith("/")]


def select(zipped: zipfile.ZipFile, inner: str, many: bool, label: str) -> list[zipfile.ZipInfo]:
    """The members named by `inner`: one file, or (`many`) every file below that folder."""
    members = files(zipped)
    chosen = [m for m in members if (m.filename.startswith(f"{inner}/") if many else m.filename == inner)]
    if not chosen:
        names = {str(PurePosixPath(m.filename).parent) for m in members} if many else {m.filename for m in members}
        what = "folder" if many else "file"
        raise SourceError(f"{label} holds no {what} {inner!r}; {did_you_mean(inner, names)}")
    return chosen


def extract(
    zipped: zipfile.ZipFile,
    members: Sequence[zipfile.ZipInfo],
    target: Path,
    *,
    strip: str = "",
    label: str = "",
) -> int:
    """Write `members` under the folder `target`, names without the prefix `strip`. Returns bytes written.

    Raises SourceError for a name that is absolute, climbs out (`..`), has a backslash or drive, is a link or
    comes twice, and where the bytes or files go over MAX_BYTES or MAX_FILES (declared sizes are not trusted).
    """
    if len(members) > MAX_FILES:
        raise SourceError(f"{label}: {len(members)} files, at most {MAX_FILES} are allowed")
    declared = sum(m.file_size for m in members)
    if declared > MAX_BYTES:
        raise SourceError(f"{label}: unpacks to {declared} bytes, at most {MAX_BYTES} are allowed")
    written, seen, folders = 0, set[str](), set[str]()
    for member in members:
        name = _safe_name(member, strip, label)
        folded = name.casefold()
        parents = [str(p) for p in PurePosixPath(folded).parents][:-1]
        if folded in seen or folded in folders or seen & set(parents):
            raise SourceError(f"{label}: the name {name!r} comes twice, or is a file and a folder; refused")
        seen.add(folded)
        folders.update(parents)
        out = target / name
        out.parent.mkdir(parents=True, exist_ok=True)
        with _member(zipped, member) as source, out.open("xb") as sink:
            size, crc = _copy(source, sink, MAX_BYTES - written, label)
        if (size, crc) != (member.file_size, member.CRC):  # zipfile checks neither where the packed bytes end early
            raise _Damaged(f"{name!r} is not as long, or not what, the archive says")
        written += size
    return written


def _member(zipped: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return zipped.open(member)
    except OSError as error:  # a place outside the archive
        raise _Damaged(str(error)) from None


def extract_nested(archive: Path, target: Path, label: str) -> None:
    """Unpack all of the zip at `archive` into the new folder `target`."""
    target.mkdir()
    with opened(archive, label) as zipped:
        members = files(zipped)
        if not members:
            raise SourceError(f"{label}: the archive is empty")
        extract(zipped, members, target, label=label)


def _safe_name(member: zipfile.ZipInfo, strip: str, label: str) -> str:
    # zipfile cuts filename at a NUL and turns os.sep into /, so orig_filename is what the archive really says
    full = member.orig_filename
    name = full.removeprefix(strip)
    parts = name.split("/")
    if name.startswith("/") or "\\" in full or ":" in parts[0] or "\0" in full or {"", ".", ".."} & set(parts):
        raise SourceError(f"{label}: the name {full!r} would leave the target folder; refused")
    if len(full.encode("utf-8", "replace")) > MAX_NAME or any(
        len(p.encode("utf-8", "replace")) > MAX_PART for p in parts
    ):
        raise SourceError(
            f"{label}: the name {full[:40]!r}... is longer than {MAX_NAME} bytes, or a part than {MAX_PART}"
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise SourceError(f"{label}: {full!r} is a symbolic link; refused")
    return name


def _copy(source: IO[bytes], sink: IO[bytes], room: int, label: str) -> tuple[int, int]:
    """Bytes copied and their CRC-32."""
    count = crc = 0
    while chunk := _read(source):
        count += len(chunk)
        if count > room:
            raise SourceError(f"{label}: unpacks to more than {MAX_BYTES} bytes; refused")
        crc = zlib.crc32(chunk, crc)
        sink.write(chunk)
    return count, crc


def _read(source: IO[bytes]) -> bytes:
    try:
        return source.read(1 << 20)
    except OSError as error:  # bz2 tells of damage so
        raise _Damaged(str(error)) from None
