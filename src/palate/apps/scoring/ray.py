"""`palate score --engine ray`: chunks scored by workers of a Ray cluster, or of a Ray started here for the run.

    ray.data: one task that cuts the tables -> workers, each with the model loaded once -> this process keeps the parts

Workers read the rows of Parquet tables by themselves; those of text tables come with the chunk. Only this process
writes, so a cluster needs no disk in common but for tables, adapter and data set. A worker that dies is started again
and its chunk scored again. The parts are those of `run.py`: either engine goes on with what the other began.
"""

from __future__ import annotations

import os
import pickle
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.apps.candidates import Limit, Parser, Rejects, Table, find_tables
from palate.apps.candidates.plan import Piece, Planner
from palate.apps.scoring.cluster import Needs, by_row, cluster
from palate.apps.scoring.identity import check_same, identity
from palate.apps.scoring.job import Job, OnProgress, Progress, Summary
from palate.apps.scoring.newitems import add_new_items
from palate.apps.scoring.parts import Parts, Record
from palate.apps.scoring.run import Run, Scorer, _apart
from palate.apps.scoring.share import Share
from palate.apps.scoring.target import Target
from palate.errors import ConfigError, DataError, PalateError, PalateWarning, TooManyRejects

if TYPE_CHECKING:
    import pyarrow as pa

    from palate.schema import Dtype, Quantization

TRIES = 3
"""Workers that may die over one chunk."""


@dataclass(frozen=True)
class Loading:
    """How every worker loads the recommender: the arguments of `Recommender.load`."""

    path: str | dict[str, str]
    data: str | None = None
    quantization: Quantization | None = None
    dtype: Dtype | None = None
    device: str = "auto"

    def everywhere(self) -> Loading:
        """With whole paths."""
        path = _whole(self.path) if isinstance(self.path, str) else {n: _whole(p) for n, p in self.path.items()}
        return replace(self, path=path, data=_whole(self.data) if self.data else None)


def _whole(place: str) -> str:
    return str(Path(place).resolve()) if Path(place).exists() else place


def score_on_ray(
    loading: Loading, job: Job, on_progress: OnProgress | None = None, workers: int | None = None
) -> Summary:
    """Score every request of a candidate file as `score_file` does, on `workers` processes of a Ray cluster.

    workers: None: one a GPU, or where there is none one for each CORES CPU cores. The cluster is that of RAY_ADDRESS;
    without it a Ray is started here, and ended with the run. Raises what `score_file` raises, and ConfigError where
    Ray is not installed or has not what the workers need.
    """
    if find_spec("ray") is None or find_spec("ray.data") is None:
        raise ConfigError("--engine ray needs Ray; run `pip install 'palate[scale]'`, or leave --engine out")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers: expected 1 or more, got {workers}")
    run = _Driver(loading.everywhere(), job)
    with run.parts.held(0), cluster(workers) as needs:
        return run.on(needs, on_progress)


class _Driver(Run):
    """This process: it hands out chunks, keeps what comes back, and puts the output together."""

    def __init__(self, loading: Loading, job: Job) -> None:
        self.loading, self.share = loading, Share()
        self.job = replace(job, new_items=job.new_items.resolve()) if job.new_items else job
        self.target = Target.of(job)
        self.tables = find_tables(*job.sources)
        _apart(self.target, self.tables)
        self.target.check()
        if job.top_k is not None and job.top_k < 1:
            raise DataError(f"top_k: expected 1 or more, got {job.top_k}")
        self.parts = Parts(self.target.work)
        self.anew = job.restart or not self.parts.begun
        if not self.anew and not job.resume:
            raise DataError(
                f"{self.parts.folder}: an unfinished run is there; go on with --resume, or throw it away with --restart"
            )
        self.new = 0
        self.done = Progress()
        self.began = time.perf_counter()

    def on(self, needs: Needs, on_progress: OnProgress | None) -> Summary:
        """Run on a Ray that is there."""
        import ray

        kept = [] if self.anew else [r for r in map(self.parts.record, self.parts.numbers()) if r is not None]
        limit = Limit(self.job.max_rejects, sum(r.rejected for r in kept))
        agreed = ray.remote(_Agreed).options(num_cpus=0).remote(None if self.anew else self.parts.told())
        make = (agreed, self.loading, self.job, self.tables, str(self.parts.folder), str(Path.cwd()))
        count: int | None = None
        told: dict[str, Any] = {}
        for kind, body in _results(self.tables, {r.number for r in kept}, make, needs):
            if kind == "error":
                raise body
            if not told:
                told, self.new = ray.get(agreed.all.remote())
                self.modes = told["identity"]["modes"]
                if self.anew:
                    self.parts.begin(told)
            if kind == "count":
                count = body
            else:
                self._keep(body, limit)
            if on_progress:
                self.done.seconds = time.perf_counter() - self.began
                on_progress(self.done)
        if not count:
            raise DataError(f"{self.tables[0].path}: expected at least one request, the table has no rows")
        return self._end(count, sum(r.rows for r in kept))

    def _keep(self, body: tuple[Record, Rejects, pa.Table, float, int, int], limit: Limit) -> None:
        record, rejects, table, share, read, tries = body
        if tries > 1:
            warnings.warn(
                f"a worker died over chunk {record.number}, perhaps for want of memory; the chunk was scored again",
                PalateWarning,
                stacklevel=2,
            )
        try:
            limit.take(rejects)
        except TooManyRejects:
            self.target.tell(rejects)
            raise
        self.parts.commit(table, record)
        done = self.done
        done.requests, done.rows = done.requests + record.requests, done.rows + record.rows
        done.tokens, done.rejected = done.tokens + record.tokens, limit.count
        done.share, done.read = max(done.share, share), max(done.read, read)


