"""Unfinished work: one Parquet file a chunk and a record that makes it count, in a folder beside the output.

A part is there when its record is; the record is written last, and every file appears whole or not at all. So a run may
die at any moment, and several processes may write into one folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palate.errors import DataError


@dataclass(frozen=True)
class Record:
    """What one part holds. size: bytes of its file; asked, found: prompt positions, and those kept from before."""

    number: int
    requests: int
    rows: int
    rejected: int
    tokens: int
    asked: int
    found: int
    size: int
    rejects: Sequence[Mapping[str, Any]] = ()


class Parts:
    """The folder of an unfinished run. job.json says which run it is of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._job = folder / "job.json"

    @contextmanager
    def held(self, rank: int) -> Iterator[None]:
        """Keep other runs out. The folder is made, and gone again where nothing was put into it."""
        from filelock import FileLock, Timeout

        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f".rank-{rank}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise DataError(
                f"{self.folder}: another process is at work on this output; wait for it or stop it"
            ) from None
        try:
            yield
        finally:
            lock.release()
            if rank == 0 and self.folder.is_dir() and next(self.numbers(), None) is None:
                self.remove()

    @property
    def begun(self) -> bool:
        return self._job.is_file()

    def begin(self, told: Mapping[str, Any]) -> None:
        """Start anew: what an earlier run left is removed."""
        with writing(self.folder):
            for path in self.folder.iterdir():
                if not path.name.endswith(".lock"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._write(self._job, json.dumps(told, indent=1))

    def told(self) -> dict[str, Any]:
        """What `begin` was told. Raises DataError where it cannot be read."""
        try:
            found = json.loads(self._job.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self._job}: cannot be read: {error}; start anew with --restart") from None
        return dict(found)

    def file(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"

    def _record(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.json"

    def numbers(self) -> Iterator[int]:
        """Parts that are there, in no order."""
        return (int(p.stem[5:]) for p in self.folder.glob("part-*.json"))

    def record(self, number: int) -> Record | None:
        """The part's record; None where the part is not there, or not whole."""
        try:
            record = Record(**json.loads(self._record(number).read_text(encoding="utf-8")))
            return record if self.file(number).stat().st_size == record.size else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{self._record(number)}: cannot be read: {error}; start anew with --restart") from None

    def commit(self, table: pa.Table, record: Record) -> Record:
        """Write a part. It counts once this returns."""
        file = self.file(record.number)
        made = self._made(file)
        with writing(self.folder):
            with made.open("wb") as out:
                pq.write_table(table, out, compression="zstd")
                out.flush()
                os.fsync(out.fileno())
                size = out.tell()
            made.replace(file)
        whole = Record(**{**asdict(record), "size": size})
        self._write(self._record(record.number), json.dumps(asdict(whole), ensure_ascii=False))
        return whole

    def _made(self, file: Path) -> Path:
        return file.with_name(f".{file.name}.{os.getpid()}")

    def _write(self, file: Path, text: str) -> None:
        made = self._made(file)
        with writing(self.folder):
            with made.open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            made.replace(file)
            sync(self.folder)

    def remove(self) -> None:
        """Remove the folder, job.json first: what is left of a removal that was cut short counts for nothing."""
        self._job.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def sync(folder: Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """A full disk or a forbidden folder is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}; what is done is kept: mend that and run again with "
            "--resume"
        ) from error
