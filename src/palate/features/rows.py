"""A table of vectors as it is filled: rows of equal content share a key, large tables live in a mapped file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palate.errors import FeatureError
from palate.features.encoders import Encoder
from palate.schema import Features, Floats, Ints, Item

MAPPED = 256 << 20
"""Bytes from which a table is a memory-mapped file: the kernel may write its pages back and take them."""
BLOCK = 8_192
"""Rows copied at a time."""


def ids_of(items: Sequence[Item]) -> tuple[str, ...]:
    """The items' ids; those of a catalogue's rows (`Catalog.rows`) without making an Item of each."""
    known = getattr(items, "item_ids", None)
    return tuple(known) if known is not None else tuple(i.item_id for i in items)


class Table:
    """Vectors of N items by key. keys: one an item, None where it has no medium. folder: where a large one is kept.

    code: key -> number of a distinct key; codes: int64 [N] of them, -1 without a key; present: bool [N], rows filled.
    """

    def __init__(self, keys: Sequence[bytes | None], folder: Path) -> None:
        self.folder = folder
        self.code: dict[bytes, int] = {}
        self.codes: Ints = np.array(
            [-1 if k is None else self.code.setdefault(k, len(self.code)) for k in keys], dtype=np.int64
        )
        self.present = np.zeros(len(keys), dtype=bool)
        # rows of each distinct key, end to end
        self._rows: Ints = np.argsort(self.codes, kind="stable")[int((self.codes < 0).sum()) :]
        counts = np.bincount(self.codes[self._rows], minlength=len(self.code))
        self._starts: Ints = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._vectors: Any = None

    def rows_of(self, key: bytes) -> Ints:
        """The rows of a key, rising: int64 [at least 1]."""
        code = self.code[key]
        return self._rows[self._starts[code] : self._starts[code + 1]]

    def missing(self) -> list[bytes]:
        """Keys without a vector, in order of first appearance."""
        if not len(self.code):
            return []
        known = self.present[self._rows[self._starts[:-1]]]
        return [key for key, there in zip(self.code, known.tolist(), strict=True) if not there]

    def fill(self, keys: Any, vectors: Floats) -> None:
        """Take what is wanted of a shard: keys uint8 [n, K], vectors float32 [n, F]."""
        size, whole = keys.shape[1], keys.tobytes()
        wanted = (self.code.get(whole[at : at + size]) for at in range(0, len(whole), size))
        found = [(row, code) for row, code in enumerate(wanted) if code is not None]
        for start in range(0, len(found), BLOCK):
            rows, codes = zip(*found[start : start + BLOCK], strict=True)
            self.put(codes, vectors[list(rows)])

    def put(self, codes: Sequence[int], vectors: Floats) -> None:
        """Vectors float32 [n, F] of n distinct keys into all their rows."""
        if self._vectors is None:
            self._vectors = room((len(self.codes), vectors.shape[1]), self.folder)
        own = np.asarray(codes, dtype=np.int64)
        counts = self._starts[own + 1] - self._starts[own]
        which = np.repeat(np.arange(len(own)), counts)
        within = np.arange(len(which)) - (np.cumsum(counts) - counts)[which]
        rows = self._rows[self._starts[own][which] + within]
        self._vectors[rows] = vectors[which]
        self.present[rows] = True

    def features(self, encoder: Encoder, item_ids: tuple[str, ...]) -> Features:
        """The table as it is now; rows that were not filled are zero."""
        if self._vectors is None:
            self._vectors = room((len(self.codes), encoder.width), self.folder)
        return Features(encoder.modality, item_ids, self._vectors, self.present, encoder.fingerprint, encoder.tokens)


def room(shape: tuple[int, int], folder: Path | None = None) -> Any:
    """Zeros float32 [N, width]: in memory, or from `MAPPED` bytes on in a file without a name, in `folder` (None: the
    system's own for such files), that goes when the array does. Raises FeatureError where the disk is full.
    """
    size = 4 * shape[0] * shape[1]
    if size < MAPPED:
        return np.zeros(shape, dtype=np.float32)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a crash at a page
        except OSError as error:
            raise FeatureError(
                f"{folder or tempfile.gettempdir()}: expected room for a table of {size:,} bytes, got: "
                f"{error.strerror}; free some, or keep such files elsewhere (PALATE_CACHE, TMPDIR)"
            ) from None
        return np.memmap(file, np.float32, "w+", shape=shape)
