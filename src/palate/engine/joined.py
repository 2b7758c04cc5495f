"""Jobs in a row that have the same prompt, joined into one: a candidate list that came in several requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from palate.engine.pack import Job
from palate.schema import Branch

if TYPE_CHECKING:
    from palate.engine.runner import Output


class Joined:
    """Iterates over jobs with neighbours of one prompt as one job, and gives each its own part of the output.

    The prefix cache finds what an earlier call has run; this finds what the same call is about to run twice.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = jobs
        self._counts: list[list[int]] = []

    def __iter__(self) -> Iterator[Job]:
        held: Job | None = None
        branches: list[Branch] = []
        for job in self._jobs:
            if held is not None and _alike(held, job):
                self._counts[-1].append(len(job.branches))
                branches += job.branches
                continue
            if held is not None:
                yield _whole(held, branches)
            held, branches = job, list(job.branches)
            self._counts.append([len(branches)])
        if held is not None:
            yield _whole(held, branches)

    def split(self, outputs: Sequence[Output]) -> list[Output]:
        """Outputs of the joined jobs, as outputs of the jobs that were given."""
        out: list[Output] = []
        for output, counts in zip(outputs, self._counts, strict=True):
            if len(counts) == 1:
                out.append(output)
                continue
            at = 0
            for count in counts:
                rows = slice(at, at + count) if count else slice(None)
                out.append(replace(output, tokens=output.tokens[rows], labels=output.labels[rows]))
                at += count
        return out


def _whole(job: Job, branches: Sequence[Branch]) -> Job:
    return job if len(branches) == len(job.branches) else replace(job, branches=tuple(branches))


def _alike(a: Job, b: Job) -> bool:
    """Whether two jobs read the same of the same prompt, if behind branches of their own."""
    return (
        a.read == b.read
        and a.labels == b.labels
        and bool(a.branches) == bool(b.branches)
        and len(a.prompt) == len(b.prompt)
        and a.prompt.slots == b.prompt.slots
        and (a.read != "query" or a.query_at == b.query_at)
        and bool(np.array_equal(a.prompt.token_ids, b.prompt.token_ids))
    )
