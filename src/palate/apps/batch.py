"""Batch scoring: a candidate file in, a score file out, in bounded memory, written atomically."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from palate.apps.candidates.rejects import Rejects
from palate.apps.candidates.requests import CandidateFile
from palate.apps.candidates.tables import read_rows, suffix
from palate.errors import DataError, RequestError
from palate.schema import Request, Scores

if TYPE_CHECKING:
    from palate.recommender import Recommender

COLUMNS = ("request_id", "user_id", "item_id", "score", "rank")
REQUESTS = 256
"""Requests scored in one call at most."""
CANDIDATES = 20_000
"""Candidates scored in one call at most (one request may hold more)."""

OnProgress = Callable[["Progress"], None]


@dataclass
class Progress:
    """How far a run is. rows: candidates scored; share: of the input read, 0..1."""

    requests: int = 0
    rows: int = 0
    read: int = 0
    rejected: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Rows scored a second."""
        return self.rows / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Summary:
    """What a run did. tokens: positions the model ran; prefix_hits: share of prompt positions it did not have to."""

    input: str
    output: str
    requests: int
    rows: int
    rejected: int
    rejects_file: str | None
    new_items: int
    mode: str
    seconds: float
    rows_per_second: float
    tokens: int
    prefix_hits: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """One run: which file, to where, and how forgiving. rejects: None stands for OUTPUT.rejects.jsonl."""

    source: Path
    output: Path
    mode: str | None = None
    new_items: Path | None = None
    rejects: Path | None = None
    max_rejects: int = 0


def _tokens(rec: Recommender) -> int:
    return sum(r.runner.tokens_seen for r in rec.adapters.values())


def score_file(rec: Recommender, job: Job, on_progress: OnProgress | None = None) -> Summary:
    """Score every request of a candidate file.

    Bad rows go to the rejects file; more than `max_rejects` raise TooManyRejects, and nothing is written.
    Raises DataError for a file that is no candidate file, RequestError for what the mode cannot do.
    """
    suffix(job.output)
    if job.output.resolve() == job.source.resolve():
        raise DataError(f"{job.output}: the output would overwrite the candidates; name another file with -o")
    rejects_file = job.rejects or job.output.with_name(job.output.name + ".rejects.jsonl")
    with _file_errors(job.output):
        job.output.parent.mkdir(parents=True, exist_ok=True)
        rejects_file.unlink(missing_ok=True)
    new = add_new_items(rec, job.new_items) if job.new_items else 0
    mode = rec.mode(job.mode).name
    rec.prefixes.clear()  # a run starts from nothing, so that the same file gives the same bits
    before, known = _tokens(rec), replace(rec.prefixes.stats)
    done, began = Progress(), time.perf_counter()
    with Rejects(job.source, rejects_file, job.max_rejects) as rejects, Writer(job.output) as writer:
        file = CandidateFile(job.source, rec.shelf, rejects, rec.adapters)
        for chunk in chunks(file):
            for scores in rec.score(chunk, mode):
                writer.write(scores)
                done.rows += len(scores.item_ids)
            done.requests += len(chunk)
            done.read, done.rejected = file.rows, rejects.count
            done.seconds = time.perf_counter() - began
            if on_progress:
                on_progress(done)
        if not done.requests and not rejects.count:
            raise DataError(f"{job.source}: expected at least one request, the table has no rows")
    seconds = time.perf_counter() - began
    return Summary(
        input=str(job.source),
        output=str(job.output),
        requests=done.requests,
        rows=done.rows,
        rejected=rejects.count,
        rejects_file=str(rejects_file) if rejects.first else None,
        new_items=new,
        mode=mode,
        seconds=round(seconds, 3),
        rows_per_second=round(done.rows / seconds, 1) if seconds else 0.0,
        tokens=_tokens(rec) - before,
        prefix_hits=round(rec.prefixes.stats.since(known).hit_rate, 4),
    )


def chunks(requests: Iterator[Request] | CandidateFile) -> Iterator[list[Request]]:
    """Requests in chunks of at most REQUESTS requests and about CANDIDATES candidates."""
    chunk: list[Request] = []
    size = 0
    for request in requests:
        if chunk and (len(chunk) >= REQUESTS or size + len(request.candidates) > CANDIDATES):
            yield chunk
            chunk, size = [], 0
        chunk.append(request)
        size += len(request.candidates)
    if chunk:
        yield chunk


