"""The runner: jobs in, numbers out. Packs, one forward a pack, logits only where a target needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from palate.engine.pack import Job, Packed, Piece, pack
from palate.errors import PalateError
from palate.model import Model
from palate.schema import Floats

ROWS = 1024
"""Rows of logits computed at once: R x V stays small whatever the pack."""


@dataclass(slots=True)
class Output:
    """What one job read.

    tokens: per branch, float32 log-probabilities of its text tokens; labels: float32 [C or 1, L], logits whose
    differences matter; query: float32 [E].
    """

    tokens: list[Floats] = field(default_factory=list)
    labels: Floats = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    query: Floats = field(default_factory=lambda: np.empty(0, dtype=np.float32))


class Runner:
    """Runs jobs through a model in packs of at most `max_tokens` positions.

    A result depends on the job alone: not on its neighbours, their order or the budget, up to the rounding
    of the base's dtype.
    """

    def __init__(self, model: Model, max_tokens: int = 4096) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.tokens_seen = 0

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> list[Output]:
        """Outputs in the order of the jobs. The model is put into eval mode."""
        self.model.eval()
        outputs = [Output() for _ in jobs]
        for job, output in zip(jobs, outputs, strict=True):
            if job.read == "tokens":
                output.tokens = [np.empty(0, dtype=np.float32)] * len(job.branches)
            elif job.read == "labels":
                output.labels = np.empty((max(1, len(job.branches)), len(job.labels)), dtype=np.float32)
        for packed in pack(jobs, self.max_tokens):
            hidden = self.model(packed.pack)
            self.tokens_seen += len(packed.pack)
            self._tokens(hidden, packed, jobs, outputs)
            self._labels(hidden, packed, jobs, outputs)
            self._queries(hidden, packed, jobs, outputs)
        return outputs

    def _tokens(self, hidden: Tensor, packed: Packed, jobs: Sequence[Job], outputs: list[Output]) -> None:
        """Log-probability of each branch token, read at the position before it."""
        rows: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        homes: list[tuple[int, int, int]] = []
        for piece in packed.pieces:
            job = jobs[piece.job]
            if job.read != "tokens":
                continue
            for offset, path in enumerate(piece.paths):
                branch = job.branches[piece.first + offset]
                before = np.concatenate([[piece.start + piece.prefix - 1], path])
                text = np.ones(len(branch), dtype=bool)
                for slot in branch.slots:
                    text[slot.start : slot.start + slot.length] = False
                rows.append(before[text])
                targets.append(branch.token_ids[text])
                homes.append((piece.job, piece.first + offset, int(text.sum())))
        if not homes:
            return
        values = self._logprobs(hidden, np.concatenate(rows), np.concatenate(targets))
        at = 0
        for job_number, branch_number, count in homes:
            outputs[job_number].tokens[branch_number] = values[at : at + count]
            at += count

    def _logprobs(self, hidden: Tensor, rows: np.ndarray, targets: np.ndarray) -> Floats:
        """log p(target | row) for pairs; each distinct row's logits are computed once, in chunks."""
        distinct, inverse = np.unique(rows, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        out = np.empty(len(rows), dtype=np.float32)
        bounds = np.searchsorted(inverse[order], np.arange(0, len(distinct) + ROWS, ROWS))
        for chunk, start in enumerate(range(0, len(distinct), ROWS)):
            picks = order[bounds[chunk] : bounds[chunk + 1]]
            logits = self.model.logits(hidden[torch.from_numpy(distinct[start : start + ROWS]).to(hidden.device)])
            norm = logits.logsumexp(-1)
            at = torch.from_numpy(inverse[picks] - start).to(hidden.device)
            to = torch.from_numpy(targets[picks]).to(hidden.device)
            out[picks] = (logits[at, to] - norm[at]).cpu().numpy()
        return _finite(out)

    def _labels(self, hidden: Tensor, packed: Packed, jobs: Sequence[Job], outputs: list[Output]) -> None:
        homes: list[tuple[int, int]] = []
        rows: list[int] = []
        for piece in packed.pieces:
            if jobs[piece.job].read != "labels":
                continue
            for branch, row in _ends(piece):
                homes.append((piece.job, branch))
                rows.append(row)
        for start in range(0, len(rows), ROWS):
            part = torch.tensor(rows[start : start + ROWS], device=hidden.device)
            asked = [jobs[job].labels for job, _ in homes[start : start + ROWS]]
            tokens, column = np.unique(np.concatenate(asked), return_inverse=True)
            logits = self.model.logits(hidden[part], torch.from_numpy(tokens).to(hidden.device)).cpu().numpy()
            at = 0
            for n, (job, branch) in enumerate(homes[start : start + ROWS]):
                outputs[job].labels[branch] = _finite(logits[n, column[at : at + len(asked[n])]])
                at += len(asked[n])

    def _queries(self, hidden: Tensor, packed: Packed, jobs: Sequence[Job], outputs: list[Output]) -> None:
        homes, rows = [], []
        for piece in packed.pieces:
            prompt = jobs[piece.job].prompt
            if jobs[piece.job].read == "query":
                homes.append(piece.job)
                rows.append(piece.start + (prompt.item_ends[-1] if prompt.item_ends else prompt.start))
        if homes:
            queries = self.model.queries(hidden[torch.tensor(rows, device=hidden.device)]).cpu().numpy()
            for job, query in zip(homes, queries, strict=True):
                outputs[job].query = _finite(query)


def _ends(piece: Piece) -> list[tuple[int, int]]:
    """(branch number, last position) of each branch; the prompt's own end where there are no branches."""
    if not piece.paths:
        return [(0, piece.start + piece.prefix - 1)]
    return [(piece.first + n, int(path[-1])) for n, path in enumerate(piece.paths)]


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise PalateError("the model returned NaN or infinite scores; its weights or inputs are damaged")
    return values
