"""An index of item vectors: the k rows of largest product with a query, exactly or approximately.

    index = Index.build(vectors, kind="approximate")        vectors float32 [N, E]
    rows, scores = index.search(queries, k=10, allowed=mask)
    index.save(folder);  Index.load(folder)                 memory-mapped
    index.recall(queries, k=10)                             against the exact answer, on these queries

exact: every row is multiplied, block by block, so N x E is all that is read and nothing of its size is made. It needs
no package.
approximate: an inverted file (IVF; Jégou et al., 2011, "Product quantization for nearest neighbor search") of faiss
over 8-bit numbers. Rows are sorted into lists around k-means centres, and a query looks into the `probes` lists whose
centres are nearest; what it finds is then multiplied exactly, so scores are those of the exact index for the rows that
are found. docs/notes/2026-11-25-catalogue-scale.md has the measurements that chose it over HNSW.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from palate.errors import ConfigError, RequestError, did_you_mean
from palate.schema import Bools, Floats, Ints

Kind = Literal["exact", "approximate"]
FORMAT = "palate-index-1"
BLOCK = 32_768
"""Rows multiplied at a time."""
LISTS = 512
"""Lists, where there are `PER_LIST` rows for each. Their number stays the same for larger catalogues: to put a row into
its list takes a product with every centre, so that lists in step with the root of N would cost N^1.5 to build.
"""
PROBES = 32
"""Lists a query looks into."""
PER_LIST = 64
"""Rows a list, on average, that the centres are learned from."""
DEEPER = 4
"""Times k: rows that the 8-bit numbers propose and exact products put in order."""
FEW = 20_000
"""Where a filter leaves at most so many rows, or a fiftieth of them, all of those are multiplied."""
WIDEST = 16
"""A filter widens the search by one over the share it leaves, up to so many times."""


class Index:
    """Rows of vectors that can be searched; see the module. `kind`, `vectors` (float32 [N, E]), len(index) is N."""

    def __init__(self, vectors: Floats, kind: Kind, inverted: Any = None, probes: int = PROBES) -> None:
        self.vectors, self.kind, self.probes = vectors, kind, probes
        self._inverted = inverted

    @classmethod
    def build(cls, vectors: Floats, kind: Kind = "exact", probes: int = PROBES) -> Index:
        """An index over float32 [N, E], which is kept, not copied: it may be a memory-mapped array.

        Raises ConfigError for an unknown kind and where faiss is not installed, RequestError for vectors of another
        shape or type, or with values that are not finite.
        """
        check(kind)
        if vectors.ndim != 2 or vectors.dtype != np.float32 or not all(vectors.shape):
            raise RequestError(
                f"expected vectors of shape [N, E] in float32, got {list(vectors.shape)} {vectors.dtype}"
            )
        if probes < 1:
            raise ConfigError(f"probes: expected a number of at least 1, got {probes}")
        for start, block in _blocks(vectors):
            if not np.isfinite(block).all():
                row = start + int((~np.isfinite(block).all(axis=1)).argmax())
                raise RequestError(f"expected finite vectors, row {row} holds NaN or infinity; compute it again")
        return cls(vectors, kind, _inverted(vectors) if kind == "approximate" else None, probes)

    def __len__(self) -> int:
        return len(self.vectors)

    # --- search -------------------------------------------------------------------------------------

    def search(self, queries: Floats, k: int, allowed: Bools | None = None) -> tuple[Ints, Floats]:
        """The k rows of largest product with each query (float32 [Q, E]), best first; equal ones in row order.

        allowed: bool [N], the rows that may be found, for all queries; or [Q, N]. Returns rows, int64 [Q, k], and
        products, float32 [Q, k]; where fewer rows are allowed the rest is -1 and -inf. Raises RequestError for other
        shapes and k below 1.
        """
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise RequestError(f"expected queries of shape [Q, {self.vectors.shape[1]}], got {list(queries.shape)}")
        if k < 1:
            raise RequestError(f"expected k of at least 1, got {k}")
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        if allowed is None or allowed.ndim == 1:
            groups = [(slice(None), allowed)]
        else:
            groups = [(slice(n, n + 1), mask) for n, mask in enumerate(allowed)]
            if len(allowed) != len(queries):
                raise RequestError(f"expected a mask for each of {len(queries)} queries, got {len(allowed)}")
        for where, mask in groups:
            if mask is not None and (mask.shape != (len(self),) or mask.dtype != np.bool_):
                raise RequestError(f"expected `allowed` of {len(self)} booleans, got {mask.dtype} {list(mask.shape)}")
            rows[where], scores[where] = self._search(queries[where], k, mask)
        return rows, scores

    def recall(self, queries: Floats, k: int, allowed: Bools | None = None) -> float:
        """The share of the exact k best rows of these queries that `search` finds: 0..1, 1 for an exact index.

        Sample queries as they will come (histories, not items), and with the filters that will be used.
        """
        found, _ = self.search(queries, k, allowed)
        true, _ = Index(self.vectors, "exact").search(queries, k, allowed)
        hits = sum(len(np.intersect1d(f[f >= 0], t[t >= 0])) for f, t in zip(found, true, strict=True))
        return hits / max(1, int((true >= 0).sum()))

    def _search(self, queries: Floats, k: int, mask: Bools | None) -> tuple[Ints, Floats]:
        legal = len(self) if mask is None else int(np.count_nonzero(mask))
        if self._inverted is None or legal <= max(FEW, len(self) // 50):
            return self._exact(queries, k, mask, legal)
        rows, scores = self._approximate(queries, k, mask, legal)
        short = np.flatnonzero((rows >= 0).sum(axis=1) < min(k, legal))
        if len(short):  # the lists looked into hold too few: nothing that is there may be missing from the end
            rows[short], scores[short] = self._exact(queries[short], k, mask, legal)
        return rows, scores

    def _exact(self, queries: Floats, k: int, mask: Bools | None, legal: int) -> tuple[Ints, Floats]:
        """All allowed rows, block by block; the k best so far are carried along."""
        places = None if mask is None or 4 * legal > len(self) else np.flatnonzero(mask)
        rows = [np.empty(0, dtype=np.int64)] * len(queries)
        scores = [np.empty(0, dtype=np.float32)] * len(queries)
        total = len(self) if places is None else len(places)
        for start in range(0, total, BLOCK):
            own: Ints = np.arange(start, min(start + BLOCK, total)) if places is None else places[start : start + BLOCK]
            block = self.vectors[start : start + BLOCK] if places is None else self.vectors[own]
            products = queries @ block.T
            kept = None if mask is None or places is not None else mask[own]
            for q, product in enumerate(products):
                mine = own if kept is None else own[kept]
                values = product if kept is None else product[kept]
                rows[q], scores[q] = _best(np.append(rows[q], mine), np.append(scores[q], values), k)
        return _padded(rows, scores, k)

    def _approximate(self, queries: Floats, k: int, mask: Bools | None, legal: int) -> tuple[Ints, Floats]:
        faiss = _faiss()
        wider = min(WIDEST, len(self) / legal)
        told: dict[str, Any] = {"nprobe": min(self._inverted.nlist, math.ceil(self.probes * wider))}
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            told["sel"] = faiss.IDSelectorBitmap(bits)
        deep = min(legal, max(DEEPER * k, 64))
        _, near = self._inverted.search(np.ascontiguousarray(queries), deep, params=faiss.SearchParametersIVF(**told))
        rows, scores = [], []
        for query, found in zip(queries, near, strict=True):
            own = found[found >= 0]
            best = _best(own, self.vectors[own] @ query, k)
            rows.append(best[0])
            scores.append(best[1])
        return _padded(rows, scores, k)

    # --- files --------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the index as a folder, whole or not at all; one that is there already is replaced."""
        folder = Path(folder)
        work = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        work.mkdir(parents=True)
        try:
            np.save(work / "vectors.npy", self.vectors)
            if self._inverted is not None:
                _faiss().write_index(self._inverted, str(work / "inverted.faiss"))
            facts = {"format": FORMAT, "kind": self.kind, "rows": len(self), "probes": self.probes}
            (work / "index.json").write_text(json.dumps(facts), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """Open what `save` wrote: vectors and lists are memory-mapped, so pages are read when a search needs them.

        Raises RequestError where the folder holds no such index or is not whole.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise RequestError(
                f"{folder}: expected an index that `Index.save` wrote, got {error}; build it again"
            ) from None
        if facts.get("format") != FORMAT or facts["rows"] != len(vectors):
            raise RequestError(f"{folder}: expected an index of format {FORMAT}, whole; build it again")
        inverted = None
        if facts["kind"] == "approximate":
            faiss = _faiss()
            inverted = faiss.read_index(str(folder / "inverted.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        return cls(vectors, facts["kind"], inverted, facts["probes"])


def check(kind: str) -> None:
    """Raise ConfigError for an unknown kind, and for one whose package is not installed."""
    if kind not in get_args(Kind):
        raise ConfigError(f"expected an index of a known kind, got {kind!r}; {did_you_mean(kind, get_args(Kind))}")
    if kind == "approximate":
        _faiss()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "expected the package faiss for an index of kind 'approximate', found none; install it with "
            "`pip install 'palate[scale]'`, or use kind 'exact'"
        ) from None
    return faiss


def _inverted(vectors: Floats) -> Any:
    """The inverted file: centres learned from a sample, then all rows in blocks, as 8-bit numbers."""
    faiss = _faiss()
    count, width = vectors.shape
    lists = max(1, min(LISTS, count // PER_LIST))
    inverted = faiss.index_factory(width, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    inverted.cp.min_points_per_centroid = 1  # a tiny catalogue is no reason to print a warning
    sample = np.random.default_rng(0).choice(count, min(count, lists * PER_LIST), replace=False)
    inverted.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    for _, block in _blocks(vectors):
        inverted.add(np.ascontiguousarray(block))
    return inverted


def _blocks(vectors: Floats) -> Iterator[tuple[int, Floats]]:
    for start in range(0, len(vectors), BLOCK):
        yield start, vectors[start : start + BLOCK]


def _best(rows: Ints, scores: Floats, k: int) -> tuple[Ints, Floats]:
    """The k of largest score, best first, equal ones by row."""
    if len(scores) > k:
        cut = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = scores >= cut
        rows, scores = rows[near], scores[near]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def _padded(rows: list[Ints], scores: list[Floats], k: int) -> tuple[Ints, Floats]:
    found = np.full((len(rows), k), -1, dtype=np.int64)
    values = np.full((len(rows), k), -np.inf, dtype=np.float32)
    for n, (own, own_scores) in enumerate(zip(rows, scores, strict=True)):
        found[n, : len(own)], values[n, : len(own)] = own, own_scores
    return found, values
