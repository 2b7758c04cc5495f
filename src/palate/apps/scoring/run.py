"""A candidate file to a score file: chunk by chunk, each kept as soon as it is done, put together at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.apps.candidates import Chunk, Cutter, Limit, Parser, Rejects, Table, find_tables
from palate.apps.scoring import columns
from palate.apps.scoring.identity import check_same, identity
from palate.apps.scoring.job import Job, OnProgress, Progress, Summary
from palate.apps.scoring.newitems import add_new_items
from palate.apps.scoring.parts import Parts, Record
from palate.apps.scoring.share import Share
from palate.apps.scoring.target import Target
from palate.engine.ahead import ahead
from palate.errors import DataError, TooManyRejects
from palate.schema import Request

if TYPE_CHECKING:
    from palate.recommender import Recommender


def score_file(
    rec: Recommender, job: Job, on_progress: OnProgress | None = None, share: Share | None = None
) -> Summary:
    """Score every request of a candidate file.

    Bad rows go to the rejects file; more than `max_rejects` raise TooManyRejects. Until the output is there, whole, its
    parts stand in a folder beside it, from which `resume` goes on; the same job gives the same bytes, however often it
    was cut short. share: which chunks are this process' own; the last process to end puts the output together.
    Raises DataError for a file that is no candidate file and an output that cannot be written, RequestError for what
    the mode cannot do.
    """
    run = Run(rec, job, share or Share())
    with run.parts.held(run.share.rank):
        return run.run(on_progress)


class Run:
    """One process' part in a job."""

    def __init__(self, rec: Recommender, job: Job, share: Share) -> None:
        self.rec, self.job, self.share = rec, job, share
        self.target = Target.of(job)
        self.tables = find_tables(*job.sources)
        _apart(self.target, self.tables)
        self.target.check()
        self.modes = list(dict.fromkeys(rec.mode(m).name for m in job.modes))
        if job.top_k is not None and job.top_k < 1:
            raise DataError(f"top_k: expected 1 or more, got {job.top_k}")
        self.new = add_new_items(rec, job.new_items) if job.new_items else 0
        self.scorer = Scorer(rec, self.modes, job.top_k)
        self.parts = Parts(self.target.work)
        self.done = Progress()
        self.began = time.perf_counter()

    def run(self, on_progress: OnProgress | None) -> Summary:
        self._open()
        limit = Limit(self.job.max_rejects, sum(r.rejected for r in map(self.parts.record, self.parts.numbers()) if r))
        resumed = sum(r.rows for r in map(self.parts.record, self.parts.numbers()) if r)
        cutter, count = Cutter(self.tables), 0
        cuda = self.rec.model.device.type == "cuda"
        with ahead(self._parsed(cutter), cuda) as parsed:
            for chunk, requests, rejects in parsed:
                count = chunk.number + 1
                if requests is not None:
                    self._score(chunk, requests, rejects, limit)
                self.done.read, self.done.share = cutter.read, cutter.share
                self.done.rejected, self.done.seconds = limit.count, time.perf_counter() - self.began
                if on_progress:
                    on_progress(self.done)
        if not count:
            raise DataError(f"{self.tables[0].path}: expected at least one request, the table has no rows")
        return self._end(count, resumed)

    def _open(self) -> None:
        """Begin, or go on; the first process says which, the others follow."""
        wanted = identity(self.rec, self.tables, self.modes, self.job.top_k, self.job.new_items)
        with self.share.first_then_others():
            if self.share.rank == 0 and (self.job.restart or not self.parts.begun):
                packs = {name: rec.runner.max_tokens for name, rec in self.rec.adapters.items()}
                self.parts.begin({"identity": wanted, "max_tokens": packs})
            elif self.share.rank == 0 and not self.job.resume:
                raise DataError(
                    f"{self.parts.folder}: an unfinished run is there; go on with --resume, or throw it away with "
                    "--restart"
                )
            told = self.parts.told()
            check_same(told["identity"], wanted, self.parts.folder)
        for name, tokens in told["max_tokens"].items():
            # packs of another size round otherwise, and what memory is free now is not what was free then
            runner = self.rec.adapters[name].runner
            runner.budget = replace(runner.budget, tokens=tokens)

    def _parsed(self, cutter: Cutter) -> Iterator[tuple[Chunk, list[Request] | None, Rejects]]:
        """This process' chunks with their requests; None where they are scored already, or are another's."""
        parser = Parser(self.rec.shelf, self.rec.adapters)
        for chunk in cutter:
            if not self.share.owns(chunk.number) or self.parts.record(chunk.number) is not None:
                yield chunk, None, Rejects(chunk.table.path)
            else:
                yield chunk, *parser.parse(chunk)

    def _score(self, chunk: Chunk, requests: list[Request], rejects: Rejects, limit: Limit) -> None:
        try:
            limit.take(rejects)
        except TooManyRejects:
            self.target.tell(rejects)
            raise
        table, record = self.scorer.score(chunk.number, requests, rejects)
        self.parts.commit(table, record)
        self.done.requests += record.requests
        self.done.rows += record.rows
        self.done.tokens += record.tokens

    def _end(self, count: int, resumed: int) -> Summary:
        """Put the output together where all parts are there. Of several processes the last does."""
        from filelock import FileLock

        with FileLock(self.parts.folder / ".merge.lock"):
            if not self.parts.begun:
                return self._summary([], resumed, finished=False)
            records = [r for r in map(self.parts.record, range(count)) if r is not None]
            if len(records) < count:
                if self.share.world == 1:
                    raise DataError(f"{self.parts.folder}: parts vanished during the run; start anew with --restart")
                return self._summary(records, resumed, finished=False)
            summary = self._summary(records, resumed)
            told = {**summary.to_dict(), **self.parts.told()}
            self.target.finish(self.parts, count, columns.schema(self.modes), told)
            self.parts.remove()
        return summary

    def _summary(self, records: Sequence[Record], resumed: int, finished: bool = True) -> Summary:
        seconds = time.perf_counter() - self.began
        total: dict[str, int] = {
            k: sum(getattr(r, k) for r in records) for k in ("requests", "rows", "rejected", "tokens", "asked", "found")
        }
        return Summary(
            input=", ".join(map(str, self.job.sources)),
            output=self.target.text,
            requests=total["requests"],
            rows=total["rows"],
            rejected=total["rejected"],
            rejects_file=self.target.rejects if any(r.rejects for r in records) else None,
            new_items=self.new,
            mode=",".join(self.modes),
            seconds=round(seconds, 3),
            rows_per_second=round(max(0, total["rows"] - resumed) / seconds, 1) if seconds else 0.0,
            tokens=total["tokens"],
            prefix_hits=round(total["found"] / total["asked"], 4) if total["asked"] else 0.0,
            resumed_rows=resumed,
            parts=len(records),
            finished=finished,
        )


