"""SASRec: the network and how it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.errors import ConfigError
from palate.schema import Floats, Interactions, Ints
from palate.sequential import SasRecOptions

MOST_ITEMS = 100_000
"""Every position is trained against the whole catalogue; beyond this that is no longer small."""
CELLS = 1 << 25
"""Logits held at once in training (128 MB)."""


class SasRec(nn.Module):
    """Self-attentive sequential recommendation (Kang and McAuley, 2018): scores of the next item at every position.

    Item and position embeddings, `layers` blocks of causal attention and a feed-forward network with the norm before
    each, and the item embeddings once more as output weights. Trained with the softmax over the whole catalogue
    instead of the paper's one negative an item (Klenitskiy and Vasilev, 2023: this is what BERT4Rec's lead came from).
    """

    def __init__(self, items: int, options: SasRecOptions) -> None:
        super().__init__()
        if options.width % options.heads:
            raise ConfigError(f"sasrec: expected a width that {options.heads} heads divide, got {options.width}")
        self.options, self.items = options, items
        self.item = nn.Embedding(items, options.width)
        self.place = nn.Embedding(options.length, options.width)
        self.drop = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)
        nn.init.normal_(self.item.weight, std=1 / math.sqrt(options.width))
        nn.init.normal_(self.place.weight, std=1 / math.sqrt(options.width))

    def forward(self, items: Tensor) -> Tensor:
        """Item numbers, padded on the right, [B, L] -> states [B, L, width]; padding never reaches a real position."""
        x = self.item(items) + self.place.weight[: items.shape[1]]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        states: Tensor = self.norm(x)
        return states

    @torch.inference_mode()
    def scores(self, histories: Sequence[Ints]) -> Floats:
        """Logits of all items behind each history (item numbers, oldest first, at least one): float32 [B, N]."""
        self.eval()
        cut = [h[-self.options.length :] for h in histories]
        table = torch.zeros(len(cut), max(map(len, cut)), dtype=torch.long)
        for row, history in zip(table, cut, strict=True):
            row[: len(history)] = torch.from_numpy(np.ascontiguousarray(history))
        last = torch.tensor([len(h) - 1 for h in cut])
        out: Floats = (self(table)[torch.arange(len(cut)), last] @ self.item.weight.T).numpy()
        return out


class Block(nn.Module):
    def __init__(self, options: SasRecOptions) -> None:
        super().__init__()
        width = options.width
        self.heads, self.dropout = options.heads, options.dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout * self.training, is_causal=True)
        x = x + self.drop(self.out(seen.transpose(1, 2).flatten(2)))
        grown: Tensor = x + self.drop(self.down(self.drop(F.gelu(self.up(self.between(x))))))
        return grown


def fit(train: Interactions, options: SasRecOptions, report: Callable[[int, float], None] | None = None) -> SasRec:
    """A network trained on all sequences of `train` for `options.epochs` epochs; deterministic for a seed.

    Each epoch supervises every event that has one before it once; long histories are cut into windows at places that
    move from epoch to epoch. report: called with epoch and mean loss. Raises ConfigError for a catalogue beyond
    `MOST_ITEMS`.
    """
    total = len(train.item_ids)
    if total > MOST_ITEMS:
        raise ConfigError(
            f"sasrec is trained against all items at every position: expected at most {MOST_ITEMS:,}, got {total:,}; "
            "use 'itemknn', which stays sparse"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = SasRec(total, options)
        rng = np.random.default_rng(options.seed)
        optimizer = torch.optim.AdamW(network.parameters(), options.lr, (0.9, 0.98), weight_decay=options.weight_decay)
        network.train()
        for epoch in range(options.epochs):
            windows = _windows(train, options.length, rng)
            sums = count = 0.0
            for start in range(0, len(windows), options.batch):
                loss, rows = _step(network, windows[start : start + options.batch], optimizer)
                sums, count = sums + loss * rows, count + rows
            if report is not None and count:
                report(epoch, sums / count)
    network.eval()
    return network


def _windows(train: Interactions, length: int, rng: np.random.Generator) -> list[Ints]:
    """Runs of at most `length` + 1 events that overlap by one, in random order: every event but a user's first is a
    target exactly once.
    """
    found = []
    for user in range(len(train)):
        sequence = train.sequence(user)
        cut = int(rng.integers(1, length + 1)) if len(sequence) > length + 1 else length
        stops = [*range(cut, len(sequence) - 1, length), len(sequence) - 1]
        starts = [0, *stops[:-1]]
        found += [sequence[a : b + 1] for a, b in zip(starts, stops, strict=True) if b > a]
    return [found[n] for n in rng.permutation(len(found))]


def _step(network: SasRec, windows: Sequence[Ints], optimizer: torch.optim.Optimizer) -> tuple[float, int]:
    """One step; (mean loss, targets)."""
    longest = max(map(len, windows)) - 1
    inputs = torch.zeros(len(windows), longest, dtype=torch.long)
    targets = torch.full((len(windows), longest), -1)
    for row, window in enumerate(windows):
        items = torch.from_numpy(np.ascontiguousarray(window))
        inputs[row, : len(window) - 1], targets[row, : len(window) - 1] = items[:-1], items[1:]
    wanted = targets >= 0
    states, wanted_items = network(inputs)[wanted], targets[wanted]
    # in chunks with gradients of their own, so that no more than CELLS logits exist at once
    size = max(1, CELLS // network.items)
    leaf = states.detach().requires_grad_()
    total = 0.0
    for part, items in zip(torch.split(leaf, size), torch.split(wanted_items, size), strict=True):
        loss = F.cross_entropy(part @ network.item.weight.T, items, reduction="sum") / len(wanted_items)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    states.backward(leaf.grad)
    optimizer.step()
    optimizer.zero_grad()
    return total, len(wanted_items)
