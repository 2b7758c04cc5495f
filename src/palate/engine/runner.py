"""The runner: jobs in, numbers out. Packs, one forward a pack, logits only where a target needs them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from palate.engine.ahead import ahead
from palate.engine.budget import Budget, out_of_memory
from palate.engine.joined import Joined
from palate.engine.pack import Job, Packed, Piece, pack
from palate.engine.prefix import PrefixCache
from palate.errors import PalateError, PalateWarning
from palate.model import Memory, Model
from palate.schema import Floats, Ints

ROWS = 1024
"""Rows of logits computed at once."""
FEW = 8
"""On CUDA more requests than this in one call do without kept prefixes, whose many small copies each launch a kernel.
A choice made without a GPU at hand: to be measured."""


@dataclass(slots=True)
class Output:
    """What one job read.

    tokens: per branch, float32 log-probabilities of its text tokens; labels: float32 [C or 1, L], logits whose
    differences matter; query: float32 [E].
    """

    tokens: list[Floats] = field(default_factory=list)
    labels: Floats = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    query: Floats = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    @classmethod
    def of(cls, job: Job) -> Output:
        """Empty places for what the job reads."""
        if job.read == "tokens":
            return cls(tokens=[np.empty(0, dtype=np.float32)] * len(job.branches))
        if job.read == "labels":
            return cls(labels=np.empty((max(1, len(job.branches)), len(job.labels)), dtype=np.float32))
        return cls()


class Runner:
    """Runs jobs through a model in packs of at most `max_tokens` positions.

    A result depends on the job alone: not on its neighbours, their order, the budget or what is in memory, up to
    the rounding of the base's dtype. max_tokens: None takes what the device's memory allows (a longer prompt gets a
    pack of its own); where memory runs out all the same, the budget is halved with a warning and the work goes on.
    prefixes: keys and values kept across calls; None keeps none.
    """

    def __init__(self, model: Model, max_tokens: int | None = None, prefixes: PrefixCache | None = None) -> None:
        self.model = model
        self.budget = Budget.of(model, max_tokens)
        self.prefixes = prefixes
        self.tokens_seen = 0

    @property
    def max_tokens(self) -> int:
        return self.budget.tokens

    @torch.inference_mode()
    def run(self, jobs: Iterable[Job]) -> list[Output]:
        """Outputs in the order of the jobs, which are taken as they come: the next pack is prepared while one runs.

        Neighbours with the same prompt are one job. The model is put into eval mode.
        """
        self.model.eval()
        joined = Joined(jobs)
        source: Iterator[Job] = iter(joined)
        taken, outputs = list[Job](), list[Output]()
        cuda = self.model.device.type == "cuda"
        first = list(islice(source, FEW + 1)) if cuda else []
        source = chain(first, source)
        # without a cache of the caller's, what all prompts begin with is still run once a call
        kept = self.prefixes or PrefixCache(max_bytes=64 * 2**20, sparing=True)
        prefixes = None if cuda and (len(first) > FEW or self.prefixes is None) else kept

        def remembered() -> Iterator[Job]:
            for job in source:
                taken.append(job)
                outputs.append(Output.of(job))
                yield job

        start: int | None = 0
        while start is not None:
            # where memory ran out, what is not finished runs again in smaller packs, then the rest of the source
            start = self._sweep(chain(taken[start:], remembered()), outputs, start, prefixes)
        return joined.split(outputs)

    def _sweep(
        self, jobs: Iterable[Job], outputs: list[Output], offset: int, prefixes: PrefixCache | None
    ) -> int | None:
        """Run jobs (numbered from `offset`) until done (None) or memory runs out (the first unfinished job)."""
        held: dict[int, Memory] = {}
        # once a sweep: to see that no weight has changed takes longer than to look up a prompt
        stamp = b"" if prefixes is None else prefixes.stamp(self.model)
        recall = None if prefixes is None else prefixes.recaller(stamp)
        packing = pack(jobs, self.max_tokens, recall, strict=self.budget.chosen)
        with ahead(packing, self.model.device.type == "cuda") as packs:
            for packed in packs:
                try:
                    self._forward(packed, held, outputs, offset, prefixes, stamp)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    smaller = self.budget.halved(error)
                else:
                    continue
                warnings.warn(
                    f"out of memory in a pack of {len(packed.pack)} tokens; going on with packs of at most "
                    f"{smaller.tokens} (scores stay the same)", PalateWarning, stacklevel=3,
                )  # fmt: skip
                self.budget = smaller
                return offset + packed.pieces[0].number
        return None

    def _forward(
        self,
        packed: Packed,
        held: dict[int, Memory],
        outputs: list[Output],
        offset: int,
        prefixes: PrefixCache | None,
        stamp: bytes,
    ) -> None:
        sizes = [s.prefix + s.branch for s in packed.pack.segments]
        memory = [_memory(p, rows, held, prefixes) for p, rows in zip(packed.pieces, sizes, strict=True)]
        hidden = self.model(packed.pack, memory)
        self.tokens_seen += len(packed.pack)
        for piece, kept in zip(packed.pieces, memory, strict=True):
            if kept is not None and piece.part == 0:
                kept.keep(piece.prefix)
                if prefixes is not None:
                    prefixes.store(stamp, piece.job.prompt, kept)
                kept.length = piece.job.needed
            if piece.last:
                held.pop(piece.number, None)
        self._read(hidden, packed.pieces, outputs, offset)

    def _read(self, hidden: Tensor, pieces: Sequence[Piece], outputs: list[Output], offset: int) -> None:
        """Fill in what the jobs of these pieces ask for."""
        _tokens(self.model, hidden, pieces, outputs, offset)
        _labels(self.model, hidden, pieces, outputs, offset)
        _queries(self.model, hidden, pieces, outputs, offset)


def _memory(piece: Piece, rows: int, held: dict[int, Memory], prefixes: PrefixCache | None) -> Memory | None:
    """What the piece's `rows` stand behind: its own prompt's earlier positions, or nothing."""
    if piece.part > 0:
        return held[piece.number]
    if piece.blocks:
        memory = Memory.of(piece.blocks, rows)
    elif not piece.last or (prefixes is not None and prefixes.wants(piece.blocks)):
        memory = Memory(rows)
    else:
        return None
    if not piece.last:
        held[piece.number] = memory
    return memory


def _tokens(model: Model, hidden: Tensor, pieces: Sequence[Piece], outputs: list[Output], offset: int) -> None:
    """Log-probability of each branch token, read at the position before it."""
    rows: list[Ints] = []
    targets: list[Ints] = []
    homes: list[tuple[int, int, int]] = []
    for piece in pieces:
        if piece.job.read != "tokens":
            continue
        for number, path in zip(piece.branches, piece.paths, strict=True):
            branch = piece.job.branches[number]
            before, ids = np.concatenate([[piece.end], path]), branch.token_ids
            if branch.slots:
                text = np.ones(len(branch), dtype=bool)
                for slot in branch.slots:
                    text[slot.start : slot.start + slot.length] = False
                before, ids = before[text[: len(before)]], ids[text]
            rows.append(before)
            targets.append(ids)
            homes.append((piece.number + offset, number, len(ids)))
    if not homes:
        return
    values = _logprobs(model, hidden, np.concatenate(rows), np.concatenate(targets))
    at = 0
    for job, number, count in homes:
        outputs[job].tokens[number] = values[at : at + count]
        at += count


def _logprobs(model: Model, hidden: Tensor, rows: Ints, targets: Ints) -> Floats:
    """log p(target | row) for pairs; each distinct row's logits are computed once, ROWS rows at a time."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(0, len(distinct) + ROWS, ROWS))
    places, at, to = (torch.from_numpy(x).to(hidden.device) for x in (distinct, inverse[order], targets[order]))
    chunks = []
    for chunk, start in enumerate(range(0, len(distinct), ROWS)):
        picks = slice(bounds[chunk], bounds[chunk + 1])
        chunks.append(model.logprobs(hidden[places[start : start + ROWS]], at[picks] - start, to[picks]))
    out = np.empty(len(rows), dtype=np.float32)
    out[order] = torch.cat(chunks).cpu().numpy()
    return _finite(out)


