"""Item-item linear algebra over interaction histories, shared by the EASE retriever and the behaviour
encoder.

Loads scipy, so import it where it is used, not at a module's top that the command line reads.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from palate.schema import Interactions, Ints

DENSE_LIMIT = 20_000
"""Catalogues up to this many items get a dense N x N matrix (1.6 GB in float32 at the limit)."""
DOUBLE_LIMIT = 8_000
"""Up to this many items the inverse is taken in float64."""


def recency_weights(lengths: Ints, recency: float | None) -> NDArray[np.float32]:
    """Weight of each position of concatenated histories: exp(-age / recency), age 0 the newest; 1 without
    recency.

    lengths: int64 [B], items per history. Returns float32 [sum(lengths)].
    """
    total = int(lengths.sum())
    if recency is None:
        return np.ones(total, dtype=np.float32)
    last = np.repeat(np.cumsum(lengths) - 1, lengths)
    weights: NDArray[np.float32] = np.exp((np.arange(total) - last) / recency).astype(np.float32)
    return weights


def rows_matrix(indptr: Ints, items: Ints, width: int, recency: float | None = None) -> Any:
    """Histories as a sparse float32 [B, N] matrix; an item that occurs twice keeps its newest (largest)
    weight.

    indptr: int64 [B + 1]; items: int64 [nnz] in 0..N-1, each history oldest first; width: N.
    """
    weights = recency_weights(np.diff(indptr), recency)
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    flat = rows * width + items
    # newest first, so that the first of each (row, item) pair is the one to keep
    _, first = np.unique(flat[::-1], return_index=True)
    keep = len(flat) - 1 - first
    shape = (len(indptr) - 1, width)
    return sparse.csr_matrix((weights[keep], (rows[keep], items[keep])), shape=shape)


def user_item_matrix(interactions: Interactions, recency: float | None = None) -> Any:
    """Sparse float32 [U, N]: 1 where a user met an item, or its recency weight."""
    return rows_matrix(interactions.indptr, interactions.items, len(interactions.item_ids), recency)


def ease(matrix: Any, penalty: float) -> NDArray[np.float32]:
    """EASE's item-item weights B, float32 [N, N], zero diagonal (Steck, 2019, "Embarrassingly Shallow
    Autoencoders").

    matrix: sparse [U, N]. With P = (X'X + penalty I)^-1: B[i, j] = -P[i, j] / P[j, j]. One Cholesky
    factorisation, N^3 flops, in place.
    """
    items = matrix.shape[1]
    dtype = np.float64 if items <= DOUBLE_LIMIT else np.float32
    ridged = matrix.T @ matrix + penalty * sparse.eye_array(items, dtype=dtype, format="csr")
    gram = np.asfortranarray(ridged.toarray(), dtype=dtype)
    factor, inverse = linalg.lapack.get_lapack_funcs(("potrf", "potri"), (gram,))
    lower, failed = factor(gram, lower=1, overwrite_a=1)
    if not failed:
        lower, failed = inverse(lower, lower=1, overwrite_c=1)
    if failed:
        raise ValueError(f"expected a positive penalty that makes X'X + penalty I regular, got {penalty!r}")
    lower = np.tril(lower)
    full = lower + np.tril(lower, -1).T
    weights: NDArray[np.float32] = (-full / np.diag(full)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def singular_pairs(matrix: Any, dims: int, dense_below: int = 3_000) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Left and right singular vectors scaled by the root of their singular values: two float32 [N, dims].

    matrix: a dense array or a scipy LinearOperator, N x N. Signs are fixed (the largest entry of every left
    vector is positive) and the start vector of the iterative solver is constant, so the answer does not
    vary from run to run. Where N < dims the last columns are zero.
    """
    items = matrix.shape[0]
    kept = min(dims, items)
    if (isinstance(matrix, np.ndarray) and items <= dense_below) or kept >= items - 1:
        dense = matrix if isinstance(matrix, np.ndarray) else matrix @ np.eye(items)
        left, values, right = np.linalg.svd(dense.astype(np.float64), full_matrices=False)
        left, values, right = left[:, :kept], values[:kept], right[:kept].T
    else:
        left, values, right = _iterative_svd(matrix, kept)
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    signs[signs == 0] = 1.0
    scale = np.sqrt(values) * signs
    padded = [np.zeros((items, dims), dtype=np.float32) for _ in range(2)]
    padded[0][:, :kept] = left * scale
    padded[1][:, :kept] = right * scale
    return padded[0], padded[1]


def _iterative_svd(matrix: Any, kept: int) -> tuple[Any, Any, Any]:
    from scipy.sparse.linalg import svds

    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    with warnings.catch_warnings():
        # scipy announces a change of svds' random generator; ours is passed in
        warnings.simplefilter("ignore", FutureWarning)
        left, values, right = svds(matrix, k=kept, v0=start, solver="arpack")
    order = np.argsort(values)[::-1]
    return left[:, order], values[order], right[order].T
