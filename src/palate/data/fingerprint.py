"""Content hashes of cleaned tables: the same for any file format and any folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class Hasher:
    """sha256 over named arrays, each with its kind and length, so that no two layouts collide."""

    def __init__(self, what: str) -> None:
        self._sha = hashlib.sha256(f"palate {what} 1\n".encode())

    def strings(self, name: str, chunks: Iterable[pa.Array]) -> None:
        """A text column in chunks; how it is cut into chunks does not matter."""
        lengths, data = hashlib.sha256(), hashlib.sha256()
        rows = 0
        for chunk in chunks:
            chunk = chunk.cast(pa.large_string())
            lengths.update(np.ascontiguousarray(_byte_lengths(chunk)).data)
            data.update(_bytes(chunk))
            rows += len(chunk)
        self._sha.update(f"strings {name!r} {rows} {lengths.hexdigest()} {data.hexdigest()}\n".encode())

    def names(self, name: str, values: Sequence[str]) -> None:
        """A list of words."""
        self.strings(name, [pa.array(values, pa.large_string())])

    def numbers(self, name: str, values: NDArray[Any]) -> None:
        """A numeric array; every NaN is the same NaN."""
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), np.asarray(np.nan, dtype=values.dtype), values)
        little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        self._sha.update(f"numbers {name!r} {little.dtype.str} {little.shape}\n".encode())
        self._sha.update(little.data)

    def digest(self) -> str:
        return self._sha.hexdigest()


def combine(**parts: str) -> str:
    """One fingerprint from several."""
    return hashlib.sha256("\n".join(f"{k} {v}" for k, v in sorted(parts.items())).encode()).hexdigest()


def _byte_lengths(chunk: pa.Array) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.binary_length(chunk).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _bytes(chunk: pa.Array) -> memoryview:
    """The bytes of all strings of a large_string array without nulls."""
    _, offsets, data = chunk.buffers()
    if data is None or not len(chunk):
        return memoryview(b"")
    ends = np.frombuffer(offsets, dtype=np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    return memoryview(data)[int(ends[0]) : int(ends[-1])]
