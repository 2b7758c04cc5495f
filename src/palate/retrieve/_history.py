"""Histories as sparse rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from palate.schema import Ints


def history_matrix(histories: Sequence[Ints], width: int, recency: float | None) -> Any:
    """Sparse float32 [B, N] of (recency-weighted) histories; see `itemitem.rows_matrix`."""
    from palate.itemitem import rows_matrix

    indptr = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    items = np.concatenate(histories) if len(histories) else np.zeros(0, dtype=np.int64)
    return rows_matrix(indptr, items.astype(np.int64), width, recency)
