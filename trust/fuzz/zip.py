"""Archives of `pypi:` sources: names that climb out, links, bombs, lies in the directory, damage."""

from __future__ import annotations

import io
import os
import shutil
import stat
import zipfile
from pathlib import Path
from random import Random

from trust import mutate
from trust.fuzz import SilentChange, Target

NAMES = (
    "pkg/a.bin", "pkg/sub/b.txt", "../out.txt", "pkg/../../out.txt", "/abs.txt", "pkg/./x", "pkg//x", "C:/x", "pkg\\x", "pkg/a\0b",
    "pkg/A.BIN", "pkg/a.bin/", "pkg/a.bin/x", "pkg/" + "n" * 300, "pkg/é", "pkg/e\u0301", "pkg/ ", "pkg/nul", "pkg/.", "pkg/..",
    "pkg", "pkg/", "pkg/\n", "pkg/\u202e", "pkg/" + "d/" * 200 + "x", "pkg/.hidden", "pkg/inner.zip", "pkg/manifest.json",
)  # fmt: skip
LIMIT = 1_000_000
"""Bytes an archive may unpack to here; in earnest it is 8 GiB."""


def built(rng: Random, names: tuple[str, ...] = NAMES) -> bytes:
    """An archive of some members, good and bad."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        for _ in range(rng.choice((0, 1, 2, 3, 6))):
            name = (
                rng.choice(names[:2])
                if rng.random() < 0.6
                else rng.choice(names)
                if rng.random() < 0.8
                else mutate.flat(mutate.text(rng))
            )
            info = zipfile.ZipInfo(name or "x")
            info.compress_type = rng.choice(
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            )
            if rng.random() < 0.1:
                info.external_attr = (
                    rng.choice((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR)) | 0o777
                ) << 16
            data = (
                bytes(3 * LIMIT) if rng.random() < 0.03 else rng.randbytes(rng.randint(0, 60)) * rng.choice((1, 1, 50))
            )
            if info.external_attr >> 28 == 0xA:
                data = b"/etc/passwd"
            zipped.writestr(info, data)
    return out.getvalue()


class Zip(Target):
    name = "zip"
    about = "names with .., absolute, drives, NUL, doubled; links; bombs; directories that lie; archives in archives"

    def setup(self, folder: Path) -> None:
        from palate.sources import unpack

        unpack.MAX_BYTES, unpack.MAX_FILES = LIMIT, 50
        self.outer = folder / "outer"
        self.archive = folder / "a.zip"

    def make(self, rng: Random) -> tuple[bytes, bool]:
        data = built(rng)
        if rng.random() < 0.1:
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as zipped:
                zipped.writestr("pkg/inner.zip", data)
            return out.getvalue(), True
        if rng.random() < 0.35:
            data = mutate.damaged(rng, data, [b"PK\1\2", b"PK\5\6", b"PK\3\4", b"../", b"\xff\xff\xff\xff", b"PK\6\6"])
        return data, False

    def judge(self, case: tuple[bytes, bool]) -> None:
        from palate.sources.unpack import extract, extract_nested, opened, select

        data, nested = case
        shutil.rmtree(self.outer, ignore_errors=True)
        target = self.outer / "in"
        target.mkdir(parents=True)
        self.archive.write_bytes(data)
        try:
            with opened(self.archive, "a.zip") as zipped:
                members = select(zipped, "pkg/inner.zip" if nested else "pkg", not nested, "a.zip")
                written = extract(zipped, members, target, strip="pkg/", label="a.zip")
                facts = {m.filename.removeprefix("pkg/"): (m.file_size, m.CRC) for m in members}
            if nested:
                extract_nested(target / "inner.zip", self.outer / "in" / "inner", "a.zip!pkg/inner.zip")
            else:
                self._whole(target, facts, written)
        finally:
            self._inside()

    def _whole(self, target: Path, facts: dict[str, tuple[int, int]], written: int) -> None:
        found = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file()}
        if set(found) != set(facts) or written != sum(p.stat().st_size for p in found.values()):
            raise SilentChange(f"members {sorted(facts)[:5]}, files {sorted(found)[:5]}")
        for name, path in found.items():
            if (path.stat().st_size, zipfile.crc32(path.read_bytes())) != facts[name]:  # type: ignore[attr-defined]
                raise SilentChange(f"{name!r} is not what the archive says")

    def _inside(self) -> None:
        """Nothing outside the target, no link, and no more bytes than are allowed."""
        if os.listdir(self.outer) != ["in"]:
            raise SilentChange(f"files beside the target folder: {os.listdir(self.outer)}")
        total = 0
        for path in self.outer.rglob("*"):
            total += path.lstat().st_size if path.is_file() else 0
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise SilentChange(f"{path.name} is neither a file nor a folder")
        if total > 2 * LIMIT + (1 << 20):
            raise SilentChange(f"{total} bytes were unpacked, the limit is {LIMIT}")
