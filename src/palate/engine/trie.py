"""The catalogue's titles as a token trie in flat arrays: what constrained generation may say next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.errors import EmptyLegalSet, RequestError
from palate.schema import Bools, Branch, Ints

Index = NDArray[np.int32]
PART = 16_384
"""Titles written at a time."""


@dataclass(frozen=True)
class Trie:
    """Token sequences of N items, merged by shared beginnings; node 0 is the root.

    Nodes are numbered level by level, so the children of node n are `first[n] .. first[n + 1]`, sorted by
    token. `order` lists the items by their sequences, so that the items below node n are
    `order[low[n] : high[n]]`, the ones that end at n first.

    tokens: int32 [nodes], the token that leads to a node (-1 at the root); first: int32 [nodes + 1];
    low, high: int32 [nodes]; order: int32 [N]. Items with one and the same sequence end at one node and are
    all kept. item_ids: the caller's names for items 0 .. N - 1, or empty.
    """

    tokens: Index
    first: Index
    low: Index
    high: Index
    order: Index
    depth: int
    item_ids: tuple[str, ...] = ()

    @classmethod
    def build(cls, sequences: Sequence[Ints], item_ids: Sequence[str] = ()) -> Trie:
        """From one token sequence per item. Raises RequestError where one is empty or there are none."""
        indptr = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum([len(s) for s in sequences], out=indptr[1:])
        flat = np.concatenate([np.asarray(s) for s in sequences]) if len(sequences) else np.empty(0, dtype=np.int64)
        return cls.from_flat(flat, indptr, item_ids)

    @classmethod
    def from_branches(cls, branches: Iterable[Branch]) -> Trie:
        """From the serializer's branches, one an item, looked at once: those of a large catalogue need never be all
        in memory (see `in_parts`). Soft tokens cannot be generated and are refused.
        """
        flat, lengths, names, pending = list[Index](), list[int](), list[str](), list[Ints]()
        for branch in branches:
            if branch.slots:
                raise RequestError(
                    f"item {branch.item_id!r}: expected a title of text tokens to generate, got one with "
                    "soft-token slots; leave the media out of the template's `answer`"
                )
            pending.append(branch.token_ids)
            lengths.append(len(branch.token_ids))
            names.append(branch.item_id)
            if len(pending) == PART:
                flat.append(np.concatenate(pending).astype(np.int32))
                pending.clear()
        flat.append(np.concatenate([np.empty(0, dtype=np.int64), *pending]).astype(np.int32))
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls.from_flat(np.concatenate(flat), indptr, names)

    @classmethod
    def from_flat(cls, tokens: NDArray[np.integer], indptr: Ints, item_ids: Sequence[str] = ()) -> Trie:
        """From all sequences end to end: item i has `tokens[indptr[i] : indptr[i + 1]]`.

        Built level by level with sorting, no Python per node: O(tokens log N) time, and little memory beside
        the result. Raises RequestError for empty sequences, negative tokens, or item_ids of another length.
        """
        count = len(indptr) - 1
        if count < 1:
            raise RequestError("expected at least one title to build a trie from, got none")
        if item_ids and len(item_ids) != count:
            raise RequestError(f"expected {count} item ids, one a title, got {len(item_ids)}")
        lengths = np.diff(indptr)
        if lengths.min() < 1:
            item = int(lengths.argmin())
            name = item_ids[item] if item_ids else item
            raise RequestError(f"item {name!r}: expected a title of at least one token, got an empty one")
        if tokens.min() < 0:
            raise RequestError(f"expected token ids of 0 and more, got {int(tokens.min())}")
        levels, order = _levels(tokens, np.asarray(indptr), lengths)
        depth = len(levels) - 1
        columns = [list(x) for x in zip(*levels, strict=True)]
        levels.clear()
        whole = []
        for column in columns:
            # one kind at a time, so that parts and whole are never all in memory together
            whole.append(np.concatenate(column))
            column.clear()
        first = np.append(whole[1], np.int32(len(whole[0])))
        return cls(whole[0], first, whole[2], whole[3], order, depth, tuple(item_ids))

    def __len__(self) -> int:
        """How many items."""
        return len(self.order)

    @property
    def nodes(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(a.nbytes for a in (self.tokens, self.first, self.low, self.high, self.order))

    def restrict(self, mask: Bools | None = None) -> View:
        """The trie with only the items where `mask` (bool [N]) is True; None allows all. Nothing is rebuilt.

        Raises EmptyLegalSet where no item is left, RequestError for a mask of another length.
        """
        if mask is None:
            return View(self, None, None)
        mask = np.asarray(mask)
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise RequestError(
                f"expected a filter mask of {len(self)} booleans, one an item, got {mask.dtype} {list(mask.shape)}"
            )
        before = np.zeros(len(self) + 1, dtype=np.int32)
        np.cumsum(mask[self.order], out=before[1:])
        if not before[-1]:
            raise EmptyLegalSet(f"the filters leave none of the {len(self)} items to generate; loosen them")
        return View(self, mask, before)

    def ends(self, nodes: Ints) -> Ints:
        """Where the items that end at each node stop in `order`: they are `order[low[n] : ends(n)]`."""
        child = self.first[nodes]
        inner = child < self.first[nodes + 1]
        return np.where(inner, self.low[np.where(inner, child, 0)], self.high[nodes]).astype(np.int64)


@dataclass(frozen=True)
class View:
    """A trie under a filter. before: int32 [N + 1], allowed items before each place in the trie's order."""

    trie: Trie
    mask: Bools | None
    before: Index | None

    def __len__(self) -> int:
        """How many items are allowed."""
        return len(self.trie) if self.before is None else int(self.before[-1])

    def titles(self) -> tuple[Ints, list[Ints]]:
        """All allowed items, in the trie's order, and the tokens of each."""
        trie = self.trie
        places = np.arange(len(trie)) if self.mask is None else np.flatnonzero(self.mask[trie.order])
        nodes, found = np.zeros(len(places), dtype=np.int64), list[Ints]()
        alive, start, stop = np.arange(len(places)), 0, 1
        lengths = np.zeros(len(places), dtype=np.int64)
        while True:
            # a place is below the last node of its level that starts at or before it, if that node reaches so far
            start, stop = int(trie.first[start]), int(trie.first[stop])
            inside = places[alive] >= trie.ends(nodes)
            alive, nodes = alive[inside], nodes[inside]
            if not len(alive):
                break
            nodes = start + np.searchsorted(trie.low[start:stop], places[alive], side="right") - 1
            column = np.zeros(len(places), dtype=np.int64)
            column[alive] = trie.tokens[nodes]
            found.append(column)
            lengths[alive] += 1
        table = np.stack(found, axis=1)
        items: Ints = trie.order[places].astype(np.int64)
        return items, [row[:length] for row, length in zip(table, lengths.tolist(), strict=True)]

    def legal(self, nodes: Ints) -> tuple[Ints, Ints, Ints]:
        """What may follow each node: (row into `nodes`, token, child node), each int64 [L], rows rising."""
        trie = self.trie
        rows, children = ragged(trie.first[nodes], trie.first[nodes + 1])
        if self.before is not None:
            keep = self.before[trie.high[children]] > self.before[trie.low[children]]
            rows, children = rows[keep], children[keep]
        return rows, trie.tokens[children].astype(np.int64), children

    def items(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The allowed items that end at each node: (row into `nodes`, item), each int64 [L]."""
        rows, places = ragged(self.trie.low[nodes], self.trie.ends(nodes))
        items = self.trie.order[places].astype(np.int64)
        if self.mask is not None:
            keep = self.mask[items]
            rows, items = rows[keep], items[keep]
        return rows, items

    def inner(self, nodes: Ints) -> Bools:
        """Whether an allowed item goes on below each node: bool [len(nodes)]."""
        high, ends = self.trie.high[nodes], self.trie.ends(nodes)
        found: Bools = high > ends if self.before is None else self.before[high] > self.before[ends]
        return found


def in_parts(branches: Callable[[Sequence[str]], Iterable[Branch]], item_ids: Sequence[str]) -> Iterator[Branch]:
    """The branches of all items, asked for in parts and forgotten again."""
    for start in range(0, len(item_ids), PART):
        yield from branches(item_ids[start : start + PART])


def ragged(starts: NDArray[np.integer], stops: NDArray[np.integer]) -> tuple[Ints, Ints]:
    """The ranges `starts[i] .. stops[i]` end to end: (i, value), each int64 [total]."""
    counts = (stops - starts).astype(np.int64)
    rows = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    shift = np.asarray(starts, dtype=np.int64) - (np.cumsum(counts) - counts)
    return rows, np.arange(len(rows), dtype=np.int64) + shift[rows]


_Level = tuple[Index, Index, Index, Index]


def _levels(tokens: NDArray[np.integer], indptr: Ints, lengths: Ints) -> tuple[list[_Level], Index]:
    """Arrays (tokens, first, low, high) of each level from the root down, and the items' order.

    A most-significant-digit radix sort whose buckets are the nodes: `items` stay grouped by their node.
    """
    count = len(lengths)
    order = np.empty(count, dtype=np.int32)
    width = int(tokens.max()) + 1
    items = np.arange(count, dtype=np.int64)
    node = np.zeros(count, dtype=np.int64)  # of each item, counted within the level
    token = np.array([-1], dtype=np.int32)
    low, high = np.array([0], dtype=np.int32), np.array([count], dtype=np.int32)
    levels: list[_Level] = []
    total = 1
    for place in range(int(lengths.max()) + 1):
        size = len(token)
        end = lengths[items] == place
        ending = np.bincount(node[end], minlength=size)
        starts = np.cumsum(ending) - ending
        done = node[end]
        order[low[done] + np.arange(len(done)) - starts[done]] = items[end]
        items, node = items[~end], node[~end]
        going = np.bincount(node, minlength=size)
        group = np.cumsum(going) - going
        # one number for (node, token): sorting it keeps nodes together and sorts their children by token
        key = node * width + tokens[indptr[items] + place]
        if len(key) > 1 and (key[1:] < key[:-1]).any():
            by = np.argsort(key, kind="stable")
            key, items = key[by], items[by]
        new = np.flatnonzero(np.diff(key, prepend=-1))
        parent = key[new] // width
        children = np.bincount(parent, minlength=size)
        first = total + np.cumsum(children) - children
        levels.append((token, first.astype(np.int32), low, high))
        if not len(new):
            break
        token = (key[new] % width).astype(np.int32)
        sizes = np.diff(new, append=len(key))
        low = (low[parent] + ending[parent] + new - group[parent]).astype(np.int32)
        high = (low + sizes).astype(np.int32)
        node = np.repeat(np.arange(len(new), dtype=np.int64), sizes)
        total += len(new)
    return levels, order
