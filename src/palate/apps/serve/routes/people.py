"""What people do, and what is held of them."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from palate.apps.serve.problems import Problem
from palate.apps.serve.service import Here, Service
from palate.apps.serve.sessions import Live
from palate.apps.serve.wire import EventBody, EventsBody
from palate.store import StoredEvent

router = APIRouter(tags=["people"])
SHOWN = 50
"""History items a person's page shows."""


@router.post("/v1/events")
async def add_events(here: Here, body: EventsBody | EventBody) -> dict[str, int]:
    """Keep what people did: choices, likes, dislikes, "I have seen it". All or none."""
    given = body.events if isinstance(body, EventsBody) else [body]
    lives: dict[str, Live] = {}
    new = []
    for event in given:
        item = here.rec.shelf.find(event.item)
        if event.user is None and event.session is None:
            raise Problem("an event needs a user or a session, got neither")
        if event.session is not None and event.session not in lives:
            lives[event.session] = await asyncio.to_thread(here.sessions.get, event.session)
        user = event.user if event.session is None else event.user or lives[event.session].user
        new.append(
            StoredEvent(user, item, event.kind, event.rating, event.timestamp, event.context, session=event.session)
        )
    stored = await asyncio.to_thread(here.store.add_events, new)
    for name, live in lives.items():
        async with live.lock:
            for told in new:
                if told.session == name:
                    _tell(live, told)
            await asyncio.to_thread(here.store.save_state, name, live.chat.state())
    return {"stored": stored}


def _tell(live: Live, event: StoredEvent) -> None:
    """Make a conversation count an event."""
    take = {"like": live.chat.like, "dislike": live.chat.dislike}.get(event.kind, live.chat.mark_seen)
    take(event.item)


@router.get("/v1/users/{user}")
async def user(here: Here, user: str) -> dict[str, Any]:
    """A person's latest choices and feedback."""
    person = await asyncio.to_thread(here.people.ask, user)
    history = list(dict.fromkeys(e.item_id for e in person.request.history))
    return {
        "user": user,
        "known": person.known,
        "count": len(history),
        "history": [here.item(here.rec.shelf[i]) for i in history[-SHOWN:]],
        "liked": list(person.liked),
        "disliked": list(person.blocked),
    }


@router.get("/v1/users/{user}/export")
async def export(here: Here, user: str) -> JSONResponse:
    """Everything held of a person: what the store has, and their rows of the data set."""
    held = await asyncio.to_thread(here.store.export, user)
    return JSONResponse({**held, "dataset": await asyncio.to_thread(_rows, here, user)})


@router.delete("/v1/users/{user}")
async def forget(here: Here, user: str) -> dict[str, Any]:
    """Remove a person from the store, and use the data set's rows of theirs no more.

    dataset_rows: those that lie in the data set's files all the same; `palate forget --data DIR` takes them out.
    """
    gone = await asyncio.to_thread(here.store.forget, user)
    here.sessions.forget(user)
    removed = {"events": gone.events, "sessions": gone.sessions, "turns": gone.turns}
    return {"user": user, "removed": removed, "dataset_rows": len(await asyncio.to_thread(_rows, here, user))}


def _rows(here: Service, user: str) -> list[dict[str, Any]]:
    histories = here.rec.dataset.histories
    if user not in histories:
        return []
    return [
        {
            "item": e.item_id,
            "timestamp": e.timestamp,
            "rating": e.rating,
            "context": dict(e.context),
            "review": e.review,
        }
        for e in histories.events(user)
    ]
