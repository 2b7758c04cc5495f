"""Lists, scores and reasons."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from palate.apps.serve import works
from palate.apps.serve.person import Person
from palate.apps.serve.raw import RawText
from palate.apps.serve.service import Here, Service, usage
from palate.apps.serve.wire import Asker, ExplainBody, RecommendBody, ScoreBody, events, filters

router = APIRouter(tags=["recommendation"])


async def ask(here: Service, body: Asker) -> Person:
    """Who asks."""
    here.check_size(len(body.history or ()), "history")
    history = events(body.history)
    return await asyncio.to_thread(here.people.ask, body.user, history, body.context)


@router.post("/v1/recommend")
async def recommend(here: Here, http: Request, body: RecommendBody) -> dict[str, Any]:
    """The k best items a person has not chosen yet, with a reason each."""
    rec = here.model(body.model)
    mode = here.mode(rec, body.mode)
    person = await ask(here, body)
    wanted = works.Wanted(person.request, person.blocked, filters(body.filters), body.k, body.diversity, body.rerank)
    found = await here.run(http, works.recommend(rec, mode, wanted.size), wanted, cost=1)
    return {"model": rec.adapter, "mode": mode, "known": person.known, "items": [here.recommended(r) for r in found]}


@router.post("/v1/explain")
async def explain(here: Here, http: Request, body: ExplainBody) -> dict[str, Any]:
    """What in the history, the item's fields and its media moved its score, and by how much."""
    rec = here.model(body.model)
    mode = None if body.mode is None else here.mode(rec, body.mode)
    item = rec.shelf.find(body.item)
    person = await ask(here, body)
    found = await here.run(http, works.explain(rec), (item, person.request, mode))
    return {"model": rec.adapter, **found.to_dict()}


@router.post("/v1/score")
@router.post("/generative_scoring", include_in_schema=False)
async def score(here: Here, http: Request, body: ScoreBody) -> dict[str, Any]:
    """Scores of a candidate list, in its order: of catalogue items for a person, or of raw texts behind a query."""
    rec = here.model(body.model)
    items: list[Any] = [body.items] if isinstance(body.items, str) else list(body.items)
    here.check_size(len(items), "items")
    if body.raw:
        return await _raw(here, http, body, items)
    mode = here.mode(rec, body.mode)
    person = await ask(here, body)
    candidates = tuple(rec.shelf.find(i) for i in items)
    query = body.query if isinstance(body.query, str) else ""
    request = replace(person.request, candidates=candidates, query=query, adapter=rec.adapter)
    found = await here.run(http, works.score(here.rec, mode), request, cost=len(candidates))
    values = [round(float(s), 6) for s in found.scores]
    data = [
        {"index": n, "object": "score", "score": s, "item_id": i, "rank": int(r)}
        for n, (s, i, r) in enumerate(zip(values, found.item_ids, found.ranks(), strict=True))
    ]
    return {"object": "scoring", "model": rec.adapter, "mode": mode, "scores": values, "data": data}


async def _raw(here: Service, http: Request, body: ScoreBody, items: list[Any]) -> dict[str, Any]:
    rec = here.model(body.model)
    assert body.query is not None
    labels = None if body.label_token_ids is None else tuple(body.label_token_ids)
    text = RawText(body.query, items, labels, body.apply_softmax, body.item_first)
    found = await here.run(http, works.raw(rec), text, cost=len(items) * len(labels or (0,)))
    values = [[float(v) for v in row] for row in found.values]
    return {
        "object": "scoring",
        "model": rec.adapter,
        "scores": values,
        "data": [{"index": n, "object": "score", "score": row[0]} for n, row in enumerate(values)],
        "usage": usage(found.tokens),
    }
