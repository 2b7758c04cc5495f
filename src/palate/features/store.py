"""The vector cache: content hash to vector, on disk, safe against concurrent writers and SIGKILL.

One folder per encoder fingerprint. It holds shards that are written whole, under a temporary name, and
renamed into place; a shard is never changed afterwards. Readers list the folder, so no index can be out of
step.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from palate.features.encoders import Encoder
from palate.features.problem import Problem
from palate.features.sourced import content_keys
from palate.schema import Bools, Features, Floats, Item

MANY = 64
"""Shards above which small ones are merged."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One modality: its table, what went wrong, and where the vectors came from (counts of items)."""

    features: Features
    problems: list[Problem]
    hits: int
    computed: int


class FeatureStore:
    """Vectors by content. `folder` is made on first write; None finds it under the cache folder."""

    def __init__(self, folder: str | Path | None = None):
        if folder is None:
            from palate import sources

            folder = sources.cache_dir() / "features"
        self.folder = Path(folder)

    def get(self, encoder: Encoder, items: Sequence[Item], on_progress: Callable[[int], None] | None = None) -> Stored:
        """The table of one encoder for `items`, in their order; only content never seen before is encoded.

        on_progress: called with the number of items settled since the last call. Vectors of equal content are
        computed once. A row that cannot be encoded, or is not finite, is not present and has a Problem.
        """
        settled = on_progress or (lambda _: None)
        keys, problems = content_keys(encoder, items)
        wanted = {k for k in keys if k is not None}
        vectors = self._read(encoder.fingerprint, wanted)
        hits = sum(k in vectors for k in keys if k is not None)
        settled(hits + sum(k is None for k in keys))
        rows_of: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            if key is not None and key not in vectors:
                rows_of.setdefault(key, []).append(row)
        missing = list(rows_of)
        for start in range(0, len(missing), encoder.chunk):
            part = missing[start : start + encoder.chunk]
            fresh, troubles = self._encode(encoder, part, rows_of, items)
            self._write(encoder.fingerprint, fresh)
            vectors.update(fresh)
            problems += troubles
            settled(sum(len(rows_of[k]) for k in part))
        computed = sum(len(r) for k, r in rows_of.items() if k in vectors)
        return Stored(_table(encoder, items, keys, vectors), problems, hits, computed)

    def _encode(
        self, encoder: Encoder, keys: Sequence[bytes], rows_of: dict[bytes, list[int]], items: Sequence[Item]
    ) -> tuple[dict[bytes, Floats], list[Problem]]:
        firsts = [items[rows_of[k][0]] for k in keys]
        encoded = encoder.encode(firsts)
        problems = list(encoded.problems)
        finite: Bools = np.asarray(np.isfinite(encoded.vectors).all(axis=1))
        fresh = {}
        for n, key in enumerate(keys):
            if encoded.present[n] and finite[n]:
                fresh[key] = np.asarray(encoded.vectors[n], dtype=np.float32)
            elif encoded.present[n]:
                problems.append(encoder.problem(firsts[n], "the encoder gave values that are not finite"))
        reasons = {p.item_id: p.reason for p in problems}
        for n, key in enumerate(keys):  # other items with the same bad file share its fate and its reason
            for row in rows_of[key][1:]:
                if key not in fresh and firsts[n].item_id in reasons:
                    problems.append(encoder.problem(items[row], reasons[firsts[n].item_id]))
        return fresh, problems

    # --- files ----------------------------------------------------------------------------------------

    def _read(self, fingerprint: str, wanted: set[bytes]) -> dict[bytes, Floats]:
        """Vectors of the wanted keys that are stored. A shard that vanished in a merge is read again."""
        folder = self.folder / fingerprint
        for _ in range(5):
            found: dict[bytes, Floats] = {}
            try:
                for path in sorted(folder.glob("*.safetensors")):
                    found.update(_read_shard(path, wanted))
                return found
            except FileNotFoundError:
                continue
        return found

    def _write(self, fingerprint: str, vectors: dict[bytes, Floats]) -> None:
        if not vectors:
            return
        folder = self.folder / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        _write_shard(folder, vectors)
        if len(list(folder.glob("*.safetensors"))) > MANY:
            self._merge(folder)

    def _merge(self, folder: Path) -> None:
        """Make one shard of the small ones; skipped where another process is at it."""
        lock = FileLock(folder / ".merge.lock")
        try:
            with lock.acquire(timeout=0):
                whole: dict[bytes, Floats] = {}
                small = [p for p in sorted(folder.glob("*.safetensors")) if p.stat().st_size < 64_000_000]
                for path in small:
                    whole.update(_read_shard(path, None))
                _write_shard(folder, whole)
                for path in small:
                    path.unlink(missing_ok=True)
                for stray in folder.glob("*.tmp"):  # left by a process that was killed
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - stray.stat().st_mtime > 86_400:
                            stray.unlink()
        except Timeout:
            return


def _table(
    encoder: Encoder, items: Sequence[Item], keys: Iterable[bytes | None], vectors: dict[bytes, Floats]
) -> Features:
    width = len(next(iter(vectors.values()))) if vectors else encoder.width
    table = np.zeros((len(items), width), dtype=np.float32)
    present = np.zeros(len(items), dtype=bool)
    for row, key in enumerate(keys):
        if key is not None and key in vectors:
            table[row] = vectors[key]
            present[row] = True
    ids = tuple(i.item_id for i in items)
    return Features(encoder.modality, ids, table, present, encoder.fingerprint, encoder.tokens)


def _write_shard(folder: Path, vectors: dict[bytes, Floats]) -> None:
    from safetensors.numpy import save

    keys = np.frombuffer(b"".join(vectors), dtype=np.uint8).reshape(len(vectors), -1)
    data = save({"keys": keys.copy(), "vectors": np.stack(list(vectors.values()))})
    name = uuid.uuid4().hex
    temporary = folder / f"{name}.tmp"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / f"{name}.safetensors")


def _read_shard(path: Path, wanted: set[bytes] | None) -> dict[bytes, Floats]:
    """Key -> vector of one shard, of the wanted keys or of all. A damaged shard is named in a warning and
    skipped.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as shard:
            keys: Any = [k.tobytes() for k in shard.get_tensor("keys")]
            rows = [n for n, k in enumerate(keys) if wanted is None or k in wanted]
            vectors = shard.get_tensor("vectors") if rows else None
    except SafetensorError as error:
        if not path.exists():
            raise FileNotFoundError(path) from None
        warnings.warn(f"{path}: damaged cache file, its vectors are computed again: {error}", stacklevel=2)
        return {}
    return {} if vectors is None else {keys[n]: vectors[n] for n in rows}
