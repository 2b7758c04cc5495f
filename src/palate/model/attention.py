"""Attention over a pack: many requests in one row, each a causal prefix with a token trie behind it.

Registered with transformers' attention interface under NAME, so that every architecture that goes through the
interface reads packs without changes. No mask over the whole pack is ever built. On a CPU each segment attends by
itself, its trie in groups of whole subtrees; on CUDA one FlexAttention call reads the same geometry.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from palate.errors import ConfigError, PalateError, PalateWarning
from palate.model import flex
from palate.model.layout import Layout, Part, added, within

NAME = "palate_packed"
RUN = 128
"""Rows of a prefix that attend together by plain products: longer runs multiply more of what the mask takes away."""


def register() -> str:
    """Make NAME known to transformers; safe to call again. Returns NAME."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer: query [1, heads, T, d], key and value [1, kv_heads, T, d] -> [1, T, heads, d].

    With a `layout` the row is a pack. Without one it is an ordinary causal call of any batch size, where the
    queries are the last T of S positions.
    """
    rule = _Rule(scaling, kwargs.get("softcap"), kwargs.get("sliding_window"))
    if layout is None:
        return rule.causal(query, key, value).transpose(1, 2), None
    if attention_mask is not None or kwargs.get("s_aux") is not None:
        raise ConfigError("this base's attention has sinks or a mask of its own; packs ignore those, use another base")
    layout.read += 1
    if query.requires_grad and layout.chains and query.device.type == "cpu":
        return _batched(query, key, value, layout, rule).transpose(1, 2), None
    layer: int = module.layer_idx  # type: ignore[assignment]  # every attention of transformers carries its number
    seen = [
        (key[:, :, rows], value[:, :, rows])
        if memory is None
        else memory.extend(layer, key[:, :, rows], value[:, :, rows])
        for rows, memory in zip((slice(s.start, s.stop) for s in layout.segments), layout.memory, strict=True)
    ]
    if layout.blockwise and _kernel.works:
        try:
            return _blockwise(query, key, value, seen, layout, rule).transpose(1, 2), None
        except Exception as error:
            if isinstance(error, (torch.OutOfMemoryError, PalateError)):
                raise
            _kernel.give_up(error)
    out = []
    for number, (k, v) in enumerate(seen):
        for part in layout.parts(number, RUN if _multiplies(query) else None):
            out.append(_attend(query[:, :, part.rows], k, v, part, layout, rule).transpose(1, 2))
    joined = torch.cat(out, dim=1)
    spare = query.shape[2] - joined.shape[1]
    return (F.pad(joined, (0, 0, 0, 0, 0, spare)) if spare else joined), None


class _Kernel:
    """Whether FlexAttention can be compiled here; it needs Triton and a compiler, which not every machine has."""

    works = True

    def give_up(self, error: Exception) -> None:
        """Say once that the slower way is taken from now on."""
        self.works = False
        first = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"FlexAttention does not run here ({type(error).__name__}: {first}); packs attend segment by segment, "
            "which gives the same scores more slowly",
            PalateWarning,
            stacklevel=2,
        )


_kernel = _Kernel()


def _blockwise(
    query: Tensor, key: Tensor, value: Tensor, seen: Sequence[tuple[Tensor, Tensor]], layout: Layout, rule: _Rule
) -> Tensor:
    """The whole pack in one FlexAttention call: its keys are all memories one after the other, then its own rows."""
    mask, read = layout.block_mask(rule.window, query)
    if len(read):
        at = torch.from_numpy(read).to(query.device)
        kept = [(k[:, :, : s.memory], v[:, :, : s.memory]) for (k, v), s in zip(seen, layout.segments, strict=True)]
        keys, values = (torch.cat(x, dim=2)[:, :, at] for x in zip(*kept, strict=True))
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    return flex.attend(query, key, value, mask, rule.scaling, rule.softcap)


def _multiplies(q: Tensor) -> bool:
    """Whether these queries attend by plain products (`_Rule.multiplied`)."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu"


