"""The growing trees of a beam search: each prompt's keys and values once, each hypothesis' token once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from palate.engine.pack import Job, pack
from palate.engine.prefix import PrefixCache
from palate.model import Memory, Model
from palate.schema import Bools, Ints, Pack, Prompt, Segment

PREFILL = 4096
"""Prompt positions run at once."""


class Forest:
    """One memory a prompt; a step adds one row for each live hypothesis behind it.

    Rows are never copied from hypothesis to hypothesis: all of a prompt's share one memory, and each knows which of
    its rows are its own ancestors.
    """

    def __init__(self, model: Model, prompts: Sequence[Prompt], prefixes: PrefixCache | None = None) -> None:
        self.model = model
        self.memories = [Memory() for _ in prompts]
        self._depths: list[list[Ints]] = [[np.arange(len(p), dtype=np.int64)] for p in prompts]
        # for each prompt: bool [live rows, memory rows behind the prompt], the ancestors of each row
        self._seen: list[Bools] = [np.zeros((1, 0), dtype=np.bool_) for _ in prompts]
        self._sizes = [len(p) for p in prompts]
        self._prefixes = prefixes

    def prefill(self, prompts: Sequence[Prompt]) -> Tensor:
        """Run the prompts, of any lengths; their last hidden states [G, D]."""
        stamp = b"" if self._prefixes is None else self._prefixes.stamp(self.model)
        recall = None if self._prefixes is None else self._prefixes.recaller(stamp)
        longest = max(len(p) for p in prompts)
        hidden = []
        for packed in pack((Job(p, "labels") for p in prompts), max(PREFILL, longest), recall):
            memories = [Memory.of(piece.blocks, piece.prefix) for piece in packed.pieces]
            rows = self.model(packed.pack, memories)
            for piece, memory in zip(packed.pieces, memories, strict=True):
                memory.keep(piece.prefix)
                self.memories[piece.number] = memory
                if self._prefixes is not None:
                    self._prefixes.store(stamp, piece.job.prompt, memory)
            hidden.append(rows[torch.tensor([p.end for p in packed.pieces], device=rows.device)])
        return torch.cat(hidden)

    def step(self, tokens: Ints, parents: Ints, users: Ints, max_rows: int) -> Tensor:
        """Give each of R new hypotheses one token: int64 [R] -> hidden [R, D].

        parents: the place of each one's parent among the rows of its prompt in the last step (0 in the first);
        users: its prompt, rising. `max_rows` rows run at once.
        """
        # bool [new rows, memory rows behind the prompt] of each prompt
        ancestors = [seen[parents[users == u]] for u, seen in enumerate(self._seen)]
        done = [0] * len(self.memories)
        out = []
        for start in range(0, len(tokens), max_rows):
            part = users[start : start + max_rows]
            segments: list[Segment] = []
            positions, present = [], []
            for user in np.unique(part).tolist():
                rows = int((part == user).sum())
                segments.append(self._segment(user, sum(s.branch for s in segments), rows, ancestors[user], done))
                positions.append(np.full(rows, self._place(user), dtype=np.int64))
                present.append(user)
            packed = Pack(tokens[start : start + max_rows], np.concatenate(positions), (), tuple(segments))
            out.append(self.model(packed, [self.memories[u] for u in present]))
            for user, segment in zip(present, segments, strict=True):
                self.memories[user].keep(segment.branch)
                done[user] += segment.branch
        for user, count in enumerate(done):
            self._depths[user].append(np.full(count, self._place(user), dtype=np.int64))
            self._seen[user] = np.hstack([ancestors[user], np.eye(count, dtype=np.bool_)]) if count else ancestors[user]
        return torch.cat(out)

    def _place(self, user: int) -> int:
        """The position in the text that a prompt's next tokens get."""
        return self._sizes[user] + len(self._depths[user]) - 1

    def _segment(self, user: int, start: int, rows: int, ancestors: Bools, done: list[int]) -> Segment:
        """The next rows of one prompt, which see the prompt and their ancestors, not each other."""
        first, size = done[user], self._sizes[user]
        seen = np.zeros((rows, self.memories[user].length), dtype=np.bool_)
        seen[:, :size] = True
        seen[:, size : size + ancestors.shape[1]] = ancestors[first : first + rows]
        places = np.concatenate([*self._depths[user], np.full(first, self._place(user))])
        ends = np.arange(1, rows + 1, dtype=np.int64)
        return Segment(start, 0, rows, ends, self.memories[user].length, seen, places)
