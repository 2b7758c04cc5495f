"""What is asked of the model, several payloads at once. Everything here runs on the worker's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.apps.serve.raw import RawScores, RawText, score_raw
from palate.apps.serve.worker import Work
from palate.errors import EmptyLegalSet, PalateError
from palate.recommender import Recommendation, Recommender
from palate.recommender.ranking import POOL
from palate.recommender.request import check_candidates
from palate.recommender.rerank import Method
from palate.schema import Bools, Request, Scores

if TYPE_CHECKING:
    from palate.recommender.explain import Explanation


@dataclass(frozen=True)
class Wanted:
    """One list to recommend."""

    request: Request
    blocked: tuple[str, ...]
    filters: dict[str, Any]
    k: int
    diversity: float = 0.0
    rerank: Method = "mmr"

    @property
    def size(self) -> int:
        """How many items are ranked for it: with diversity more than are shown."""
        return max(self.k, POOL) if self.diversity else self.k


def score(rec: Recommender, mode: str | None) -> Work:
    """Requests with candidates of the catalogue; their scores. Adapters may be mixed."""

    def run(requests: Sequence[Request]) -> list[Scores | PalateError]:
        ready, results = _checked(requests, lambda r: check_candidates(r, rec.shelf))
        # one person's requests side by side: the engine reads what they share once
        ready.sort(key=lambda n: (requests[n].adapter, requests[n].user_id or "", len(requests[n].history)))
        for n, found in zip(ready, rec.score([requests[n] for n in ready], mode), strict=True):
            results[n] = found
        return results

    return Work(("score", id(rec), mode), run, "score")


def recommend(rec: Recommender, mode: str | None, size: int) -> Work:
    """What to recommend; lists of recommendations. `rec` is that of the adapter asked.

    size: of `Wanted.size`. Only requests of one size go together: it decides how many candidates some modes look at.
    """

    def run(wanted: Sequence[Wanted]) -> list[list[Recommendation] | PalateError]:
        masks: dict[int, Bools] = {}

        def check(n: int) -> None:
            masks[n] = _legal(rec, wanted[n])

        ready, results = _checked(range(len(wanted)), check)
        if ready:
            scores = rec.rank_all([wanted[n].request for n in ready], [masks[n] for n in ready], size, mode)
            found = iter([_present(rec, wanted[n], s) for n, s in zip(ready, scores, strict=True)])
            results = [next(found) if r is None else r for r in results]
        return results

    return Work(("recommend", id(rec), mode, size), run, "recommend")


def raw(rec: Recommender) -> Work:
    """Prompts of the caller's own; probabilities."""

    def run(texts: Sequence[RawText]) -> list[RawScores]:
        order = sorted(range(len(texts)), key=lambda n: str(texts[n].query))
        found = score_raw(rec.runner, rec.serializer.encoder, [texts[n] for n in order])
        return [scores for _, scores in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    return Work(("raw", id(rec)), run, "raw")


def explain(rec: Recommender) -> Work:
    """One item and person at a time: an explanation is a batch of its own."""

    def run(asked: Sequence[tuple[str, Request, str | None]]) -> list[Explanation]:
        return [rec.explain(item, r.user_id, r.history, mode, r.context) for item, r, mode in asked]

    return Work(("explain", id(rec)), run, "explain", most=1)


def _stepwise(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    return [task() for task in tasks]


TURN = Work("turn", _stepwise, "chat", most=1)
"""A conversation's turn: a function to call. Turns hand out their items while they run."""


def _checked(payloads: Sequence[Any], check: Callable[[Any], None]) -> tuple[list[int], list[Any]]:
    """(numbers of the payloads that pass, a list with what is wrong with the others)."""
    results: list[Any] = []
    for payload in payloads:
        try:
            check(payload)
        except PalateError as error:
            results.append(error)
        else:
            results.append(None)
    return [n for n, r in enumerate(results) if r is None], results


def _legal(rec: Recommender, wanted: Wanted) -> Bools:
    legal = rec.legal(wanted.request, wanted.filters)
    legal[[rec.shelf.index(i) for i in wanted.blocked]] = False
    if not legal.any():
        raise EmptyLegalSet("everything that fits is in the history or disliked; widen the filters")
    return np.asarray(legal, dtype=bool)


def _present(rec: Recommender, wanted: Wanted, scores: Scores) -> list[Recommendation]:
    best = scores.top(wanted.size)
    if wanted.diversity:
        best = rec.ranker.diverse(best, rec.fields, wanted.diversity, wanted.rerank, wanted.k)
    return rec.present(best, [e.item_id for e in wanted.request.history])


def stepwise(pieces: Iterator[Any], emit: Callable[[Any], bool]) -> None:
    """Hand out pieces until they end or nobody takes them any more."""
    for piece in pieces:
        if not emit(piece):
            return