class Scorer:
    """Scores chunks. What comes out depends on the chunk alone: nothing is kept from one to the next."""

    def __init__(self, rec: Recommender, modes: Sequence[str], top_k: int | None = None) -> None:
        self.rec, self.modes, self.top_k = rec, modes, top_k

    def score(self, number: int, requests: list[Request], rejects: Rejects) -> tuple[Any, Record]:
        """A chunk's rows as an Arrow table, and the record of it (its size is still to be filled in)."""
        rec = self.rec
        rec.prefixes.clear()
        before, known = self._tokens(), replace(rec.prefixes.stats)
        scored = [rec.score(requests, mode) for mode in self.modes]
        table = columns.table(scored, self.modes, self.top_k)
        kept = rec.prefixes.stats.since(known)
        return table, Record(
            number=number,
            requests=len(requests),
            rows=sum(len(r.candidates) for r in requests),
            rejected=sum(r.counts for r in rejects),
            tokens=self._tokens() - before,
            asked=kept.asked,
            found=kept.found,
            size=0,
            rejects=[r.told() for r in rejects],
        )

    def _tokens(self) -> int:
        return sum(one.runner.tokens_seen for one in self.rec.adapters.values())


def _apart(target: Target, tables: Sequence[Table]) -> None:
    """DataError where the output would take the place of the candidates, or lie among them."""
    for table in tables:
        here = table.local
        if here is not None and target.fs is None and here.resolve() == Path(target.text).resolve():
            raise DataError(f"{target.text}: the output would overwrite the candidates; name another file with -o")
