"""Reordering a scored list for diversity: relevant items first, but not all of one kind.

Pure functions. Candidates come best first (the plain order), with relevance float [C] and similarity [C, C] in [-1, 1],
1 on its diagonal. `diversity` from 0 (the plain order, exactly) to 1 (the best item, then the least alike).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.errors import RequestError, did_you_mean
from palate.recommender.likeness import Alike
from palate.schema import Bools, Ints

Method = Literal["mmr", "dpp"]
SPANNED = 1e-6
"""An item with less of its own than this beside those chosen adds nothing: the rounding of float32 likenesses."""


def mmr(relevance: ArrayLike, similarity: ArrayLike, diversity: float, k: int) -> Ints:
    """Maximal marginal relevance (Carbonell and Goldstein, 1998): places of the k chosen, in order, int64.

    Each time the item with the largest (1 - diversity) * relevance - diversity * (its largest similarity to those
    chosen already); the first of equal ones.
    """
    gain = (1.0 - diversity) * np.asarray(relevance, dtype=np.float64)
    likeness = np.asarray(similarity, dtype=np.float64)
    nearest = np.zeros(len(gain))  # before anything is chosen all are equally new
    left = np.ones(len(gain), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < min(k, len(gain)):
        pick = _best(gain - diversity * nearest, left)
        nearest = np.maximum(nearest, likeness[pick]) if chosen else likeness[pick]
        left[pick] = False
        chosen.append(pick)
    return np.array(chosen, dtype=np.int64)


def dpp(relevance: ArrayLike, similarity: ArrayLike, diversity: float, k: int) -> Ints:
    """Greedy mode of a determinantal point process (Chen, Zhang and Zhou, 2018): places of the k chosen, int64.

    Each time the item that most raises (1 - diversity) * sum of relevance + diversity * log det(similarity of the
    chosen); the first of equal ones. Their kernel weighs items by exp(relevance * (1 - diversity) / (2 * diversity)),
    which this is the logarithm of, so that no weight overflows. A row of the Cholesky factor grows with every choice:
    O(C k^2) in all. Items that the chosen ones span already (copies) are told apart by relevance alone. similarity
    must be positive semi-definite, as Jaccard and cosine are.
    """
    gain = (1.0 - diversity) * np.asarray(relevance, dtype=np.float64)
    kernel = np.asarray(similarity, dtype=np.float64)
    count = min(k, len(gain))
    factor = np.zeros((count, len(gain)))
    own = np.diag(kernel).copy()  # the squared part of each item that the chosen ones do not span
    left = np.ones(len(gain), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < count:
        pick = _best(gain + diversity * np.log(np.maximum(own, SPANNED)), left)
        n = len(chosen)
        if own[pick] > SPANNED:
            factor[n] = (kernel[pick] - factor[:n, pick] @ factor[:n]) / np.sqrt(own[pick])
            own = own - factor[n] ** 2
        left[pick] = False
        chosen.append(pick)
    return np.array(chosen, dtype=np.int64)


def _best(values: NDArray[np.float64], left: Bools) -> int:
    return int(np.argmax(np.where(left, values, -np.inf)))


METHODS: Mapping[str, Callable[[ArrayLike, ArrayLike, float, int], Ints]] = {"mmr": mmr, "dpp": dpp}


def check(diversity: float, method: str) -> None:
    """RequestError where diversity is not between 0 and 1 or no method is called so."""
    if not 0.0 <= diversity <= 1.0:
        raise RequestError(f"diversity: expected a number from 0 (the plain order) to 1, got {diversity}")
    if method not in METHODS:
        raise RequestError(f"no way to rerank is called {method!r}; {did_you_mean(method, METHODS)}")


def rerank(scores: ArrayLike, alike: Alike, diversity: float, k: int, method: str = "mmr") -> Ints:
    """The k best places of a list after reranking, best first: int64 [k or fewer].

    scores: [C], best first, the rows of `alike` in the same order. Relevance is the score's place between the list's
    lowest and highest, 0 to 1, so only scores' differences count. Items that nothing is known of are like no other.
    Those scored -inf ("not proposed") stay behind all others.
    """
    check(diversity, method)
    values = np.asarray(scores, dtype=np.float64)
    proposed = int((values > -np.inf).sum())
    if diversity == 0.0 or not proposed:
        return np.arange(min(k, len(values)), dtype=np.int64)
    part = values[:proposed]
    span = part[0] - part[-1]
    relevance = (part - part[-1]) / span if span > 0 else np.zeros(proposed)
    likeness = np.nan_to_num(alike.similarity(np.arange(proposed)), nan=0.0)
    chosen = METHODS[method](relevance, likeness, diversity, k)
    return np.concatenate([chosen, np.arange(proposed, len(values))])[:k].astype(np.int64)