def _results(tables: Sequence[Table], kept: set[int], make: tuple[Any, ...], needs: Needs) -> Iterator[tuple[str, Any]]:
    """What comes of the chunks, in the order they are done: ("scored", ...), ("count", chunks) or ("error", error)."""
    import ray.data
    from ray.exceptions import RayError

    with by_row():
        data = ray.data.read_datasource(_source(tables, kept), num_cpus=0)
        data = data.map_batches(
            _Worker,
            fn_constructor_args=make,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=needs.workers),
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
        )
        try:
            for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for body in block["body"]:
                    yield pickle.loads(body.as_py())  # noqa: S301 - what our own workers wrote
        except RayError as error:
            first = str(error).strip().partition("\n")[0]
            raise DataError(f"Ray gave up: {first}; what is done is kept: run again with --resume") from error


def _source(tables: Sequence[Table], kept: set[int]) -> Any:
    """The chunks as a data source: one task that cuts the tables, no faster than its chunks are taken."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Pieces(Datasource):  # type: ignore[misc]
        def get_name(self) -> str:
            return "chunks"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(lambda: _pieces(tables, kept), about)]

    return Pieces()


def _pieces(tables: Sequence[Table], kept: set[int]) -> Iterator[pa.Table]:
    """One-row tables: chunks to be scored, and at last how many there are."""
    count = 0
    try:
        for piece in Planner(tables).pieces():
            count = piece.number + 1
            if piece.number not in kept:
                yield _row("piece", piece)
        yield _row("count", count)
    except PalateError as error:
        yield _row("error", error)


def _row(kind: str, body: Any) -> pa.Table:
    import pyarrow as pa

    return pa.table({"body": pa.array([pickle.dumps((kind, body))], pa.large_binary())})


class _Agreed:
    """What all workers of a run have in common: the first one says it, the others are held to it."""

    def __init__(self, told: dict[str, Any] | None) -> None:
        self.told, self.new = told, 0
        self.tries: dict[int, int] = {}

    def same(self, mine: dict[str, Any], new: int) -> dict[str, Any]:
        self.told, self.new = self.told or mine, new
        return self.told

    def all(self) -> tuple[dict[str, Any], int]:
        assert self.told is not None
        return self.told, self.new

    def begins(self, chunk: int) -> int:
        """How often this chunk was begun."""
        self.tries[chunk] = self.tries.get(chunk, 0) + 1
        return self.tries[chunk]


class _Worker:
    """An actor of Ray: the model, loaded once, and chunks to score with it."""

    def __init__(
        self, agreed: Any, loading: Loading, job: Job, tables: Sequence[Table], folder: str, home: str
    ) -> None:
        self.agreed = agreed
        self.wrong: PalateError | None = None
        if Path(home).is_dir():  # a bundle may name its data set from where the user stands
            os.chdir(home)
        try:
            self._load(loading, job, tables, Path(folder))
        except PalateError as error:  # told with the first chunk: what a constructor raises Ray tries again
            self.wrong = error

    def _load(self, loading: Loading, job: Job, tables: Sequence[Table], folder: Path) -> None:
        import ray

        from palate.recommender import Recommender

        rec = Recommender.load(
            loading.path,
            data=loading.data,
            quantization=loading.quantization,
            dtype=loading.dtype,
            device=loading.device,
        )
        modes = list(dict.fromkeys(rec.mode(m).name for m in job.modes))
        new = add_new_items(rec, job.new_items) if job.new_items else 0
        mine = identity(rec, tables, modes, job.top_k, job.new_items)
        packs = {name: one.runner.max_tokens for name, one in rec.adapters.items()}
        told = ray.get(self.agreed.same.remote({"identity": mine, "max_tokens": packs}, new))
        check_same(told["identity"], mine, folder)
        for name, tokens in told["max_tokens"].items():
            runner = rec.adapters[name].runner
            runner.budget = replace(runner.budget, tokens=tokens)
        self.parser = Parser(rec.shelf, rec.adapters)
        self.scorer = Scorer(rec, modes, job.top_k)

    def __call__(self, batch: pa.Table) -> pa.Table:
        kind, body = pickle.loads(batch["body"][0].as_py())  # noqa: S301 - what `_pieces` wrote
        if kind == "error" or self.wrong is None:
            return batch if kind != "piece" else self._scored(body)
        return _row("error", self.wrong)

    def _scored(self, piece: Piece) -> pa.Table:
        import ray

        tries = ray.get(self.agreed.begins.remote(piece.number))
        if tries > TRIES:
            at = f"rows {piece.span[0] + 1} to {piece.span[1]}" if piece.span else f"{len(piece.rows)} rows"
            return _row(
                "error",
                DataError(
                    f"{piece.table.path}: {TRIES} workers died over chunk {piece.number} ({at}), perhaps for want of "
                    "memory; give each more with fewer --workers, then run again with --resume"
                ),
            )
        try:
            requests, rejects = self.parser.parse(piece.chunk())
            table, record = self.scorer.score(piece.number, requests, rejects)
        except PalateError as error:
            return _row("error", error)
        return _row("scored", (record, rejects, table, piece.share, piece.read, tries))
