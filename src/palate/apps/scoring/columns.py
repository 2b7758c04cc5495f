"""Scores as a table: one row a candidate, with the score and rank of each mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from palate.schema import Scores


def names(modes: Sequence[str]) -> list[str]:
    """Columns of the output: score and rank, or where there are several modes those of each."""
    if len(modes) == 1:
        return ["request_id", "user_id", "item_id", "score", "rank"]
    return ["request_id", "user_id", "item_id", *(f"{kind}_{m}" for m in modes for kind in ("score", "rank"))]


def schema(modes: Sequence[str]) -> pa.Schema:
    types = [pa.string()] * 3 + [pa.float32(), pa.int32()] * len(modes)
    return pa.schema(list(zip(names(modes), types, strict=True)))


def table(scored: Sequence[Sequence[Scores]], modes: Sequence[str], top_k: int | None = None) -> pa.Table:
    """scored: for each mode, the scores of the same requests. Candidates in their order, or with top_k the best so many
    of the first mode, best first."""
    ids: list[str] = []
    users: list[str | None] = []
    items: list[str] = []
    numbers: list[list[np.ndarray]] = [[] for _ in range(2 * len(modes))]
    for rows in zip(*scored, strict=True):
        first = rows[0]
        ranks = [one.ranks() for one in rows]
        kept = np.arange(len(first.item_ids)) if top_k is None else np.argsort(ranks[0], kind="stable")[:top_k]
        ids += [first.request_id] * len(kept)
        users += [first.user_id] * len(kept)
        items += first.item_ids if top_k is None else [first.item_ids[n] for n in kept.tolist()]
        for n, (one, rank) in enumerate(zip(rows, ranks, strict=True)):
            numbers[2 * n].append(one.scores[kept])
            numbers[2 * n + 1].append(rank[kept])
    shape = schema(modes)
    flat = [np.concatenate(n) if n else np.empty(0) for n in numbers]
    columns = [pa.array(c, t) for c, t in zip([ids, users, items, *flat], shape.types, strict=True)]
    return pa.Table.from_arrays(columns, schema=shape)
