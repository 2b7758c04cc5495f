"""Keys and values kept from one forward for the next: cached prompts, and the growing trees of a beam search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Block = list[tuple[Tensor, Tensor]]
"""Keys and values of a run of positions, [1, kv_heads, n, d] each, one pair a layer."""


class Memory:
    """Keys and values of `length` positions in every layer, with room behind them.

    A forward writes its new rows into the room and reads old and new as one view, so nothing is copied; `keep`
    then makes the first of the new rows part of the memory, and the next forward overwrites the others.
    """

    def __init__(self, room: int = 0) -> None:
        self.length = 0
        self.room = room
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, blocks: Sequence[Block], room: int) -> Memory:
        """The positions of several blocks one after the other, with room for `room` more."""
        memory = cls(sum(block[0][0].shape[2] for block in blocks) + room)
        for block in blocks:
            for layer, (key, value) in enumerate(block):
                memory.extend(layer, key, value)
            memory.keep(block[0][0].shape[2])
        return memory

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write rows [1, kv_heads, n, d] behind the kept ones; views of all: [1, kv_heads, length + n, d]."""
        stop = self.length + key.shape[2]
        pair = self._layers.get(layer)
        if pair is None or pair[0].shape[2] < stop:
            pair = self._layers[layer] = self._grown(pair, key, value, stop)
        for buffer, new in zip(pair, (key, value), strict=True):
            buffer[:, :, self.length : stop] = new
        return pair[0][:, :, :stop], pair[1][:, :, :stop]

    def _grown(
        self, pair: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor, stop: int
    ) -> tuple[Tensor, Tensor]:
        """Buffers for at least `stop` positions that hold what is kept; doubled, so growth costs O(1) a row."""
        size = max(stop, self.length + self.room) if pair is None else max(stop, 2 * pair[0].shape[2])
        fresh = tuple(x.new_empty((1, x.shape[1], size, x.shape[3])) for x in (key, value))
        if pair is not None:
            for new, old in zip(fresh, pair, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        return fresh[0], fresh[1]

    def keep(self, rows: int) -> None:
        """The first `rows` rows of the last forward belong to the memory from now on."""
        self.length += rows

    def read(self, start: int, stop: int) -> Block:
        """A copy of positions `start .. stop`, one (key, value) pair a layer."""
        parts = [x[:, :, start:stop] for n in sorted(self._layers) for x in self._layers[n]]
        alike = len({x.shape for x in parts}) == 1
        # one piece of memory a block: many small ones kept for long leave holes that no large tensor fits
        copies = torch.stack(parts).unbind() if alike else [x.clone() for x in parts]
        return list(zip(copies[::2], copies[1::2], strict=True))
