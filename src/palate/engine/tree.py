"""Candidates of one prompt merged into a token trie, in depth-first order and flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palate.schema import Branch, Ints, Slot


@dataclass(frozen=True, slots=True)
class Tree:
    """Branches of one prompt, shared beginnings stored once.

    tokens, depths, ends: int64 [nodes]; node n is an ancestor of the nodes n .. ends[n] - 1, itself included.
    paths: the nodes of each branch, in the order the branches came in.
    """

    tokens: Ints
    depths: Ints
    ends: Ints
    slots: tuple[Slot, ...]
    paths: list[Ints]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Sorted:
    """Branches in the order of their tokens, so that those with a shared beginning are neighbours.

    order: the branch in each row; keys: int64 [rows, longest], what a position holds (a token, or a negative
    number for a soft token), padded; lengths: int64 [rows]; shared: int64 [rows], positions a row has in common
    with the row before it.
    """

    branches: Sequence[Branch]
    order: Ints
    keys: Ints
    lengths: Ints
    shared: Ints

    @classmethod
    def of(cls, branches: Sequence[Branch], drop_last: bool) -> Sorted:
        """`drop_last` leaves out each branch's last text token and what follows it: nobody reads their hidden states.

        A soft-token position is shared only with the same item's soft token of the same kind and place.
        """
        lengths = np.array([_inputs(b) if drop_last else len(b) for b in branches], dtype=np.int64)
        width = int(lengths.max(initial=0))
        keys = np.full((len(branches), width), _PAST, dtype=np.int64)
        numbers: dict[tuple[str, str, int, int], int] = {}
        for row, branch in enumerate(branches):
            keys[row, : lengths[row]] = branch.token_ids[: lengths[row]]
            for slot in _slots(branch, lengths[row]):
                for place in range(slot.length):
                    name = (slot.modality, slot.item_id, slot.length, place)
                    keys[row, slot.start + place] = _SOFT + numbers.setdefault(name, len(numbers))
        order = np.lexsort(keys.T[::-1]) if width else np.arange(len(branches))
        keys, lengths = keys[order], lengths[order]
        shared = np.zeros(len(branches), dtype=np.int64)
        if len(branches) > 1 and width:
            same = np.logical_and.accumulate(keys[1:] == keys[:-1], axis=1).sum(1)
            shared[1:] = np.minimum(same, lengths[1:])
        return cls(branches, order, keys, lengths, shared)

    def fit(self, first: int, room: int) -> int:
        """Where the longest run of rows from `first` ends whose tree has at most `room` nodes."""
        sizes = self.lengths[first:] - self.shared[first:]
        if len(sizes):
            sizes[0] = self.lengths[first]
        return first + int(np.searchsorted(np.cumsum(sizes), room, side="right"))

    def tree(self, first: int, stop: int) -> Tree:
        """The trie of rows `first .. stop`; its paths follow the rows."""
        keys, lengths, shared = self.keys[first:stop], self.lengths[first:stop], self.shared[first:stop].copy()
        shared[:1] = 0
        rows, width = keys.shape
        columns = np.arange(width)
        fresh = (columns >= shared[:, None]) & (columns < lengths[:, None])
        numbers = np.cumsum(fresh).reshape(rows, width) - 1
        bases = np.concatenate([[0], np.cumsum(fresh.sum(1))])
        # a node of an earlier row serves every later one until a row is fresh in that column again
        latest = np.maximum.accumulate(np.where(fresh, np.arange(rows)[:, None], 0), axis=0)
        nodes = numbers[latest, columns] if width else np.zeros((rows, 0), dtype=np.int64)
        # a node's subtree ends where the next row begins that does not share the node's position
        parting = np.where(shared[:, None] <= columns, np.arange(rows)[:, None], rows)
        after = np.full((rows + 1, width), rows)
        after[:rows] = np.minimum.accumulate(parting[::-1], axis=0)[::-1]
        at_row, at_column = np.nonzero(fresh)
        ends = bases[after[at_row + 1, at_column]]
        found, slots = keys[at_row, at_column], []
        tokens = found.copy()
        for row in sorted(set(at_row[found < 0].tolist())):
            branch = self.branches[self.order[first + row]]
            for slot in _slots(branch, lengths[row]):
                tokens[nodes[row, slot.start : slot.start + slot.length]] = branch.token_ids[slot.start]
                if fresh[row, slot.start]:
                    # a slot's positions follow each other: nothing else can branch off inside it
                    slots.append(Slot(int(nodes[row, slot.start]), slot.length, slot.modality, slot.item_id))
        paths = [nodes[row, : lengths[row]] for row in range(rows)]
        return Tree(tokens, at_column, ends, tuple(slots), paths)


def _inputs(branch: Branch) -> int:
    """How many positions lie before the last text token: a slot is left out whole or not at all."""
    size = len(branch)
    for slot in sorted(branch.slots, key=lambda s: -s.start):
        if slot.start + slot.length == size:
            size = slot.start
    return max(0, size - 1)


def _slots(branch: Branch, length: int) -> list[Slot]:
    return [s for s in branch.slots if s.start < length]


_PAST = np.iinfo(np.int64).min
"""Stands behind a branch's end: sorts first, so a branch comes before those that continue it."""
_SOFT = _PAST // 2
"""Soft tokens are numbered from here, below all tokens, in the order they are first seen."""


def merge(branches: Sequence[Branch], drop_last: bool) -> Tree:
    """All branches in one trie; paths in the order of the branches."""
    rows = Sorted.of(branches, drop_last)
    tree = rows.tree(0, len(branches))
    paths: list[Ints] = [tree.paths[0]] * len(branches)
    for row, number in enumerate(rows.order.tolist()):
        paths[number] = tree.paths[row]
    return Tree(tree.tokens, tree.depths, tree.ends, tree.slots, paths)
