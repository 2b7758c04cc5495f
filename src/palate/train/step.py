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
from palate.train.rated import scale_loss
from palate.train.teacher import Teacher

NO_ITEMS: Ints = np.empty(0, dtype=np.int64)
CELLS = 1 << 25
"""Logits held at once (128 MB in float32); more rows are taken in chunks, recomputed in the backward pass."""


class TrainingStep(nn.Module):
    """`step(batch) -> sums`: summed cross entropy of each task, float32 [tasks].

    Sums and not means: the loop divides by the targets of all packs of an optimizer step on all processes,
    so that neither accumulation nor the number of processes changes what one target weighs. withheld: int64, items
    that take no part in the softmax over the catalogue: as negatives they would be learned about, too. teacher: soft
    targets, which make up `share` of the embedding loss.
    """

    def __init__(
        self, model: Model, withheld: Ints = NO_ITEMS, teacher: Teacher | None = None, share: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.withheld = model, torch.from_numpy(withheld)
        self.teacher, self.share = teacher, share if teacher is not None else 0.0

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

                def matched(r: Tensor, targets: Tensor, events: Tensor) -> Tensor:
                    logits = self.model.queries(r) @ items.T
                    logp = (logits.index_fill(1, withheld, -torch.inf) if len(withheld) else logits).log_softmax(1)
                    loss = -logp.gather(1, targets[:, None])[:, 0]
                    if self.teacher is None:
                        return loss
                    return (1 - self.share) * loss + self.share * self.teacher.loss(events, logp)

                loss = _chunked(matched, len(items), rows, _to(batch.targets, hidden), _to(batch.events, hidden))
                sums = sums.index_add(0, torch.tensor([batch.embedding], device=hidden.device), loss.sum()[None])
            for task, tokens in batch.choices.items():
                mine = batch.answer_tasks == task
                rows, levels = (
                    hidden[_to(batch.answers[mine], hidden)],
                    np.argmax(batch.labels[mine, None] == tokens, 1),
                )
                loss = scale_loss(self.model.logits(rows, _to(tokens, hidden)), _to(levels, hidden))
                sums = sums.index_add(0, torch.tensor([task], device=hidden.device), loss.sum()[None])
            free = ~np.isin(batch.answer_tasks, list(batch.choices))
            if free.any():
                rows = hidden[_to(batch.answers[free], hidden)]
                width = self.model.lm.get_output_embeddings().weight.shape[0]
                loss = _chunked(self._answered, width, rows, _to(batch.labels[free], hidden))
                sums = sums.index_add(0, _to(batch.answer_tasks[free], hidden), loss)
        return sums

    def _answered(self, rows: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.model.logits(rows).float(), labels, reduction="none")


def _to(ints: object, like: Tensor) -> Tensor:
    return torch.as_tensor(ints, device=like.device)


def _chunked(loss: Callable[..., Tensor], width: int, *columns: Tensor) -> Tensor:
    """`loss` of rows (the first of the columns) with `width` logits each: float32 [R]. Never more than CELLS logits
    at once."""
    size = max(1, CELLS // width)
    if len(columns[0]) <= size:
        return loss(*columns)
    parts = [
        checkpoint(loss, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(*(torch.split(c, size) for c in columns), strict=True)
    ]
    return torch.cat(parts)
