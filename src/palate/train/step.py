"""One forward pass with its losses, as a module, so that DDP sees everything that needs a gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palate.model import Model
from palate.schema import Ints
from palate.train.collate import Batch

NO_ITEMS: Ints = np.empty(0, dtype=np.int64)
CELLS = 1 << 25
"""Logits held at once (128 MB in float32); more rows are taken in chunks, recomputed in the backward pass."""


class TrainingStep(nn.Module):
    """`step(batch) -> sums`: summed cross entropy of each task, float32 [tasks].

    Sums and not means: the loop divides by the targets of all packs of an optimizer step on all processes,
    so that neither accumulation nor the number of processes changes what one target weighs. withheld: int64, items
    that take no part in the softmax over the catalogue: as negatives they would be learned about, too.
    """

    def __init__(self, model: Model, withheld: Ints = NO_ITEMS) -> None:
        super().__init__()
        self.model, self.withheld = model, torch.from_numpy(withheld)

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.model(batch.pack)
        sums = torch.zeros(len(batch.counts), device=hidden.device)
        # autocast would round the matching products and the logits to bf16; hidden states are as wide as
        # needed
        with torch.autocast(hidden.device.type, enabled=False):
            if len(batch.reads):
                rows = hidden[_to(batch.reads, hidden)]
                items = self.model.item_vectors()
                withheld = self.withheld.to(hidden.device)

                def matched(r: Tensor) -> Tensor:
                    logits = self.model.queries(r) @ items.T
                    return logits.index_fill(1, withheld, -torch.inf) if len(withheld) else logits

                loss = _cross_entropy(rows, _to(batch.targets, hidden), len(items), matched)
                sums = sums.index_add(0, torch.tensor([batch.embedding], device=hidden.device), loss.sum()[None])
            if len(batch.answers):
                rows = hidden[_to(batch.answers, hidden)]
                width = self.model.lm.get_output_embeddings().weight.shape[0]
                loss = _cross_entropy(rows, _to(batch.labels, hidden), width, self.model.logits)
                sums = sums.index_add(0, _to(batch.answer_tasks, hidden), loss)
        return sums


def _to(ints: object, like: Tensor) -> Tensor:
    return torch.as_tensor(ints, device=like.device)


def _cross_entropy(rows: Tensor, targets: Tensor, width: int, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Cross entropy of each row: float32 [R]. Never more than CELLS logits at once."""

    def chunk(r: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(logits(r).float(), t, reduction="none")

    size = max(1, CELLS // width)
    if len(rows) <= size:
        return chunk(rows, targets)
    parts = [
        checkpoint(chunk, r, t, use_reentrant=False, preserve_rng_state=False)
        for r, t in zip(torch.split(rows, size), torch.split(targets, size), strict=True)
    ]
    return torch.cat(parts)
