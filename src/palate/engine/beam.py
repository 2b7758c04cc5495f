"""The key-value cache of a beam search: each prompt once, every beam its own few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from palate.engine.pack import concat
from palate.model import Model
from palate.schema import Ints, Pack, Prompt


class BeamCache(DynamicCache):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of G prompts of one length P, and of R beams behind them with t tokens each.

    The prompts are never copied per beam for good: a layer joins them with the beams' own tokens only while
    it runs, so memory grows with R x t, not with R x P.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prefix: list[tuple[Tensor, Tensor]] = []
        self.own: list[tuple[Tensor, Tensor]] = []
        self._new: list[list[tuple[Tensor, Tensor]]] = []
        self._rows = slice(0, 0)
        self._users: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values [rows, heads, T, d]."""
        if self._users is None:
            self.prefix.append((keys, values))
            return keys, values
        if layer_idx >= len(self._new):
            self._new.append([])
        self._new[layer_idx].append((keys, values))
        joined = [self._join(layer_idx, part, x) for part, x in enumerate((keys, values))]
        return joined[0], joined[1]

    def _join(self, layer: int, part: int, new: Tensor) -> Tensor:
        prefix = self.prefix[layer][part]
        assert self._users is not None
        prefix = prefix.expand(len(new), -1, -1, -1) if len(prefix) == 1 else prefix[self._users]
        own = [self.own[layer][part][self._rows]] if self.own else []
        return torch.cat([prefix, *own, new], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions held so far: P + t."""
        prompt = self.prefix[layer_idx][0].shape[2] if layer_idx < len(self.prefix) else 0
        return prompt + (self.own[layer_idx][0].shape[2] if self.own else 0)

    def prefill(self, model: Model, prompts: Sequence[Prompt]) -> Tensor:
        """Run G prompts of one length; their last hidden states [G, D]."""
        length = len(prompts[0])
        embeds = model.embed(concat(prompts)).view(len(prompts), length, -1)
        hidden = model.decode(embeds, torch.arange(length, device=embeds.device), self)
        return hidden[:, -1]

    def step(self, model: Model, tokens: Ints, parents: Ints, users: Ints, max_rows: int) -> Tensor:
        """Give each of R new beams one token: int64 [R] -> hidden [R, D].

        parents: the old beam each one goes on from; users: its prompt. `max_rows` beams run at once.
        """
        if self.own:
            at = torch.from_numpy(parents).to(self.own[0][0].device)
            self.own = [(k[at], v[at]) for k, v in self.own]
        place = self.get_seq_length()
        out = []
        self._new = []
        for start in range(0, len(tokens), max_rows):
            rows = slice(start, min(start + max_rows, len(tokens)))
            chosen = tokens[rows]
            embeds = model.embed(Pack(chosen, np.full(len(chosen), place, dtype=np.int64), (), ()))
            self._rows = rows
            self._users = torch.from_numpy(users[rows]).to(embeds.device)
            out.append(model.decode(embeds[:, None], torch.tensor([place], device=embeds.device), self)[:, 0])
        new = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in self._new]
        if self.own:
            new = [
                (torch.cat([k, nk], dim=2), torch.cat([v, nv], dim=2))
                for (k, v), (nk, nv) in zip(self.own, new, strict=True)
            ]
        self.own = new
        return torch.cat(out)
