"""FlexAttention over a pack: the block mask from row intervals, and one compiled kernel for all packs.

Every key of a pack is seen by one run of rows: a prompt's token by its segment's rows behind it, a trie's token (in
depth-first order) by its subtree, a memory position by the rows of its segment. So two integers a key say who sees
it, and the relation of blocks that a block-sparse kernel needs follows from them without any mask of rows x keys.

Keys are ordered [padding, memory, the rows' own, padding], so that blocks of rows and of their own keys coincide
whatever the memory: fewer blocks have to be visited. Lengths are padded to few sizes (`bucket`, `key_bucket`),
since the kernel is compiled for each. Source of the method: Dong et al., Flex Attention, 2024 (arXiv:2412.05496).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from palate.errors import PalateError
from palate.schema import Bools, Ints, Segment

BLOCK = 128
"""Rows and keys of one block: what the CUDA kernels expect by default."""

_GRAPHS = 1024
"""Compiled kernels kept in one process. torch's own default, 8, is less than the buckets in use."""

AnyInts = NDArray[np.int32] | NDArray[np.int64]
_Mod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Who sees whom in a pack of T rows and S keys; the last T keys are the rows' own, the S - T before are memory.

    Row q sees key j if first[j] <= q < last[j] and, under a sliding window w, positions[q] - key_positions[j] < w.
    first, last, key_positions: int [S]; positions: int [T], places in the text. Every row must see its own key.
    """

    first: AnyInts
    last: AnyInts
    positions: AnyInts
    key_positions: AnyInts

    @property
    def memory(self) -> int:
        return len(self.first) - len(self.positions)

    @classmethod
    def of(cls, segments: Sequence[Segment], positions: Ints) -> tuple[Geometry, Ints]:
        """The geometry of a pack of `segments` at text `positions` (int64 [T]), and which memory it reads.

        The second value, int64 [M], numbers the memory keys as if the memories of all segments stood one after the
        other: 0 .. M - 1, except that under `Segment.seen` a position stands once for each run of rows that sees it.
        """
        firsts, lasts, places, taken = [], [], [], []
        own_last = np.empty(len(positions), dtype=np.int64)
        base = 0
        for s in segments:
            middle = s.start + s.prefix
            own_last[s.start : middle] = s.stop
            if s.ends is not None:
                own_last[middle : s.stop] = middle + s.ends
            if s.memory:
                at, first, last = _runs(s)
                place = np.arange(s.memory) if s.places is None else s.places
                firsts.append(s.start + first)
                lasts.append(s.start + last)
                places.append(place[at])
                taken.append(base + at)
                base += s.memory
        rows = np.arange(len(positions))
        geometry = cls(
            first=np.concatenate([*firsts, rows]),
            last=np.concatenate([*lasts, own_last]),
            positions=positions,
            key_positions=np.concatenate([*places, positions]),
        )
        return geometry, np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)


def _runs(s: Segment) -> tuple[Ints, Ints, Ints]:
    """Memory positions of a segment with the runs of its rows that see each: position, first row, end row."""
    if s.seen is None:
        return np.arange(s.memory), np.zeros(s.memory, dtype=np.int64), np.full(s.memory, s.stop - s.start)
    edges = np.zeros((s.memory, s.stop - s.start + 2), dtype=np.int8)
    edges[:, 1:-1] = s.seen.T
    change = np.diff(edges, axis=1)
    at, first = np.nonzero(change > 0)
    return at, first, np.nonzero(change < 0)[1]


def bucket(rows: int) -> int:
    """The padded length for `rows`: multiples of 128 up to 1,024, above it eight sizes an octave.

    The padding is under 128 rows up to 1,024 and under an eighth of `rows` above. 40 sizes up to 16,384.
    """
    octave = 1 << max(rows - 1, 1).bit_length() - 1
    step = max(BLOCK, octave // 8)
    return max(-(-rows // step), 1) * step


def key_bucket(rows: int, memory: int) -> int:
    """How many keys to pad to, for `rows` that are already a bucket and `memory` keys before them.

    Memory counts as a power of two from 1,024 on: few sizes, as no kernel visits a block of padding, which
    costs its copy only.
    """
    return rows + (1 << max(memory - 1, 1023).bit_length() if memory else 0)


def block_mask(
    geometry: Geometry, rows: int, keys: int, window: int | None, device: torch.device, block: int = BLOCK
) -> BlockMask:
    """The mask of a pack padded to `rows` and `keys`, both multiples of `block`; its shapes depend on those alone.

    A padding row sees only itself (a softmax over nothing is no number); nobody sees a padding key.
    One mask serves all layers of one window. Built on the host in numpy, uploaded in one copy.
    """
    length, memory = len(geometry.positions), geometry.memory
    if rows % block or keys % block or rows < length or keys < memory + rows:
        raise PalateError(
            f"expected rows >= {length} and keys >= rows + {memory}, multiples of {block}; got {rows} rows and "
            f"{keys} keys: take rows = bucket({length}), keys = key_bucket(rows, {memory})"
        )
    padded = _padded(geometry, rows, keys)
    partial, full = _relation(padded, window, block)
    arrays = [*_ordered(partial), *_ordered(full), *_ordered(partial.T), *_ordered(full.T), padded.first, padded.last]
    if window is not None:
        # The window is added here, so that the kernel holds no number of the model: `reach` is the first unseen place.
        arrays += [padded.positions, padded.key_positions + window]
    tensors = _upload(arrays, device)
    # By keyword and without torch 2.13's dq_ options, so that 2.11 takes it too. `from_kv_blocks` would work out the
    # transposed (q_) lists, which the backward pass reads, on the device.
    return BlockMask(
        seq_lengths=(rows, keys),
        kv_num_blocks=tensors[0][None, None],
        kv_indices=tensors[1][None, None],
        full_kv_num_blocks=tensors[2][None, None],
        full_kv_indices=tensors[3][None, None],
        q_num_blocks=tensors[4][None, None],
        q_indices=tensors[5][None, None],
        full_q_num_blocks=tensors[6][None, None],
        full_q_indices=tensors[7][None, None],
        BLOCK_SIZE=(block, block),
        mask_mod=_seen(*tensors[8:]) if window is None else _seen_within(*tensors[8:]),
    )


def _padded(g: Geometry, rows: int, keys: int) -> Geometry:
    length, own = len(g.positions), np.arange(rows, dtype=np.int32)
    first, last, places = (np.zeros(keys, dtype=np.int32) for _ in range(3))
    first[-rows:], last[-rows:] = own, own + 1
    given = slice(keys - rows - g.memory, keys - rows + length)
    first[given], last[given], places[given] = g.first, g.last, g.key_positions
    positions = np.zeros(rows, dtype=np.int32)
    positions[:length] = g.positions
    blind = (first[-rows:] > own) | (last[-rows:] <= own)
    if blind.any():
        row = int(blind.argmax())
        raise PalateError(
            f"expected every row to see its own key, got row {row} outside first .. last of key {g.memory + row}: "
            "the last T keys must be the rows' own, in the rows' order"
        )
    if last[given].max(initial=0) > length or first.min(initial=0) < 0:
        raise PalateError(
            f"expected first >= 0 and last <= {length} rows, got {first.min()} and {last[given].max()}: "
            "count both in rows of the pack"
        )
    return Geometry(first, last, positions, places)


def _relation(g: Geometry, window: int | None, block: int) -> tuple[Bools, Bools]:
    """bool [row blocks, key blocks] twice: some pair may be seen, but not surely all; every pair is seen."""
    some = g.last > g.first
    at = np.arange(len(g.first)) // block
    shape = (len(g.first) // block, len(g.positions) // block)
    touched = _covering(at[some], g.first[some] // block, -(-g.last[some] // block), shape) > 0
    full = _covering(at[some], -(-g.first[some] // block), g.last[some] // block, shape) == block
    if window is not None:
        row, key = (x.reshape(-1, block) for x in (g.positions, g.key_positions))
        # Nearest and farthest pair by the extremes of both blocks: an estimate on the safe side where segments mix.
        touched &= row.min(1)[None, :] - key.max(1)[:, None] < window
        full &= row.max(1)[None, :] - key.min(1)[:, None] < window
    return (touched & ~full).T, full.T


def _covering(at: AnyInts, low: AnyInts, high: AnyInts, shape: tuple[int, int]) -> Ints:
    """int64 [key blocks, row blocks]: how many keys of block `at` span the row block (low <= block < high)."""
    width = shape[1] + 1
    size = shape[0] * width
    # An interval inside one block covers none (low > high): it must not count backwards.
    steps = np.bincount(at * width + low, minlength=size) - np.bincount(
        at * width + np.maximum(low, high), minlength=size
    )
    return np.cumsum(steps.reshape(shape[0], width), axis=1)[:, :-1]


def _ordered(blocks: Bools) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """A relation as the kernels read it: how many blocks each row has, and their numbers before all others."""
    return blocks.sum(1, dtype=np.int32), np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)


def _upload(arrays: Sequence[AnyInts], device: torch.device) -> list[Tensor]:
    """int32 tensors on `device`, each a piece of one buffer: one copy, which waits for no kernel."""
    # Pieces begin at multiples of 256 bytes, or compiled code would copy what is not aligned.
    starts = np.cumsum([0, *(-(-a.size // 64) * 64 for a in arrays)]).tolist()
    # Not an inference tensor even under inference_mode: it would fail the guards of graphs compiled without.
    with torch.inference_mode(False):
        host = torch.empty(starts[-1], dtype=torch.int32, pin_memory=device.type == "cuda")
        view = host.numpy()
        for array, start in zip(arrays, starts, strict=False):
            view[start : start + array.size] = array.ravel()
        there = host.to(device, non_blocking=True)
        return [there[b : b + a.size].view(a.shape) for a, b in zip(arrays, starts, strict=False)]


# Dynamo guards a closure by its code and the contents of its cells: of a tensor the type, shape, strides and device,
# of a number the value. So masks from these two functions, with other tensors of the same bucket, reach the compiled
# kernel as inputs and compile nothing; a captured Python int that changes from pack to pack would, each time.


def _seen(first: Tensor, last: Tensor) -> _Mod:
    def seen(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (row >= first[key]) & (row < last[key])

    return seen


def _seen_within(first: Tensor, last: Tensor, place: Tensor, reach: Tensor) -> _Mod:
    def seen(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (row >= first[key]) & (row < last[key]) & (place[row] < reach[key])

    return seen


def _capped(softcap: float) -> _ScoreMod:
    def capped(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return capped


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float | None = None, softcap: float | None = None
) -> Tensor:
    """Attention of one layer: query [1, H, T, d], key and value [1, Hkv, S, d] -> [1, H, T, d]; H a multiple of Hkv.

    Keys are the memory, then the T rows' own. T is the pack's length or, where the whole forward is padded, already
    the mask's rows; what is missing to the mask is added here. scale None: d ** -0.5. On CUDA one kernel, compiled
    at the first call of each bucket; elsewhere torch's plain version, which holds all scores at once and is for
    tests. A gradient needs CUDA.
    """
    length, (rows, keys) = query.shape[2], mask.seq_lengths
    if not length <= rows <= keys - (key.shape[2] - length):
        raise PalateError(
            f"expected at most {rows} rows and {keys - rows} keys of memory, as in the mask; got {length} and "
            f"{key.shape[2] - length}: build the mask from this pack's geometry"
        )
    kernel = _compiled() if query.is_cuda else _flex
    before, after = keys - rows - (key.shape[2] - length), rows - length
    out = kernel(
        _fitted(query, 0, after),
        _fitted(key, before, after),
        _fitted(value, before, after),
        mask,
        None if softcap is None else _capped(softcap),
        scale,
    )
    return out[:, :, :length]


def _fitted(x: Tensor, before: int, after: int) -> Tensor:
    """x [1, heads, n, d] with zeros before and after, in one of two layouts.

    Strides are guarded, of axes of length 1 too: a view of a buffer whose size changes would compile again each time.
    """
    if before or after:
        return F.pad(x, (0, 0, before, after))
    _, heads, n, d = x.shape
    if x.stride() in ((heads * n * d, n * d, d, 1), (heads * n * d, d, heads * d, 1)):
        return x
    return x.reshape(-1).view(x.shape)


def _flex(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, score_mod: _ScoreMod | None, scale: float | None
) -> Tensor:
    # ROWS_GUARANTEED_SAFE stays off though every row sees itself: the kernel means the first block that it visits.
    out = flex_attention(query, key, value, score_mod, mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])
    assert isinstance(out, Tensor)
    return out


@cache
def _kernel() -> Callable[..., Tensor]:
    # A function of ours, so that its graphs are counted apart from others' flex_attention; fullgraph, so that running
    # out of graphs is an error and not a silent fall-back to all scores at once.
    return torch.compile(_flex, dynamic=False, fullgraph=True)


def _compiled() -> Callable[..., Tensor]:
    """The compiled kernel. In torch 2.13 these settings belong to the thread, so each call looks after them."""
    config = torch._dynamo.config
    if config.recompile_limit < _GRAPHS:
        config.recompile_limit = _GRAPHS
    if config.accumulated_recompile_limit < _GRAPHS:
        config.accumulated_recompile_limit = _GRAPHS
    return _kernel()
