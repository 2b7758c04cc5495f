"""The sources' cache: damaged, used by two at once, killed while it is filled, under a clock that jumps."""

from __future__ import annotations

import io
import os
import time
import zipfile
from pathlib import Path
from random import Random

from trust import mutate, procs
from trust.faults import Fault, Missed

SOURCE = "pypi:pkg-weights==1.0!pkg/data/*"
FILES = {f"pkg/data/{n}.bin": bytes([n]) * 50_000 for n in range(8)}


class CacheDamaged(Fault):
    name = "cache-damaged"
    fault = "a file of a cache entry, or its manifest, damaged, cut or removed"
    promise = (
        "found by the next fetch (of the same size and time: with verify) and fetched again; the entry then holds "
        "without a network"
    )
    times = 8

    def setup(self, folder: Path) -> None:
        self.index = folder / "index"
        self.index.mkdir()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as zipped:
            for name, data in FILES.items():
                zipped.writestr(name, data)
            zipped.writestr(
                "pkg_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pkg_weights\nVersion: 1.0\n"
            )
            zipped.writestr(
                "pkg_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            zipped.writestr("pkg_weights-1.0.dist-info/RECORD", "")
        (self.index / "pkg_weights-1.0-py3-none-any.whl").write_bytes(out.getvalue())
        self.before = dict(os.environ)

    def clear(self) -> None:
        os.environ.clear()
        os.environ.update(self.before)

    def fetch(self, folder: Path, verify: bool = False) -> Path:
        from palate import sources

        os.environ.update(
            PALATE_CACHE=str(folder), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.index), PALATE_OFFLINE="0"
        )
        return sources.fetch(SOURCE, progress=False, verify=verify)

    @staticmethod
    def whole(found: Path) -> None:
        got = {f"pkg/data/{p.name}": p.read_bytes() for p in found.iterdir()}
        assert got == FILES, "the entry is not what was fetched"

    def once(self, folder: Path, rng: Random) -> None:
        found = self.fetch(folder)
        victim = rng.choice([*found.iterdir(), found.parent / "manifest.json"])
        kind, stat = rng.choice(("bits", "cut", "gone", "quiet")), victim.stat()
        if kind == "gone":
            victim.unlink()
        elif kind == "cut":
            victim.write_bytes(victim.read_bytes()[: rng.randint(0, 40_000)])
        else:
            data = bytearray(victim.read_bytes())
            data[rng.randrange(len(data))] ^= 0xFF
            victim.write_bytes(data)
        if kind == "quiet":
            os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        self.whole(self.fetch(folder, verify=kind == "quiet"))
        self.alone()

    def alone(self) -> None:
        """What was mended holds by itself: files and manifest agree byte for byte, without a network."""
        from palate import sources

        os.environ["PALATE_OFFLINE"] = "1"
        self.whole(sources.fetch(SOURCE, progress=False, verify=True))


class CacheTwo(CacheDamaged):
    name = "cache-two"
    fault = "three processes fetch the same source into one empty cache at once"
    promise = "all get the whole entry, and one is left, without remains"
    times = 6

    def once(self, folder: Path, rng: Random) -> None:
        pids = [
            procs.start(lambda: self.whole(self.fetch(folder)), folder.parent / f"{folder.name}.{n}") for n in range(3)
        ]
        codes = [procs.ended(pid) for pid in pids]
        assert codes == [0, 0, 0], f"exit codes {codes}"
        left = [p.name for p in (folder / "sources").iterdir() if not p.name.endswith(".lock")]
        assert len(left) == 1, f"left: {left}"


class CacheKilled(CacheDamaged):
    name = "kill-fetch"
    fault = "SIGKILL while a source is fetched and unpacked"
    promise = "no half entry is ever taken; the next fetch gets the whole and clears the remains"
    times = 5

    def once(self, folder: Path, rng: Random) -> None:
        at = time.monotonic() + rng.uniform(0.05, 1.5)
        if not procs.killed(
            lambda: self.fetch(folder), folder.parent / f"{folder.name}.log", lambda: time.monotonic() > at
        ):
            raise Missed
        self.whole(self.fetch(folder))
        assert not list((folder / "sources").glob(".*.partial")), "remains are left"


class ClockJumps(CacheDamaged):
    name = "clock"
    fault = "the clock jumps: cached files dated years ahead or back"
    promise = "a whole entry stays in use, without a network"
    times = 5

    def once(self, folder: Path, rng: Random) -> None:
        from palate import sources

        found = self.fetch(folder)
        for path in [*found.iterdir(), found, found.parent]:
            when = time.time() + rng.choice((-1, 1)) * rng.uniform(1, 20) * 31_536_000
            os.utime(path, (when, when))
        os.environ["PALATE_OFFLINE"] = "1"
        self.whole(sources.fetch(SOURCE, progress=False, verify=bool(mutate.text(rng))))
