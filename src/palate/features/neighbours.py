"""Neighbours: which items lie closest by one modality, and how often they share a label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from palate.errors import FeatureError
from palate.schema import Features, Floats, Ints

BLOCK = 512
"""Items compared with the whole catalogue at once."""


@dataclass(frozen=True)
class Neighbours:
    """rows: int64 [Q], the items asked about; nearest: int64 [Q, k], the closest first; cosine: float32 [Q, k].

    Numbers are rows of the feature table. An item is not its own neighbour.
    """

    rows: Ints
    nearest: Ints
    cosine: Floats


@dataclass(frozen=True)
class Agreement:
    """shared: mean share of an item's k nearest that have its label; chance: the same of k drawn at random;
    n: items asked about, all with a vector and a label, as have their neighbours.
    """

    shared: float
    chance: float
    k: int
    n: int


def nearest(features: Features, rows: Sequence[int] | Ints, k: int) -> Neighbours:
    """The k nearest of some items by cosine, among the items with a vector. Ties fall to the earlier item.

    A table of several tokens a row is compared as the whole row. Raises FeatureError where an item asked about has
    no vector, or fewer than k others have one.
    """
    asked = np.asarray(rows, dtype=np.int64)
    missing = asked[~features.present[asked]]
    if len(missing):
        raise FeatureError(
            f"item {features.item_ids[missing[0]]!r} has no {features.modality} vector; ask about one that has"
        )
    pool = np.flatnonzero(features.present)
    _enough(features, len(pool), k)
    parts = list(_closest(features.vectors, asked, pool, k))
    found = np.concatenate([p for p, _ in parts]) if parts else np.empty((0, k), dtype=np.int64)
    cosine = np.concatenate([c for _, c in parts]) if parts else np.empty((0, k), dtype=np.float32)
    return Neighbours(asked, found, cosine)


def agreement(features: Features, labels: Sequence[str], k: int, sample: int = 2000, seed: int = 1) -> Agreement:
    """How often nearest neighbours share a label, such as a category, beside what chance gives.

    labels: one an item, in the table's order; empty: unknown, and the item stays out. Items of the same vector, such
    as copies of a picture, count once: finding them proves nothing. sample: at most so many items are asked about, a
    seeded draw. Raises FeatureError where fewer than k + 1 items are left.
    """
    names = np.array(labels, dtype=object)
    able = np.flatnonzero(features.present & (names != ""))
    pool = able[np.sort(np.unique(features.vectors[able], axis=0, return_index=True)[1])]
    _enough(features, len(pool), k)
    codes = np.unique(names[pool].astype(str), return_inverse=True)[1]
    code_of = np.full(len(names), -1, dtype=np.int64)
    code_of[pool] = codes
    asked = pool
    if len(pool) > sample:
        asked = np.sort(np.random.default_rng(seed).choice(pool, sample, replace=False))
    same = [code_of[p] == code_of[rows, None] for rows, p in _asked(features.vectors, asked, pool, k)]
    others = np.bincount(codes)[code_of[asked]] - 1
    return Agreement(
        float(np.concatenate(same).mean()), float((others / (len(pool) - 1)).mean()), k, len(asked)
    )  # fmt: skip


def _enough(features: Features, have: int, k: int) -> None:
    if k < 1 or have <= k:
        raise FeatureError(
            f"expected at least one neighbour and fewer than the {have} items that can be compared by "
            f"{features.modality}, got {k}; ask for fewer"
        )


def _asked(vectors: Floats, asked: Ints, pool: Ints, k: int) -> Iterator[tuple[Ints, Ints]]:
    """Blocks of items with their nearest: (int64 [q], int64 [q, k])."""
    at = 0
    for found, _ in _closest(vectors, asked, pool, k):
        yield asked[at : at + len(found)], found
        at += len(found)


def _closest(vectors: Floats, asked: Ints, pool: Ints, k: int) -> Iterator[tuple[Ints, Floats]]:
    """Blocks of (nearest int64 [q, k], cosine float32 [q, k]) of the asked items among the pool."""
    unit = _unit(vectors[pool])
    for start in range(0, len(asked), BLOCK):
        rows = asked[start : start + BLOCK]
        cosine = _unit(vectors[rows]) @ unit.T
        cosine[rows[:, None] == pool[None, :]] = -np.inf
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        yield pool[order], np.take_along_axis(cosine, order, axis=1)


def _unit(rows: Floats) -> Floats:
    norms: Floats = np.linalg.norm(rows, axis=1, keepdims=True)
    norms[norms == 0] = 1.0
    return rows / norms
