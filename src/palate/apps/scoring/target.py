"""Where results go: one file by its extension, or a folder of parts; on this machine or behind a URL."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from palate.apps.candidates.rejects import Reject
from palate.apps.candidates.tables import FORMATS
from palate.apps.scoring.job import Job
from palate.apps.scoring.parts import Parts, sync, writing
from palate.errors import DataError
from palate.evaluate.environment import command_line, manifest

ROWS = 100_000
"""Rows in a row group of the output."""


@dataclass(frozen=True)
class Target:
    """An output. kind: .parquet, .csv, .jsonl, or "" for a folder; fs: None for this machine's disk."""

    text: str
    kind: str
    fs: Any
    work: Path
    rejects: str
    summary: str

    @classmethod
    def of(cls, job: Job) -> Target:
        """Raises DataError for a format there is none of, and a folder that holds something else."""
        text = str(job.output)
        fs = None
        if "://" in text:
            from fsspec.core import url_to_fs

            fs = url_to_fs(text)[0]
        name = text.rstrip("/").rsplit("/", 1)[-1]
        kind = "" if text.endswith("/") or (fs is None and Path(text).is_dir()) else Path(name).suffix.lower()
        text = text.rstrip("/")
        if kind and kind not in FORMATS:
            raise DataError(f"{text}: expected a file ending in {', '.join(FORMATS)}, or a folder, got {kind}")
        if not kind and fs is not None:
            raise DataError(
                f"{text}: expected a file ending in {', '.join(FORMATS)}; a folder can be written on disk only"
            )
        work = job.work or (Path(f"{text}.parts") if fs is None else Path(f"{name}.parts"))
        beside = f"{text}/_" if not kind else f"{text}."
        return cls(text, kind, fs, work, str(job.rejects or f"{beside}rejects.jsonl"), f"{beside}summary.json")

    def check(self) -> None:
        """Raises DataError where the output cannot go there, before any work is done."""
        if self.fs is not None:
            return
        path = Path(self.text)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        ours = (path / "_summary.json").is_file()
        if not self.kind and path.exists() and (not path.is_dir() or (any(path.iterdir()) and not ours)):
            raise DataError(f"{path}: expected a new or empty folder, found other files there; name another with -o")

    def finish(self, parts: Parts, count: int, shape: pa.Schema, summary: dict[str, Any]) -> None:
        """Put parts 0 .. count - 1 together as the output, with its rejects and summary."""
        made = parts.folder / "made"
        with writing(self.text):
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            told = made / "summary.json"
            told.write_text(
                json.dumps(summary | {"manifest": _made(summary)}, indent=1, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )
            bad = made / "rejects.jsonl"
            some = _rejects(bad, parts, count)
            if self.kind:
                whole = made / f"whole{self.kind}"
                _FORMATS[self.kind](whole, shape).all(parts.file(n) for n in range(count))
                self._publish(whole, self.text)
            else:
                self._folder(made / "folder", parts, count)
            if some:
                self._publish(bad, self.rejects)
            else:
                self._withdraw(self.rejects)
            self._publish(told, self.summary)

    def tell(self, rejects: Sequence[Reject]) -> None:
        """Leave the bad rows that ended a run for its user to read."""
        if self.fs is None and self.kind:
            with writing(self.rejects):
                Path(self.rejects).write_text(lines(r.told() for r in rejects), encoding="utf-8")

    def _folder(self, made: Path, parts: Parts, count: int) -> None:
        made.mkdir()
        for n in range(count):
            _link(parts.file(n), made / parts.file(n).name)
        sync(made)
        if Path(self.text).is_dir():
            shutil.rmtree(self.text)
        made.rename(self.text)

    def _publish(self, made: Path, to: str) -> None:
        """The file as its last name, whole or not at all."""
        if self.fs is not None and "://" in to:
            self.fs.put_file(str(made), to)
            return
        target = Path(to)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        try:
            made.replace(target)
        except OSError:  # the work folder is on another disk
            near = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(made, near)
            near.replace(target)
        sync(target.parent)

    def _withdraw(self, old: str) -> None:
        """Rejects of an earlier run tell nothing of this one."""
        if self.fs is not None and "://" in old:
            if self.fs.exists(old):
                self.fs.rm_file(old)
        else:
            Path(old).unlink(missing_ok=True)


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _rejects(path: Path, parts: Parts, count: int) -> bool:
    """Write the rejects of all parts, in order; whether there are any."""
    with path.open("w", encoding="utf-8") as out:
        for n in range(count):
            record = parts.record(n)
            out.write(lines(record.rejects if record is not None else ()))
        return out.tell() > 0


def lines(rejects: Iterable[Mapping[str, Any]]) -> str:
    """Rejects as JSON lines."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejects)


class _Parquet:
    """Row groups of ROWS rows, whatever the parts were."""

    def __init__(self, path: Path, shape: pa.Schema) -> None:
        self.path, self.shape = path, shape

    def all(self, files: Iterator[Path]) -> None:
        held, size = [self.shape.empty_table()], 0
        with pq.ParquetWriter(self.path, self.shape, compression="zstd") as out:
            for file in files:
                held.append(pq.read_table(file))
                size += len(held[-1])
                while size >= ROWS:
                    together = pa.concat_tables(held)
                    out.write_table(together.slice(0, ROWS), row_group_size=ROWS)
                    held, size = [together.slice(ROWS)], size - ROWS
            if size:
                out.write_table(pa.concat_tables(held), row_group_size=ROWS)


class _Text:
    def __init__(self, path: Path, shape: pa.Schema) -> None:
        self.path, self.names = path, shape.names

    def all(self, files: Iterator[Path]) -> None:
        with self.path.open("w", encoding="utf-8", newline="") as out:
            self.head(out)
            for file in files:
                for batch in pq.ParquetFile(file).iter_batches():
                    self.rows(out, [c.to_pylist() for c in batch.columns])

    def head(self, out: IO[str]) -> None:
        """What stands before the rows."""

    def rows(self, out: IO[str], columns: list[list[Any]]) -> None:
        raise NotImplementedError


class _Csv(_Text):
    def head(self, out: IO[str]) -> None:
        csv.writer(out, lineterminator="\n").writerow(self.names)

    def rows(self, out: IO[str], columns: list[list[Any]]) -> None:
        csv.writer(out, lineterminator="\n").writerows(zip(*columns, strict=True))


class _Jsonl(_Text):
    def rows(self, out: IO[str], columns: list[list[Any]]) -> None:
        for row in zip(*columns, strict=True):
            out.write(json.dumps(dict(zip(self.names, row, strict=True)), ensure_ascii=False) + "\n")


_FORMATS: dict[str, type[_Parquet] | type[_Text]] = {".parquet": _Parquet, ".csv": _Csv, ".jsonl": _Jsonl}


def _made(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The run manifest. Scores are seeded by nothing: they follow from what is named here."""
    told = summary.get("identity", {})
    return manifest(command_line(), None, {k: told.get(k) for k in ("input", "data", "adapters", "new_items")})
