"""Which ids came before, in little memory."""

from __future__ import annotations

import numpy as np


class SeenIds:
    """Which request ids came before, in about 8 bytes each: 64-bit hashes, sorted in blocks that merge."""

    def __init__(self, block: int = 65_536) -> None:
        self._block = block
        self._fresh: set[int] = set()
        self._sorted: list[np.ndarray] = []

    def add(self, request_id: str) -> bool:
        """True for a new id, False for one that came before."""
        from hashlib import blake2b

        key = int.from_bytes(blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if key in self._fresh or any(_holds(a, key) for a in self._sorted):
            return False
        self._fresh.add(key)
        if len(self._fresh) >= self._block:
            self._merge(np.fromiter(self._fresh, dtype=np.uint64, count=len(self._fresh)))
            self._fresh = set()
        return True

    def _merge(self, new: np.ndarray) -> None:
        new.sort()
        while self._sorted and len(self._sorted[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._sorted.pop(), new]))
        self._sorted.append(new)


def _holds(keys: np.ndarray, key: int) -> bool:
    at = int(np.searchsorted(keys, np.uint64(key)))
    return at < len(keys) and int(keys[at]) == key
