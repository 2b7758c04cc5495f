"""The vector cache: content hash to vector, on disk, safe against concurrent writers and SIGKILL.

One folder per encoder fingerprint. It holds shards that are written whole, under a temporary name, and
renamed into place; a shard is never changed afterwards. Readers list the folder, so no index can be out of
step. Shards are memory-mapped, rows go from there straight to where they belong, and a table of more than
`MAPPED` bytes is a memory-mapped file itself, so that vectors of a million items need no memory of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from palate.features.encoders import Encoder
from palate.features.problem import Problem
from palate.features.rows import Table, ids_of
from palate.features.sourced import content_keys
from palate.schema import Bools, Features, Floats, Item

MANY = 64
"""Small shards above which they are merged."""
MERGED = 64_000_000
"""Bytes from which a shard is no longer small."""


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
        table = Table(keys, self.folder)
        hits = self._read(encoder.fingerprint, table)
        settled(hits + int((table.codes < 0).sum()))
        missing = table.missing()
        for start in range(0, len(missing), encoder.chunk):
            part = missing[start : start + encoder.chunk]
            fresh, troubles = self._encode(encoder, part, table, items)
            self._write(encoder.fingerprint, fresh)
            if fresh:
                table.put([table.code[k] for k in fresh], np.stack(list(fresh.values())))
            problems += troubles
            settled(sum(len(table.rows_of(k)) for k in part))
        features = table.features(encoder, ids_of(items))
        return Stored(features, problems, hits, int(features.present.sum()) - hits)

    def _encode(
        self, encoder: Encoder, keys: Sequence[bytes], table: Table, items: Sequence[Item]
    ) -> tuple[dict[bytes, Floats], list[Problem]]:
        firsts = [items[int(table.rows_of(k)[0])] for k in keys]
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
            if key not in fresh and firsts[n].item_id in reasons:
                for row in table.rows_of(key)[1:].tolist():
                    problems.append(encoder.problem(items[row], reasons[firsts[n].item_id]))
        return fresh, problems

    # --- files ----------------------------------------------------------------------------------------

    def _read(self, fingerprint: str, table: Table) -> int:
        """Fill the table with what is stored; how many items that settles. A shard that vanished in a merge is read
        again: its vectors are in another one.
        """
        folder = self.folder / fingerprint
        for _ in range(5):
            try:
                for path in sorted(folder.glob("*.safetensors")):
                    with _damage(path):
                        table.fill(*_mapped(path))
                break
            except FileNotFoundError:
                continue
        return int(table.present.sum())

    def _write(self, fingerprint: str, vectors: dict[bytes, Floats]) -> None:
        if not vectors:
            return
        folder = self.folder / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        _write_shard(folder, vectors)
        if len(_small(folder)) > MANY:
            self._merge(folder)

    def _merge(self, folder: Path) -> None:
        """Make one shard of the small ones; skipped where another process is at it."""
        lock = FileLock(folder / ".merge.lock")
        try:
            with lock.acquire(timeout=0):
                whole: dict[bytes, Floats] = {}
                small = _small(folder)
                for path in small:
                    with _damage(path):
                        keys, vectors = _mapped(path)
                        whole.update(zip(map(bytes, np.asarray(keys)), np.asarray(vectors), strict=True))
                if whole:
                    _write_shard(folder, whole)
                for path in small:
                    path.unlink(missing_ok=True)
                for stray in folder.glob("*.tmp"):  # left by a process that was killed
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - stray.stat().st_mtime > 86_400:
                            stray.unlink()
        except Timeout:
            return


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


def _small(folder: Path) -> list[Path]:
    """The shards worth merging. One that another process has merged meanwhile is none of them."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size < MERGED:
                found.append(path)
    return found


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """A damaged shard is named in a warning and skipped."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if not path.exists():
            raise FileNotFoundError(path) from None
        warnings.warn(f"{path}: damaged cache file, its vectors are computed again: {error}", stacklevel=2)


def _mapped(path: Path) -> tuple[Any, Floats]:
    """Keys uint8 [n, K] and vectors float32 [n, F] of one shard, memory-mapped.

    The layout is that of safetensors: eight bytes that say how long the JSON header is, the header, the tensors. Raises
    SafetensorError where the file is not whole.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy"):  # checks the header against the size of the file
        pass
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

    def tensor(name: str, dtype: type) -> Any:
        told = header[name]
        return np.memmap(path, dtype, "r", 8 + length + told["data_offsets"][0], tuple(told["shape"]))

    return tensor("keys", np.uint8), tensor("vectors", np.float32)
