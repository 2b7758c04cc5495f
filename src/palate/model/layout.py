"""The geometry of one pack, worked out once and read by every layer: who sees whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from palate.model import flex
from palate.model.memory import Memory
from palate.schema import Ints, Segment

BLOCKWISE = {"cuda"}
"""Kinds of device where a pack attends in one FlexAttention call."""

GROUP = 128
"""Rows of a trie that attend together on a CPU: fewer cost more calls, more cost masked products."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows that attend in one call. Key positions count from the segment's first memory position.

    rows: in the pack; own: the key positions of these rows themselves; common: all keys before it are seen
    (by every row, `segment.seen` and windows apart); chain: the rows see each other causally, else as a trie.
    """

    number: int
    rows: slice
    own: slice
    common: int
    chain: bool


class Layout:
    """Segments with the memory behind each; parts and masks are made when first asked for.

    memory: for each segment its keys and values from earlier forwards, which the forward extends; None where it
    has none and none are wanted.
    """

    def __init__(
        self, segments: Sequence[Segment], memory: Sequence[Memory | None] | None, positions: Ints, device: torch.device
    ) -> None:
        self.segments = tuple(segments)
        self.memory = tuple(memory) if memory is not None else (None,) * len(self.segments)
        for segment, kept in zip(self.segments, self.memory, strict=True):
            assert segment.memory == (kept.length if kept is not None else 0), "a segment's memory must be given"
        self.positions = positions
        self.blockwise = device.type in BLOCKWISE
        self.read = 0  # by how many layers
        self.chains = not any(s.branch or s.memory for s in self.segments)
        self._parts: dict[int, list[Part]] = {}
        self._masks: dict[tuple[int, int | None, torch.dtype, torch.device], Tensor] = {}
        self._last_masks: dict[tuple[int, int | None, torch.dtype, torch.device], Tensor] = {}
        self._geometry: tuple[flex.Geometry, Ints] | None = None
        self._block_masks: dict[tuple[int | None, torch.device], BlockMask] = {}
        self._grid: tuple[list[Tensor], Tensor] | None = None

    def parts(self, number: int, run: int | None = None) -> list[Part]:
        """The runs of rows of one segment that attend together, those of a prefix of at most `run` rows."""
        if number not in self._parts:
            self._parts[number] = self._cut(number, run)
        return self._parts[number]

    def _cut(self, number: int, run: int | None) -> list[Part]:
        s = self.segments[number]
        parts = []
        pieces = -(-s.prefix // (run or s.prefix or 1))
        cuts = [s.prefix * n // pieces for n in range(pieces + 1)] if pieces else []
        for a, b in pairwise(cuts):
            own = slice(s.memory + a, s.memory + b)
            parts.append(Part(number, slice(s.start + a, s.start + b), own, s.memory + a, chain=True))
        common = s.memory + s.prefix
        for a, b in _groups(s.ends) if s.ends is not None else []:
            rows = slice(s.start + s.prefix + a, s.start + s.prefix + b)
            parts.append(Part(number, rows, slice(common + a, common + b), common, chain=False))
        return parts

    def mask(self, part: Part, window: int | None, like: Tensor) -> Tensor:
        """[1, 1, rows, common + own] to add to the logits, on the device and in the dtype of `like`."""
        key = (part.rows.start, window, like.dtype, like.device)
        if key not in self._masks:
            self._masks[key] = added(self._seen(part, window), like.dtype)[None, None].to(like.device)
        return self._masks[key]

    def last_mask(self, part: Part, window: int | None, like: Tensor) -> Tensor:
        """`mask` without the columns before `part.common` where all of those are seen."""
        if window is not None or self.segments[part.number].seen is not None:
            return self.mask(part, window, like)
        key = (part.rows.start, window, like.dtype, like.device)
        if key not in self._last_masks:
            self._last_masks[key] = self.mask(part, window, like)[..., part.common :].contiguous()
        return self._last_masks[key]

    def _seen(self, part: Part, window: int | None) -> Tensor:
        s = self.segments[part.number]
        rows = part.rows.stop - part.rows.start
        seen = torch.ones(rows, part.common + rows, dtype=torch.bool)
        if part.chain:
            seen[:, part.common :] = torch.ones(rows, rows, dtype=torch.bool).tril()
        else:
            assert s.ends is not None
            first = part.rows.start - s.start - s.prefix
            at = torch.arange(rows)
            ends = torch.from_numpy(s.ends[first : first + rows]) - first
            seen[:, part.common :] = (at[None, :] <= at[:, None]) & (at[:, None] < ends[None, :])
        if s.seen is not None:
            first = part.rows.start - s.start
            seen[:, : s.memory] &= torch.from_numpy(s.seen[first : first + rows])
        if window is not None:
            places = np.arange(s.memory) if s.places is None else s.places
            own = self.positions[part.rows]
            prefix = self.positions[s.start : s.start + part.common - s.memory]
            keys = np.concatenate([places, prefix, own])
            seen &= within(torch.from_numpy(own), torch.from_numpy(keys), window)
        return seen

    def block_mask(self, window: int | None, like: Tensor) -> tuple[BlockMask, Ints]:
        """The mask of the whole pack for FlexAttention, and which of all memory positions it reads: int64 [M].

        like: the queries, padding included. The memories of the segments stand one after the other.
        """
        if self._geometry is None:
            self._geometry = flex.Geometry.of(self.segments, self.positions)
        geometry, read = self._geometry
        key = (window, like.device)
        if key not in self._block_masks:
            rows = flex.bucket(like.shape[2])
            keys = flex.key_bucket(rows, geometry.memory)
            self._block_masks[key] = flex.block_mask(geometry, rows, keys, window, like.device)
        return self._block_masks[key], read

    def grid(self) -> tuple[list[Tensor], Tensor]:
        """Group segments of like length: row indices [n, L] into the pack a group, and the way back [T].

        Padding repeats row 0; a causal mask keeps it out of every real row.
        """
        if self._grid is None:
            self._grid = _grid([s.prefix for s in self.segments])
        return self._grid


def within(rows: Tensor, columns: Tensor, window: int | None) -> Tensor:
    """bool [rows, columns]: inside the window; without one, the column's position is not after the row's."""
    apart = rows[:, None] - columns[None, :]
    seen = apart >= 0
    return seen if window is None else seen & (apart < window)


def added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to logits: 0 where seen, the lowest number elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _groups(ends: Ints) -> list[tuple[int, int]]:
    """Cut a trie of `ends` into runs of whole subtrees of at most about GROUP rows; a big subtree stays whole."""
    if len(ends) <= GROUP + GROUP // 2:
        return [(0, len(ends))]
    cuts, at, start = [], 0, 0
    while at < len(ends):
        after = int(ends[at])
        if after - start > GROUP and at > start:
            cuts.append((start, at))
            start = at
        at = after
    return [*cuts, (start, at)]


def _grid(lengths: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = sorted(range(len(lengths)), key=lambda s: lengths[s])
    groups: list[list[int]] = []
    for s in order:
        if groups and lengths[s] <= 1.25 * lengths[groups[-1][0]] + 8:
            groups[-1].append(s)
        else:
            groups.append([s])
    back = np.empty(starts[-1], dtype=np.int64)
    grids, base = [], 0
    for group in groups:
        longest = max(lengths[s] for s in group)
        grid = np.zeros((len(group), longest), dtype=np.int64)
        for row, s in enumerate(group):
            span = np.arange(lengths[s])
            grid[row, : lengths[s]] = starts[s] + span
            back[starts[s] : starts[s] + lengths[s]] = base + row * longest + span
        grids.append(torch.from_numpy(grid))
        base += grid.size
    return grids, torch.from_numpy(back)
