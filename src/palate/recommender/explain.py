"""Why this item: leave one thing out at a time and see how much the score falls.

History items, text fields and modalities, of the item and of the history, each in turn (Covert et al., "Explaining by
Removing", 2021). Every variant is a request of its own, and all of them are one call of the packed scorer: what
prompts share is run once. What is left out is really gone, as from an item that never had it: a field's text is not
written; with feature-level fusion a missing modality is zero with its flag, with model-level fusion it has no soft
tokens. So the values are what the model does without a thing, not what its gradients guess.

Scores of mode `embedding` are turned into log-probabilities over a sample of the catalogue, the same rows for all
variants, so that a value does not depend on how far all scores shift. Leaving out one thing at a time says what this
model would have done without it, not what caused a person's taste, and the values of things that say the same, or
need each other, do not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from palate.engine.modes import Mode
from palate.engine.modes.embedding import Embedding
from palate.engine.modes.letters import Letters, shuffled
from palate.engine.together import Together
from palate.errors import RequestError
from palate.recommender.explanation import Contribution, Explanation, Part
from palate.recommender.fused import ADAPTER, Fused
from palate.recommender.trials import Trial, Trials
from palate.recommender.versions import Versions
from palate.schema import Request

if TYPE_CHECKING:
    from palate.recommender import Recommender

__all__ = ["LIMIT", "REFERENCE", "ROUNDING", "Contribution", "Explanation", "explain"]

ROUNDING = {torch.float32: 1e-3}
COARSE = 0.02
"""Differences up to these are rounding: of a base in float32, and in any dtype with fewer digits."""
LIMIT = 30
"""Newest history items that are left out in turn; older ones stay and are not weighed."""
REFERENCE = 2000
"""Catalogue items over which mode `embedding` is normalised."""


def explain(rec: Recommender, item_id: str, request: Request, mode: str | None = None) -> Explanation:
    """Weigh history items, text fields and modalities for one item.

    Of the history the newest LIMIT items are weighed, if the prompt shows as many. The recommender is left as it is.
    """
    chosen, notes = _explainable(rec, mode)
    name = chosen.name
    reference = _reference(rec, item_id, name)
    whole = _shown(rec, chosen, replace(request, candidates=(item_id, *(reference if name == "letters" else ()))))
    versions = Versions(rec, [*whole.candidates, *(e.item_id for e in whole.history)])
    planned = Trials(versions, whole, chosen, rec.dataset.wording)
    trials = planned.all(max(0, len(whole.history) - LIMIT))
    score, *values = _scores(rec, chosen, versions, [whole, *(t.request for t in trials)], reference)
    moved = [(t, score - value) for t, value in zip(trials, values, strict=True)]
    contributions = tuple(
        Contribution(t.name, t.label, value, rec.reasoner.common(item_id, t.name).tags, share, _picture(rec, t.name))
        for t, value, share in _shared(moved, "history")
    )
    fields, modalities = (
        tuple(Part(t.name, t.of, t.label, value, share) for t, value, share in _shared(moved, group))
        for group in ("fields", "modalities")
    )
    together = next((value for t, value in moved if t.group == "together"), None)
    rounding = ROUNDING.get(rec.model.dtype, COARSE)
    item = rec.shelf[item_id]
    shown = dict.fromkeys([*rec.dataset.show.candidate, *rec.dataset.show.history])
    found = Explanation(
        item_id,
        item.title,
        name,
        score,
        "",
        contributions,
        fields,
        modalities,
        together,
        rounding,
        (*notes, *planned.notes),
        tuple((field, item.text[field]) for field in shown if item.text.get(field, "").strip()),
        _picture(rec, item_id),
        rec.dataset.wording,
    )
    return replace(found, reason=rec.reasoner.measured(found))


def _explainable(rec: Recommender, mode: str | None) -> tuple[Mode, tuple[str, ...]]:
    """The mode whose score is taken apart, and what has to be said where it is not the one asked for."""
    chosen, notes = rec.mode(mode), tuple[str, ...]()
    if isinstance(chosen, Fused):
        # retrievers read no fields and no prompts: what is explained is the model's part
        others = ", ".join(part for part in chosen.decision.parts if part != ADAPTER)
        if ADAPTER not in chosen.decision.parts:
            raise RequestError(
                f"mode 'fused' of this adapter mixes {others} and not the model, so there is nothing of the model's "
                f"to explain; expected another mode, such as {rec.default_mode!r}"
            )
        chosen = chosen.inner
        notes = (f"Mode fused mixes the model's score with {others}; explained is the model's part.",)
    if chosen.name == "generate":
        # a beam gives no score to items it never reached; the same text's likelihood is what it climbs
        chosen = rec.mode("likelihood")
    return chosen, notes


def _picture(rec: Recommender, item_id: str) -> Path | None:
    return rec.shelf[item_id].media.get("image")


def _shared(moved: Sequence[tuple[Trial, float]], group: str) -> list[tuple[Trial, float, float]]:
    """The trials of a group with their values and shares, largest value first."""
    mine = [(t, value) for t, value in moved if t.group == group]
    total = sum(abs(value) for _, value in mine) or 1.0
    return sorted(((t, value, abs(value) / total) for t, value in mine), key=lambda m: -m[1])


def _shown(rec: Recommender, mode: Mode, request: Request) -> Request:
    """The request with the history its prompt has room for: leaving one item out must not let an older one in."""
    # an item already in the history must not explain itself
    history = tuple(e for e in request.history if e.item_id != request.candidates[0])
    template = mode.template(rec.serializer)
    request = rec.serializer.summed(template, replace(request, history=history))
    listed = () if isinstance(mode, Embedding) else request.candidates
    shown = rec.serializer.prompt(template, request, listed).history
    return replace(request, history=history[len(history) - len(shown) :])


def _reference(rec: Recommender, item_id: str, mode: str) -> tuple[str, ...]:
    """Other items the mode needs beside the one explained: evenly spaced in the catalogue, so always the same."""
    size = {"embedding": REFERENCE, "letters": 9}.get(mode, 0)
    ids = rec.shelf.item_ids
    step = max(1, (len(ids) - 1) // max(1, size))
    return tuple(i for i in ids[::step] if i != item_id)[:size]


def _scores(
    rec: Recommender, mode: Mode, versions: Versions, requests: Sequence[Request], reference: Sequence[str]
) -> list[float]:
    """The score of each request's first candidate, all from one call."""
    items = [i for r in requests for i in (*r.candidates, *(e.item_id for e in r.history))]
    runner = Together(versions.model([*items, *reference]))
    runner.budget = rec.runner.budget
    if isinstance(mode, Embedding):
        return _matched(mode, runner, versions, requests, reference)
    if isinstance(mode, Letters):
        mode = _SameOrders(mode, requests[0], versions)
    return [float(s.scores[0]) for s in mode.scores(runner, versions.serializer, requests)]


