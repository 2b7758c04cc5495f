"""What other recommenders make of the train histories: soft targets beside the item that came next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate import retrieve
from palate.config import TeacherConfig
from palate.errors import ConfigError
from palate.retrieve import Retriever
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
    `config.top` items, is the distribution. With `config.folds`, user number u is taught by retrievers that were
    fitted without the users v where v % folds == u % folds. Where nobody in `train` chose an item twice, items of the
    history are left out, as `withheld` ones are. Memory: E x K x 6 bytes.
    """
    top = min(config.top, len(train.item_ids))
    items = np.empty((len(train.items), top), dtype=np.int32)
    chances = np.empty((len(train.items), top), dtype=np.float16)
    once = _once(train)
    for fold in range(config.folds):
        fitted = _fitted(train if config.folds == 1 else without(train, fold, config.folds), config, features)
        taught = np.flatnonzero(train.users % config.folds == fold)
        for start in range(0, len(taught), BATCH):
            events = taught[start : start + BATCH]
            past = [slice(int(train.indptr[train.users[e]]), int(e)) for e in events]
            logits = _logits(train, fitted, past)
            logits[:, withheld] = -np.inf
            if once:
                for row, before in zip(logits, past, strict=True):
                    row[train.items[before]] = -np.inf
            items[events], chances[events] = _likeliest(logits, top)
    return Teacher(torch.from_numpy(items), torch.from_numpy(chances))


def without(train: Interactions, fold: int, folds: int) -> Interactions:
    """The events of all users but those of one fold."""
    kept = train.users % folds != fold
    if not kept.any():
        raise ConfigError(f"train.teacher.folds: expected at least 2 users for {folds} folds, got {len(train)}")
    return train.of(kept)


def _fitted(
    train: Interactions, config: TeacherConfig, features: Mapping[str, Features]
) -> list[tuple[Retriever, float]]:
    found = []
    for name, weight in config.retrievers.items():
        kind, options = retrieve.parse(name)
        found.append((retrieve.build(kind, **options).fit(train, features), weight))
    return found


def _logits(train: Interactions, fitted: Sequence[tuple[Retriever, float]], past: Sequence[slice]) -> Floats:
    """Weighted z-scores of what comes after these parts of histories: float32 [R, N]."""
    histories, times = [train.items[p] for p in past], [train.timestamps[p] for p in past]
    total = np.zeros((len(past), len(train.item_ids)), dtype=np.float32)
    for retriever, weight in fitted:
        total += weight * _zscores(retriever.scores(histories, times))
    return total


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
