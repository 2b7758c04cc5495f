"""What other recommenders make of the train histories: soft targets beside the item that came next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate import retrieve
from palate.config import TeacherConfig
from palate.schema import Features, Floats, Interactions, Ints

BATCH = 512
"""Histories scored at once."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """For every train event a distribution over what might have come, given the events of that user before it.

    items: int32 [E, K], catalogue numbers, the likeliest first; chances: float16 [E, K], each row sums to 1.
    """

    items: Tensor
    chances: Tensor

    def loss(self, events: Tensor, logp: Tensor) -> Tensor:
        """Cross entropy of log-probabilities [R, N] against the distributions of these events: float32 [R]."""
        where = events.to(self.items.device)
        items, chances = self.items[where].to(logp.device), self.chances[where].to(logp.device, torch.float32)
        # an item of no chance may have a log-probability of minus infinity: it was kept out of training
        return -(logp.gather(1, items.long()).masked_fill(chances == 0, 0) * chances).sum(1)


def make(train: Interactions, config: TeacherConfig, features: Mapping[str, Features], withheld: Ints) -> Teacher:
    """Fit the teachers on `train` and ask them about each of its events (Hinton et al., 2015, "Distilling the
    knowledge in a neural network").

    Their scores, as z-scores over the catalogue, are weighted and summed; the soft-max of that, cut to the likeliest
    `config.top` items, is the distribution. Where nobody in `train` chose an item twice, items of the history are
    left out, as `withheld` ones are. Memory: E x K x 6 bytes.
    """
    fitted = {}
    for name, weight in config.retrievers.items():
        kind, options = retrieve.parse(name)
        fitted[name] = (retrieve.build(kind, **options).fit(train, features), weight)
    top = min(config.top, len(train.item_ids))
    items = np.empty((len(train.items), top), dtype=np.int32)
    chances = np.empty((len(train.items), top), dtype=np.float16)
    once = _once(train)
    users = np.repeat(np.arange(len(train)), np.diff(train.indptr))
    for start in range(0, len(train.items), BATCH):
        events = range(start, min(start + BATCH, len(train.items)))
        histories = [train.items[train.indptr[users[e]] : e] for e in events]
        logits = sum(weight * _zscores(r.scores(histories)) for r, weight in fitted.values())
        assert isinstance(logits, np.ndarray)  # the config names one teacher at least
        logits[:, withheld] = -np.inf
        if once:
            for row, history in zip(logits, histories, strict=True):
                row[history] = -np.inf
        best, share = _likeliest(logits, top)
        items[start : events.stop], chances[start : events.stop] = best, share
    return Teacher(torch.from_numpy(items), torch.from_numpy(chances))


def _once(train: Interactions) -> bool:
    """Whether no user has chosen an item twice."""
    return all(len(np.unique(train.sequence(u))) == len(train.sequence(u)) for u in range(len(train)))


def _zscores(scores: Floats) -> Floats:
    spread = scores.std(axis=1, keepdims=True)
    found: Floats = (scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    return found


def _likeliest(logits: Floats, top: int) -> tuple[Ints, Floats]:
    """The `top` likeliest columns of each row and their soft-max, summing to 1."""
    best = np.argpartition(-logits, top - 1, axis=1)[:, :top]
    values = np.take_along_axis(logits, best, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
    shares = np.exp(values - values[:, :1])
    return best, shares / shares.sum(axis=1, keepdims=True)
