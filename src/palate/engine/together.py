"""One pack for requests that begin alike: their prompts are one tree, so that what they share is run once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from palate.engine.budget import out_of_memory
from palate.engine.pack import Job, Packed, Piece
from palate.engine.runner import Output, Runner
from palate.engine.tree import Sorted
from palate.schema import Branch, Pack, Segment


class Together(Runner):
    """A runner for variants of one request: prompts differ in a line or two, or not at all.

    Jobs that fit one pack as one tree are one forward, with every shared beginning, of prompts as of candidates, run
    once. More of them are run as `Runner` does, which finds shared beginnings in memory from its second pack on.
    Results differ by rounding only.
    """

    @torch.inference_mode()
    def run(self, jobs: Iterable[Job]) -> list[Output]:
        """Outputs in the order of the jobs. The model is put into eval mode."""
        listed = list(jobs)
        packed = fold(listed, self.max_tokens)
        if packed is None:
            return super().run(listed)
        self.model.eval()
        try:
            hidden = self.model(packed.pack)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return super().run(listed)  # which takes smaller packs and says so
        self.tokens_seen += len(packed.pack)
        outputs = [Output.of(job) for job in listed]
        self._read(hidden, packed.pieces, outputs, 0)
        return outputs


def fold(jobs: Sequence[Job], max_tokens: int) -> Packed | None:
    """All jobs as one segment: what all begin with is its prefix, the rest a token trie behind it.

    None where nothing is shared, the jobs read different things, or the tree has over `max_tokens` positions.
    """
    if len(jobs) < 2 or len({job.read for job in jobs}) > 1:
        return None
    streams, owners = list[Branch](), list[tuple[int, int]]()
    for number, job in enumerate(jobs):
        for place, stream in enumerate(_streams(job)):
            streams.append(stream)
            owners.append((number, place))
    rows = Sorted.of(streams, drop_last=jobs[0].read == "tokens")
    if int((rows.lengths - rows.shared).sum()) > max_tokens:
        return None
    tree = rows.tree(0, len(streams))
    paths = {owners[row]: path for row, path in zip(rows.order.tolist(), tree.paths, strict=True)}
    # sorted rows: what the first and the last have in common, all have
    trunk = int(np.logical_and.accumulate(rows.keys[0] == rows.keys[-1])[: rows.lengths.min()].sum())
    if not trunk:
        return None
    ends = tree.ends[trunk:] - trunk if trunk < len(tree) else None
    segment = Segment(0, trunk, len(tree) - trunk, ends)
    pieces = []
    for number, job in enumerate(jobs):
        size = min(len(job.prompt), len(paths[number, 0]))
        mine = [paths[number, place][size:] for place in range(len(job.branches))]
        pieces.append(
            Piece(number, job, 0, trunk, branches=range(len(mine)), paths=mine, trunk=paths[number, 0][:size])
        )
    return Packed(Pack(tree.tokens, tree.depths, tree.slots, (segment,)), pieces)


def _streams(job: Job) -> list[Branch]:
    """Everything a job has the model read, from the first token on: one stream a branch."""
    prompt = job.prompt
    if not job.branches:
        size = job.query_at + 1 if job.read == "query" else len(prompt)
        return [Branch("", prompt.token_ids[:size], tuple(s for s in prompt.slots if s.start < size))]
    return [
        Branch(
            branch.item_id,
            np.concatenate([prompt.token_ids, branch.token_ids]),
            (*prompt.slots, *(s.shifted(len(prompt)) for s in branch.slots)),
        )
        for branch in job.branches
    ]