def _matched(
    mode: Embedding, runner: Together, versions: Versions, requests: Sequence[Request], reference: Sequence[str]
) -> list[float]:
    """Log-probabilities of the first candidates beside the reference items.

    Requests that differ in the candidate alone share a query.
    """
    asked: list[Request] = []
    rows: list[int] = []
    for request in requests:
        alike = (n for n, other in enumerate(asked) if replace(request, candidates=other.candidates) == other)
        rows.append(next(alike, len(asked)))
        if rows[-1] == len(asked):
            asked.append(request)
    logits = mode.catalogue_scores(runner, versions.serializer, asked).astype(np.float64)
    assert runner.model.soft is not None
    place = {item: n for n, item in enumerate(runner.model.soft.item_ids)}
    others = np.logaddexp.reduce(logits[:, [place[i] for i in reference]], axis=1, initial=-np.inf)
    own = np.array([logits[row, place[r.candidates[0]]] for row, r in zip(rows, requests, strict=True)])
    values: list[float] = (own - np.logaddexp(own, others[rows])).tolist()
    return values


class _SameOrders(Letters):
    """Letters that lists the candidates of all variants in the orders of the whole request: another order would move
    the score too."""

    def __init__(self, like: Letters, whole: Request, versions: Versions) -> None:
        super().__init__(like.shuffles, like.template_name)
        self._whole, self._versions = whole, versions

    def orders(self, request: Request) -> list[tuple[str, ...]]:
        mine = {self._versions.origin(c): c for c in request.candidates}
        return [tuple(mine[c] for c in order) for order in shuffled(self._whole, self.shuffles)]