def _attend(q: Tensor, k: Tensor, v: Tensor, part: Part, layout: Layout, rule: _Rule) -> Tensor:
    """One run of rows over the keys it can see: those before `part.common`, and its own group behind them."""
    if part.own.start == part.common:
        k, v = k[:, :, : part.own.stop], v[:, :, : part.own.stop]
    else:
        k, v = (torch.cat([x[:, :, : part.common], x[:, :, part.own]], dim=2) for x in (k, v))
    if _multiplies(q):
        return rule.multiplied(q, k, v, layout.last_mask(part, rule.window, q))
    if part.chain and not rule.windowed(k.shape[2]) and q.shape[2] in (1, k.shape[2]):
        return rule.attend(q, k, v, None, causal=q.shape[2] > 1)
    return rule.attend(q, k, v, layout.mask(part, rule.window, q))


class _Rule:
    """What an architecture adds to plain attention: its scale, logit soft-cap and sliding window."""

    __slots__ = ("scaling", "softcap", "window")

    def __init__(self, scaling: float | None, softcap: float | None, window: int | None) -> None:
        self.scaling, self.softcap, self.window = scaling, softcap, window

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """Scaled dot-product attention; `mask` is added to the logits."""
        if self.softcap is None:
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=self.scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        if causal:
            at = torch.arange(k.shape[2], device=q.device)
            mask = added(within(at, at, None), q.dtype)
        return self.written_out(q, k, v, mask)

    def written_out(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention as its formula: what soft-capped logits need, and quicker backwards on a CPU."""
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        logits = torch.matmul(q, k.transpose(2, 3)) * (self.scaling or q.shape[-1] ** -0.5)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        if mask is not None:
            logits = logits + mask
        return torch.matmul(logits.float().softmax(-1).to(v.dtype), v)

    def multiplied(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Attention as two plain products, which a CPU takes in bfloat16 as fast as a linear layer's.

        Its scaled_dot_product_attention multiplies at float32's pace there. Query heads that share keys become rows of
        one product. mask [1, 1, R, M] is that of the last M keys; all before them are seen. Measured on two cores, 128
        rows of a trie behind 300 tokens: 0.6 ms against 1.2 (docs/notes/2026-11-24-cpu-bfloat16.md).
        """
        _, heads, rows, width = q.shape
        shared, keys = k.shape[1], k.shape[2]
        grouped = q.reshape(shared, -1, width)
        # beta=0: the first argument is not read, and the scale is applied before anything is rounded
        logits = torch.baddbmm(q.new_empty(()), grouped, k[0].mT, beta=0, alpha=self.scaling or width**-0.5)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        logits.view(heads, rows, keys)[..., keys - mask.shape[-1] :] += mask[0]
        return torch.bmm(logits.softmax(-1), v[0]).view(1, heads, rows, -1)

    def causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries that are the last positions of an ordinary row."""
        new, total = q.shape[2], k.shape[2]
        if not self.windowed(total) and new in (1, total):
            return self.attend(q, k, v, None, causal=new > 1)
        at = torch.arange(total, device=q.device)
        return self.attend(q, k, v, added(within(at[total - new :], at, self.window), q.dtype))

    def windowed(self, length: int) -> bool:
        return self.window is not None and length > self.window


def _batched(q: Tensor, k: Tensor, v: Tensor, layout: Layout, rule: _Rule) -> Tensor:
    """Training on a CPU: segments padded into few batches, attention written out.

    Measured on two cores, 40 segments of 40 tokens: 8 ms forward and backward, against 60 ms for one
    scaled_dot_product_attention a segment, whose CPU backward is slow on short rows.
    """
    grids, back = layout.grid()
    out = []
    for grid in grids:
        at = torch.arange(grid.shape[1])
        mask = added(within(at, at, rule.window), q.dtype)
        gq, gk, gv = (
            x[0].index_select(1, grid.flatten()).view(x.shape[1], *grid.shape, -1).transpose(0, 1) for x in (q, k, v)
        )
        out.append(rule.written_out(gq, gk, gv, mask).transpose(0, 1).flatten(1, 2))
    return torch.cat(out, dim=1).index_select(1, back)[None]
