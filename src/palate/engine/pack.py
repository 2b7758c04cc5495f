"""Packing: many requests in one unpadded sequence, each prefix once, candidates merged into a token trie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from palate.errors import BudgetError, RequestError
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


@dataclass(slots=True)
class Piece:
    """The part of one job that lies in one pack.

    paths: for each branch in `first .. first + len(paths)`, pack positions of its tokens (input tokens only).
    """

    job: int
    first: int
    start: int
    prefix: int
    paths: list[Ints] = field(default_factory=list)


@dataclass(slots=True)
class Packed:
    """A pack with the bookkeeping that leads results back to jobs and branches."""

    pack: Pack
    pieces: list[Piece]


@dataclass(slots=True)
class Tree:
    """Branches of one prompt merged by shared token prefixes; nodes are in parent-before-child order.

    tokens, parents (-1: the prompt's end), depths: int64 [nodes]; paths: node numbers of each branch.
    """

    tokens: Ints
    parents: Ints
    depths: Ints
    slots: tuple[Slot, ...]
    paths: list[Ints]

    def ancestors(self) -> np.ndarray:
        """bool [nodes, nodes]: row attends to column."""
        n = len(self.tokens)
        seen = np.eye(n, dtype=bool)
        for node, parent in enumerate(self.parents.tolist()):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def merge(branches: Sequence[Branch], drop_last: bool) -> Tree:
    """Merge branches into a token trie. `drop_last` leaves out each last token, whose own hidden state nobody reads.

    A soft-token position merges only with the same item's soft token of the same kind and place.
    """
    nodes: dict[tuple[int, object], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    slots: list[Slot] = []
    paths = []
    for branch in branches:
        soft = {s.start + i: (s, i) for s in branch.slots for i in range(s.length)}
        at, path = -1, []
        length = len(branch) - 1 if drop_last else len(branch)
        for place in range(length):
            token = int(branch.token_ids[place])
            slot = soft.get(place)
            key = (at, token if slot is None else (slot[0].modality, slot[0].item_id, slot[1]))
            node = nodes.get(key)
            if node is None:
                node = nodes[key] = len(tokens)
                tokens.append(token)
                parents.append(at)
                depths.append(place)
                if slot is not None and slot[1] == 0:
                    # a slot's positions follow each other: nothing else can branch off inside it
                    slots.append(Slot(node, slot[0].length, slot[0].modality, slot[0].item_id))
            at = node
            path.append(node)
        paths.append(np.array(path, dtype=np.int64))
    a, b, c = (np.array(x, dtype=np.int64) for x in (tokens, parents, depths))
    return Tree(a, b, c, slots=tuple(slots), paths=paths)


def concat(prompts: Sequence[Prompt]) -> Pack:
    """Prompts side by side, each one causal segment with positions from 0."""
    return _assemble([(p, None) for p in prompts])


def _assemble(parts: Sequence[tuple[Prompt, Tree | None]]) -> Pack:
    tokens, positions, slots, segments, start = [], [], [], [], 0
    for prompt, tree in parts:
        size = len(prompt)
        tokens.append(prompt.token_ids)
        positions.append(np.arange(size, dtype=np.int64))
        slots += [s.shifted(start) for s in prompt.slots]
        nodes = 0 if tree is None else len(tree.tokens)
        if tree is not None and nodes:
            tokens.append(tree.tokens)
            positions.append(size + tree.depths)
            slots += [s.shifted(start + size) for s in tree.slots]
        segments.append(Segment(start, size, nodes, tree.ancestors() if tree is not None and nodes else None))
        start += size + nodes
    if not parts:
        raise RequestError("expected at least one prompt to pack, got none")
    return Pack(np.concatenate(tokens), np.concatenate(positions), tuple(slots), tuple(segments))


def pack(jobs: Sequence[Job], max_tokens: int) -> Iterator[Packed]:
    """Lay jobs into packs of at most `max_tokens` positions.

    A job whose branches do not fit behind one copy of its prompt is cut into several pieces, each with the
    prompt again. A single prompt with a single branch longer than the budget raises BudgetError.
    """
    parts: list[tuple[Prompt, Tree | None]] = []
    pieces: list[Piece] = []
    used = 0
    for number, job in enumerate(jobs):
        for first, tree in _pieces(number, job, max_tokens):
            size = len(job.prompt) + (0 if tree is None else len(tree.tokens))
            if parts and used + size > max_tokens:
                yield Packed(_assemble(parts), pieces)
                parts, pieces, used = [], [], 0
            base = used + len(job.prompt)
            paths = [] if tree is None else [path + base for path in tree.paths]
            pieces.append(Piece(number, first, used, len(job.prompt), paths))
            parts.append((job.prompt, tree))
            used += size
    if parts:
        yield Packed(_assemble(parts), pieces)


def _pieces(number: int, job: Job, max_tokens: int) -> Iterator[tuple[int, Tree | None]]:
    """Cut one job's branches into runs whose merged tree fits the budget: (first branch, tree)."""
    if not len(job.prompt):
        raise RequestError(f"job {number}: expected a prompt of at least one token, got an empty one")
    if not job.branches:
        if len(job.prompt) > max_tokens:
            raise BudgetError(f"a prompt of {len(job.prompt)} tokens does not fit a pack of {max_tokens}")
        yield 0, None
        return
    drop = job.read == "tokens"
    room = max_tokens - len(job.prompt)
    first = 0
    while first < len(job.branches):
        stop, total = first, 0
        while stop < len(job.branches):
            total += len(job.branches[stop]) - (1 if drop else 0)
            if total > room and stop > first:
                break
            stop += 1
        tree = merge(job.branches[first:stop], drop)
        if len(tree.tokens) > room:
            raise BudgetError(
                f"a prompt of {len(job.prompt)} tokens with a candidate of {len(job.branches[first])} does not "
                f"fit a pack of {max_tokens} tokens; raise max_tokens or shorten the prompt"
            )
        yield first, tree
        first = stop
