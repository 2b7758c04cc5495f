"""For those who run the server: is it alive, is it ready, what does it hold, what has it done."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

import palate
from palate.apps.serve.service import Here

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Alive: the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(here: Here) -> JSONResponse:
    """Ready for work: not while stopping, nor while the queue is full."""
    waiting, limit = here.worker.waiting, here.settings.queue
    status = "draining" if here.draining else "full" if waiting >= limit else "ready"
    return JSONResponse({"status": status, "waiting": waiting, "limit": limit}, 200 if status == "ready" else 503)


@router.get("/metrics")
async def metrics(here: Here) -> Response:
    """Counts in Prometheus' text format."""
    return Response(here.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def models(here: Here) -> dict[str, Any]:
    """The adapters, as OpenAI lists models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "palate"} for name in here.rec.adapters]
    return {"object": "list", "data": data}


@router.get("/v1/about")
async def about(here: Here) -> dict[str, Any]:
    """What is served, in the words of its domain: what a page needs to know first."""
    rec, w = here.model(None), here.rec.dataset.wording
    fields: dict[str, Any] = {}
    for name, field in rec.fields.items():
        if field.kind == "tags" and field.broad:
            fields[name] = {"kind": "tags", "values": sorted(field.tags, key=lambda t: -field.tags[t])[:60]}
        elif field.kind == "number":
            fields[name] = {"kind": "number", "low": field.low, "high": field.high, "unit": field.unit}
    return {
        "version": palate.__version__,
        "dataset": rec.dataset.name,
        "items": len(rec.shelf),
        "users": len(rec.dataset.histories),
        "wording": {"item": w.item, "items": w.items, "verb": w.verb, "person": w.person},
        "models": list(here.rec.adapters),
        "modes": here.modes(rec),
        "default_mode": rec.default_mode,
        "show": {"history": list(rec.dataset.show.history), "candidate": list(rec.dataset.show.candidate)},
        "fields": fields,
        "needs_key": bool(here.settings.keys),
    }
