"""What there is: titles to choose from, items, their pictures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from palate.apps.serve.problems import NotFound
from palate.apps.serve.service import Here, Service
from palate.chat.cards import picture_kind
from palate.schema import Item

router = APIRouter(tags=["catalogue"])


@router.get("/v1/catalog")
async def search(
    here: Here,
    q: Annotated[str, Query(max_length=200, description="What is typed; empty for the most chosen.")] = "",
    limit: Annotated[int, Query(ge=1, le=50)] = 8,
) -> dict[str, Any]:
    """Items whose titles match what is typed."""
    found = await asyncio.to_thread(here.titles.find, q, limit)
    return {"items": [here.item(item) for item in found]}


@router.get("/v1/items/{item_id}")
async def item(here: Here, item_id: str) -> dict[str, Any]:
    """One item."""
    return here.item(_item(here, item_id))


@router.get("/v1/items/{item_id}/image")
async def image(here: Here, item_id: str) -> FileResponse:
    """An item's picture: a file of the data set, of a kind that browsers show."""
    path = _item(here, item_id).media.get("image")
    kind = await asyncio.to_thread(_kind, path)
    if path is None or not kind:
        raise NotFound(f"item {item_id!r:.80} has no picture that can be shown")
    headers = {"Cache-Control": "private, max-age=3600"}
    return FileResponse(path, media_type=f"image/{kind}", headers=headers)


def _kind(path: Path | None) -> str:
    return "" if path is None else picture_kind(path)


def _item(here: Service, item_id: str) -> Item:
    if item_id not in here.rec.shelf:
        raise NotFound(f"no item has the id {item_id!r:.80}")
    return here.rec.shelf[item_id]
