"""Packing: many requests in one unpadded sequence, each prefix once, candidates merged into a token trie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from palate.engine.tree import Sorted, Tree
from palate.errors import BudgetError, RequestError
from palate.model import Block
from palate.schema import Branch, Ints, Pack, Prompt, Segment, Slot

Read = Literal["tokens", "labels", "query"]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt and what to read behind it.

    read="tokens": the log-probability of every text token of every branch (slot positions are not scored).
    read="labels": logits of the `labels` at the last position of every branch, or of the prompt.
    read="query": the matching query at the last history position (`prompt.start` where there is none).
    """

    prompt: Prompt
    read: Read
    branches: tuple[Branch, ...] = ()
    labels: tuple[int, ...] = ()

    @property
    def query_at(self) -> int:
        """The prompt position a matching query is read at."""
        return self.prompt.item_ends[-1] if self.prompt.item_ends else self.prompt.start

    @property
    def needed(self) -> int:
        """Prompt positions before this one may come from memory: no hidden state of theirs is read."""
        return self.whole(min(self.query_at if self.read == "query" else len(self.prompt) - 1, len(self.prompt) - 1))

    def whole(self, place: int) -> int:
        """The last place up to `place` that cuts no soft-token slot in two."""
        for slot in self.prompt.slots:
            if slot.start < place < slot.start + slot.length:
                return slot.start
        return place


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one job that lies in one pack: rows `start ..`, the first `prefix` of them the prompt's.

    number: of the job; part: 0 where the prompt is run, later parts stand behind what part 0 left in memory;
    last: no part follows. memory: prompt positions that are not run here; blocks: where part 0 finds them.
    branches: numbers of the branches that end here; paths: pack positions of each one's input tokens.
    trunk: pack positions of the prompt's tokens, where it shares a tree with other prompts and is no run of its own.
    """

    number: int
    job: Job
    start: int
    prefix: int
    memory: int = 0
    part: int = 0
    last: bool = True
    blocks: Sequence[Block] = ()
    branches: Sequence[int] = ()
    paths: Sequence[Ints] = ()
    trunk: Ints | None = None

    @property
    def end(self) -> int:
        """Pack position of the prompt's last token."""
        return self.start + self.prefix - 1 if self.trunk is None else int(self.trunk[-1])

    def at(self, place: int) -> int:
        """Pack position of one of the prompt's tokens that is run here."""
        return self.start + place - self.memory if self.trunk is None else int(self.trunk[place])


@dataclass(slots=True)
class Packed:
    """A pack with the bookkeeping that leads results back to jobs and branches."""

    pack: Pack
    pieces: list[Piece]


def concat(prompts: Sequence[Prompt]) -> Pack:
    """Prompts side by side, each one causal segment with positions from 0."""
    if not prompts:
        raise RequestError("expected at least one prompt to pack, got none")
    sheet = _Sheet()
    for prompt in prompts:
        sheet.add(prompt, 0, None)
    return sheet.pack()


def pack(
    jobs: Iterable[Job],
    max_tokens: int,
    recall: Callable[[Job], Sequence[Block]] | None = None,
    strict: bool = True,
) -> Iterator[Packed]:
    """Lay jobs into packs of at most `max_tokens` positions, in their order.

    recall: the blocks of a job's prompt that are in memory already. A job whose branches do not fit behind its
    prompt is cut into parts along shared beginnings; the parts after the first run the prompt's last token alone.
    A prompt with a single branch longer than the budget raises BudgetError, or gets a longer pack of its own where
    the budget is not strict.
    """
    sheet, pieces = _Sheet(), list[Piece]()
    for number, job in enumerate(jobs):
        if not len(job.prompt):
            raise RequestError(f"job {number}: expected a prompt of at least one token, got an empty one")
        empty = next((b for b in job.branches if not len(b)), None)
        if empty is not None:
            raise RequestError(f"job {number}: expected candidate {empty.item_id!r} to have a token, got an empty one")
        blocks = recall(job) if recall is not None else ()
        for piece, tree in _parts(number, job, blocks, max_tokens, strict):
            if pieces and sheet.rows + piece.prefix + len(tree or ()) > max_tokens:
                yield Packed(sheet.pack(), pieces)
                sheet, pieces = _Sheet(), []
            pieces.append(_placed(piece, sheet.rows, tree))
            sheet.add(job.prompt, piece.memory, tree)
    if pieces:
        yield Packed(sheet.pack(), pieces)


def _parts(
    number: int, job: Job, blocks: Sequence[Block], max_tokens: int, strict: bool
) -> Iterator[tuple[Piece, Tree | None]]:
    """Cut one job into pieces whose prompt rows and merged branches fit the budget."""
    size, memory = len(job.prompt), sum(block[0][0].shape[2] for block in blocks)
    rows = Sorted.of(job.branches, drop_last=job.read == "tokens") if job.branches else None
    first, part = 0, 0
    while True:
        room = max_tokens - (size - memory)
        if not strict:
            room = max(room, 0 if rows is None else int(rows.lengths.max()))
        stop = 0 if rows is None else rows.fit(first, room)
        if room < 0 or (rows is not None and stop == first):
            longest = "" if rows is None else f" with a candidate of {int(rows.lengths[first])}"
            raise BudgetError(
                f"a prompt of {size} tokens{longest} does not fit a pack of {max_tokens} tokens; "
                "raise max_tokens or shorten the prompt"
            )
        tree = None if rows is None else rows.tree(first, stop)
        names = [] if rows is None else rows.order[first:stop].tolist()
        last = stop == len(job.branches)
        yield (
            Piece(number, job, 0, size - memory, memory, part, last, blocks if part == 0 else (), names),
            tree if tree is not None and len(tree) else None,
        )
        if last:
            return
        first, part, memory = stop, part + 1, job.needed


def _placed(piece: Piece, start: int, tree: Tree | None) -> Piece:
    base = start + piece.prefix
    empty = np.empty(0, dtype=np.int64)
    paths = [path + base for path in tree.paths] if tree is not None else [empty] * len(piece.branches)
    return Piece(
        piece.number, piece.job, start, piece.prefix, piece.memory, piece.part, piece.last, piece.blocks,
        piece.branches, paths,
    )  # fmt: skip


@dataclass(slots=True)
class _Sheet:
    """A pack in the making."""

    rows: int = 0
    tokens: list[Ints] = field(default_factory=list)
    positions: list[Ints] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    def add(self, prompt: Prompt, memory: int, tree: Tree | None) -> None:
        """Append a prompt's positions from `memory` on, and the branches behind it."""
        size = len(prompt)
        self.tokens.append(prompt.token_ids[memory:])
        self.positions.append(np.arange(memory, size, dtype=np.int64))
        start = self.rows - memory
        self.slots += [s.shifted(start) for s in prompt.slots if s.start >= memory]
        if tree is not None:
            self.tokens.append(tree.tokens)
            self.positions.append(size + tree.depths)
            self.slots += [s.shifted(start + size) for s in tree.slots]
        nodes, ends = (len(tree), tree.ends) if tree is not None else (0, None)
        self.segments.append(Segment(self.rows, size - memory, nodes, ends, memory))
        self.rows += size - memory + nodes

    def pack(self) -> Pack:
        return Pack(
            np.concatenate(self.tokens), np.concatenate(self.positions), tuple(self.slots), tuple(self.segments)
        )
