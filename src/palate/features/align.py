"""Vectors of an encoder that was fitted again, turned to where its earlier vectors stood.

A collaborative encoder's axes mean nothing by themselves: fitted on some more events, singular vectors change order
and sign, and turn within nearly equal singular values. Projectors that have learned to read the earlier axes would see
noise. The rotation that carries the new vectors of shared items closest to the old ones (orthogonal Procrustes,
Schoenemann, 1966) undoes this, and products of vectors, which is what these encoders mean, stay as fitted.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import FeatureError
from palate.schema import Features, Floats

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alignment:
    """How near the new vectors of `shared` items came to the old ones. before, after: the norm of the difference over
    the norm of the old vectors, without and with the rotation.
    """

    shared: int
    before: float
    after: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def align(new: Features, old: Features, parts: int = 1) -> tuple[Features, Alignment]:
    """The new vectors, rotated onto the old ones by the items that have both.

    parts: a vector is so many parts of equal width, which one rotation turns alike (`CollaborativeEncoder.parts`).
    New items and new events stay in the vectors; only the axes change. The fingerprint becomes one of its own, since
    the vectors are no longer the encoder's. Raises FeatureError where the widths differ or no item is shared.
    """
    if new.width != old.width or new.width % parts:
        raise FeatureError(f"{new.modality}: expected vectors of {old.width} numbers in {parts} parts, got {new.width}")
    where = {item: row for row, item in enumerate(old.item_ids) if old.present[row]}
    pairs = [(n, where[i]) for n, i in enumerate(new.item_ids) if new.present[n] and i in where]
    if not pairs:
        raise FeatureError(f"{new.modality}: no item has both an old and a new vector, so they cannot be aligned")
    mine, theirs = (np.array(rows, dtype=np.int64) for rows in zip(*pairs, strict=True))
    source, target = _cut(new.vectors[mine], parts), _cut(old.vectors[theirs], parts)
    rotation = _procrustes(source, target)
    size = float(np.linalg.norm(target)) or 1.0
    found = Alignment(
        len(pairs),
        float(np.linalg.norm(source - target)) / size,
        float(np.linalg.norm(source @ rotation - target)) / size,
    )
    turned = (_cut(new.vectors, parts) @ rotation).reshape(new.vectors.shape).astype(np.float32)
    mark = hashlib.sha256(f"aligned\0{new.fingerprint}\0{old.fingerprint}".encode()).hexdigest()
    return replace(new, vectors=turned, fingerprint=mark), found


def _cut(vectors: Floats, parts: int) -> Reals:
    """[n, F] -> float64 [n x parts, F / parts]."""
    return vectors.astype(np.float64).reshape(len(vectors) * parts, -1)


def _procrustes(source: Reals, target: Reals) -> Reals:
    """The orthogonal matrix Q that makes |source Q - target| least: [F, F]."""
    left, _, right = np.linalg.svd(source.T @ target)
    rotation: Reals = left @ right
    return rotation