def _labels(model: Model, hidden: Tensor, pieces: Sequence[Piece], outputs: list[Output], offset: int) -> None:
    homes: list[tuple[int, int, tuple[int, ...]]] = []
    rows: list[int] = []
    for piece in pieces:
        if piece.job.read == "labels":
            for number, row in _ends(piece):
                homes.append((piece.number + offset, number, piece.job.labels))
                rows.append(row)
    for start in range(0, len(rows), ROWS):
        part = torch.tensor(rows[start : start + ROWS], device=hidden.device)
        asked = homes[start : start + ROWS]
        tokens, column = np.unique(np.concatenate([labels for _, _, labels in asked]), return_inverse=True)
        logits = model.logits(hidden[part], torch.from_numpy(tokens).to(hidden.device)).cpu().numpy()
        at = 0
        for n, (job, number, labels) in enumerate(asked):
            outputs[job].labels[number] = _finite(logits[n, column[at : at + len(labels)]])
            at += len(labels)


def _queries(model: Model, hidden: Tensor, pieces: Sequence[Piece], outputs: list[Output], offset: int) -> None:
    asked = [p for p in pieces if p.job.read == "query"]
    if asked:
        rows = [p.at(p.job.query_at) for p in asked]
        queries = model.queries(hidden[torch.tensor(rows, device=hidden.device)]).cpu().numpy()
        for piece, query in zip(asked, queries, strict=True):
            outputs[piece.number + offset].query = _finite(query)


def _ends(piece: Piece) -> list[tuple[int, int]]:
    """(branch number, last position) of each branch; the prompt's own end where there are no branches."""
    if not piece.job.branches:
        return [(0, piece.end)]
    return [(n, int(path[-1])) for n, path in zip(piece.branches, piece.paths, strict=True)]


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise PalateError("the model returned NaN or infinite scores; its weights or inputs are damaged")
    return values