def total_rows(path: Path) -> int:
    """Rows of a table, for a progress bar: exact for Parquet, lines for text."""
    if not path.is_file():
        return 0
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(path).num_rows)
        except (pa.ArrowException, OSError):
            return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def add_new_items(rec: Recommender, path: Path) -> int:
    """Add items that came after training: a table with title, text fields, media files and, if wanted,
    item_id.

    A column named after a modality of the data set or the adapter (image, ...) holds files, relative to the
    table's folder; every other column is a text field. Returns how many were added. Raises DataError with
    file and line.
    """
    media = {"image", *rec.dataset.catalog.modalities}
    for one in rec.adapters.values():
        media |= set(one.model.soft.modalities) if one.model.soft is not None else set()
    rejects = Rejects(path)
    rejects.expect = lambda names: (
        None if "title" in names else f"missing column title; the file has: {', '.join(names) or 'no columns'}"
    )
    count = 0
    for line, row in read_rows(path, rejects):
        cells = {k: str(v).strip() for k, v in row.items() if v is not None and str(v).strip()}
        item_id, title = cells.pop("item_id", None), cells.pop("title", "")
        files = {m: _inside(path, line, m, cells.pop(m)) for m in sorted(media & cells.keys())}
        try:
            rec.add_item(title, cells, files, item_id)
        except RequestError as error:
            raise DataError(f"{path}, line {line}: {error}") from None
        count += 1
    return count


def _inside(table: Path, line: int, column: str, value: str) -> Path:
    """A media file of a table; like a data set's, it may not leave the table's folder."""
    folder = table.parent.resolve()
    file = (folder / value).resolve()
    if not file.is_relative_to(folder):
        raise DataError(
            f"{table}, line {line}, column {column}: expected a file inside {table.parent}, got {value!r}; put it there"
        )
    return file


# --- output -----------------------------------------------------------------------------------------


class _Format(Protocol):
    def rows(self, columns: Sequence[Sequence[Any]]) -> None: ...
    def close(self) -> None: ...


class Writer:
    """Scores in long form (COLUMNS) to Parquet, CSV or JSON lines; the file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._format: _Format | None = None

    def __enter__(self) -> Self:
        kind = suffix(self.path)
        with _file_errors(self.path):
            formats: dict[str, type[_Parquet] | type[_Csv] | type[_Jsonl]]
            formats = {".parquet": _Parquet, ".csv": _Csv, ".jsonl": _Jsonl}
            self._format = formats[kind](self._temporary)
        return self

    def write(self, scores: Scores) -> None:
        """One request's candidates, in its candidate order, with their ranks."""
        assert self._format is not None
        n = len(scores.item_ids)
        users = [scores.user_id] * n
        with _file_errors(self.path):
            self._format.rows(
                (
                    [scores.request_id] * n,
                    users,
                    scores.item_ids,
                    scores.scores.tolist(),
                    scores.ranks().tolist(),
                )
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._format is not None:
                with _file_errors(self.path):
                    self._format.close()
            if kind is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """A full disk or a forbidden folder is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


class _Parquet:
    ROWS = 100_000

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = (pa.string(), pa.string(), pa.string(), pa.float32(), pa.int32())
        self._pa = pa
        self._schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[list[Any]] = [[] for _ in COLUMNS]

    def rows(self, columns: Sequence[Sequence[Any]]) -> None:
        for held, new in zip(self._held, columns, strict=True):
            held.extend(new)
        if len(self._held[0]) >= self.ROWS:
            self._flush()

    def _flush(self) -> None:
        arrays = [self._pa.array(h, f.type) for h, f in zip(self._held, self._schema, strict=True)]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))
        self._held = [[] for _ in COLUMNS]

    def close(self) -> None:
        if self._held[0]:
            self._flush()
        self._writer.close()


class _Text:
    def __init__(self, path: Path) -> None:
        self.file: IO[str] = path.open("w", encoding="utf-8", newline="")

    def close(self) -> None:
        self.file.close()


class _Csv(_Text):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._writer = csv.writer(self.file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def rows(self, columns: Sequence[Sequence[Any]]) -> None:
        self._writer.writerows(zip(*columns, strict=True))


class _Jsonl(_Text):
    def rows(self, columns: Sequence[Sequence[Any]]) -> None:
        for row in zip(*columns, strict=True):
            self.file.write(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n")
