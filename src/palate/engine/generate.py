"""Trie-constrained beam search: the LLM says titles, and only titles that are in the catalogue and allowed.

Beam search with a prefix trie as in De Cao et al., "Autoregressive Entity Retrieval" (2021). The base's own
`generation_config` is never asked: no top_k, top_p or temperature narrows or bends the legal set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palate.engine.beam import Forest
from palate.engine.pack import Job
from palate.engine.prefix import PrefixCache
from palate.engine.runner import Runner
from palate.engine.trie import Trie, View
from palate.errors import EmptyLegalSet, PalateError, RequestError
from palate.model import Model
from palate.schema import Bools, Branch, Floats, Ints, Prompt

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Search:
    """How wide to search.

    beams: hypotheses kept per prompt; k: items wanted; length_penalty: a title's summed log-probability is
    divided by (its tokens) ** length_penalty (0: sum, 1: mean); max_rows: beams run at once.
    """

    beams: int = 20
    k: int = 10
    length_penalty: float = 0.0
    max_rows: int = 256

    def __post_init__(self) -> None:
        for name in ("beams", "k", "max_rows"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if not np.isfinite(self.length_penalty):
            raise RequestError(f"length_penalty: expected a number, got {self.length_penalty}")

    def normalised(self, scores: Doubles, length: int | Ints) -> Doubles:
        """Summed log-probabilities of titles of `length` tokens as scores."""
        return scores if not self.length_penalty else scores / length**self.length_penalty

    def scores(self, tokens: Sequence[Floats]) -> Doubles:
        """Scores of whole titles from the log-probabilities of their tokens."""
        sums = np.array([t.sum(dtype=np.float64) for t in tokens])
        return self.normalised(sums, np.array([len(t) for t in tokens]))

    def reachable(self, score: float, length: int, depth: int) -> float:
        """The best final score a hypothesis with this sum and length can still get (log-probs only fall)."""
        best = depth if self.length_penalty > 0 else length + 1
        return float(self.normalised(np.array([score]), best)[0])


@dataclass(slots=True)
class _Beams:
    """Live hypotheses of all prompts, grouped by prompt: int64, int64, float64 [R]."""

    user: Ints
    node: Ints
    score: Doubles


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    trie: Trie,
    search: Search | None = None,
    *,
    allowed: Sequence[Bools | None] | None = None,
    prefixes: PrefixCache | None = None,
    **options: Any,
) -> list[list[tuple[int, float]]]:
    """The k best (item index, score) a prompt, best first; equal scores in item order.

    search, or its fields as `options` (beams=, k=, length_penalty=, max_rows=): how wide to search. Score: sum of
    the title tokens' log-probabilities over the full vocabulary, normalised by `length_penalty`. Every item found
    is in the trie and allowed; `allowed` holds a mask bool [N] or None for each prompt. Where no more than `beams`
    items are allowed, all of them are scored in one pack, exactly; with fewer beams fewer than k items may be
    found. Items that share a title all appear. prefixes: see `PrefixCache`. Raises EmptyLegalSet where a mask
    allows nothing.
    """
    search = search or Search(**options)
    if allowed is not None and len(allowed) != len(prompts):
        raise RequestError(f"expected {len(prompts)} filter masks, one a prompt, got {len(allowed)}")
    views = []
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise RequestError(f"prompt {number}: expected at least one token, got an empty prompt")
        try:
            views.append(trie.restrict(None if allowed is None else allowed[number]))
        except EmptyLegalSet as error:
            raise EmptyLegalSet(f"prompt {number}: {error}") from None
    found: list[list[tuple[int, float]]] = [[] for _ in prompts]
    model.eval()
    few = [n for n, view in enumerate(views) if len(view) <= search.beams]
    many = [n for n, view in enumerate(views) if len(view) > search.beams]
    if few:
        lists = _exhaustive(model, [prompts[n] for n in few], [views[n] for n in few], search, prefixes)
        for number, ranked in zip(few, lists, strict=True):
            found[number] = ranked
    size = max(1, search.max_rows // search.beams)
    with torch.inference_mode():
        for start in range(0, len(many), size):
            group = many[start : start + size]
            lists = _run(model, [prompts[n] for n in group], [views[n] for n in group], search, prefixes)
            for number, ranked in zip(group, lists, strict=True):
                found[number] = ranked
    return found


def _exhaustive(
    model: Model, prompts: Sequence[Prompt], views: Sequence[View], search: Search, prefixes: PrefixCache | None
) -> list[list[tuple[int, float]]]:
    """All allowed titles of each prompt, scored as branches of it."""
    jobs, names = [], []
    for prompt, view in zip(prompts, views, strict=True):
        items, titles = view.titles()
        names.append(items)
        jobs.append(Job(prompt, "tokens", tuple(Branch(str(i), t) for i, t in zip(items, titles, strict=True))))
    out = []
    for items, output in zip(names, Runner(model, prefixes=prefixes).run(jobs), strict=True):
        pool = _Pool(search.k)
        pool.add(items, search.scores(output.tokens))
        out.append(pool.ranked())
    return out


def _run(
    model: Model, prompts: Sequence[Prompt], views: Sequence[View], search: Search, prefixes: PrefixCache | None
) -> list[list[tuple[int, float]]]:
    """Beam search behind several prompts at once."""
    forest = Forest(model, prompts, prefixes)
    hidden = forest.prefill(prompts)
    users = len(prompts)
    pools = [_Pool(search.k) for _ in prompts]
    live = _Beams(np.arange(users), np.zeros(users, dtype=np.int64), np.zeros(users))
    for length in range(1, views[0].trie.depth + 1):
        bounds = np.searchsorted(live.user, np.arange(users + 1))
        parts = [v.legal(live.node[bounds[u] : bounds[u + 1]]) for u, v in enumerate(views)]
        rows = np.concatenate([p[0] + bounds[u] for u, p in enumerate(parts)])
        tokens, nodes = (np.concatenate([p[i] for p in parts]) for i in (1, 2))
        scores = live.score[rows] + _logprobs(model, hidden, rows, tokens, search.max_rows)
        cuts = np.cumsum([0, *(len(p[0]) for p in parts)])
        chosen = []
        for u, view in enumerate(views):
            part = slice(cuts[u], cuts[u + 1])
            at, items = view.items(nodes[part])
            pools[u].add(items, search.normalised(scores[part][at], length))
            chosen.append(cuts[u] + _survivors(nodes[part], scores[part], view, pools[u], search, length))
        pick = np.concatenate(chosen)
        if not len(pick):
            break
        parents = rows[pick]
        hidden = forest.step(tokens[pick], parents - bounds[live.user[parents]], live.user[parents], search.max_rows)
        live = _Beams(live.user[parents], nodes[pick], scores[pick])
    return [pool.ranked() for pool in pools]


def _survivors(nodes: Ints, scores: Doubles, view: View, pool: _Pool, search: Search, length: int) -> Ints:
    """The candidates of one prompt that go on, in their order: the best `beams` with allowed items below.

    None go on once the k items found cannot be overtaken: the answer is the same, only sooner.
    """
    inner = np.flatnonzero(view.inner(nodes))
    if not len(inner):
        return inner
    best = float(scores[inner].max())
    if pool.worst > search.reachable(best, length, view.trie.depth):
        return inner[:0]
    if len(inner) > search.beams:
        by = np.lexsort((nodes[inner], -scores[inner]))[: search.beams]
        inner = np.sort(inner[by])
    return inner


def _logprobs(model: Model, hidden: Tensor, rows: Ints, tokens: Ints, max_rows: int) -> Doubles:
    """log p(token | row) over the full vocabulary for ragged (row, token) pairs, rows ascending."""
    out = np.empty(len(rows), dtype=np.float64)
    for start in range(0, len(hidden), max_rows):
        a, b = np.searchsorted(rows, (start, start + max_rows))
        at, to = (torch.from_numpy(x).to(hidden.device) for x in (rows[a:b] - start, tokens[a:b]))
        out[a:b] = model.logprobs(hidden[start : start + max_rows], at, to).cpu().numpy()
    if not np.isfinite(out).all():
        raise PalateError("the model returned NaN or infinite scores; its weights or inputs are damaged")
    return out


class _Pool:
    """The k best finished items of one prompt."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._items = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0)

    @property
    def worst(self) -> float:
        """What a new item must beat; minus infinity while there is room."""
        return float(self._scores[-1]) if len(self._items) == self._k else -np.inf

    def add(self, items: Ints, scores: Doubles) -> None:
        self._items = np.concatenate([self._items, items])
        self._scores = np.concatenate([self._scores, scores])
        best = np.lexsort((self._items, -self._scores))[: self._k]
        self._items, self._scores = self._items[best], self._scores[best]

    def ranked(self) -> list[tuple[int, float]]:
        return list(zip(self._items.tolist(), self._scores.tolist(), strict=True))
