"""Conversation: OpenAI's chat completions, with or without a session that outlives the request."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from palate.apps.serve import problems
from palate.apps.serve.problems import Problem, Unsupported
from palate.apps.serve.service import Here, Service, usage
from palate.apps.serve.turn import Turn
from palate.apps.serve.wire import ChatBody, SessionBody

router = APIRouter(tags=["conversation"])


@router.post("/v1/chat/sessions")
async def begin(here: Here, body: SessionBody) -> dict[str, Any]:
    """Begin a conversation that outlives the request, and the server."""
    rec = here.model(body.model)
    live = await asyncio.to_thread(here.sessions.begin, rec, body.user, body.history, body.context)
    return {"session": live.session, "user": live.user, "model": rec.adapter}


@router.get("/v1/chat/sessions/{session}")
async def read(here: Here, session: str) -> dict[str, Any]:
    """A conversation so far."""
    live = await asyncio.to_thread(here.sessions.get, session)
    turns = await asyncio.to_thread(here.store.turns, session)
    told = [{"role": t.role, "text": t.text, "items": list(t.items), "created": t.created} for t in turns]
    chat = live.chat
    feedback = {"liked": list(chat.liked), "disliked": list(chat.disliked), "seen": list(chat.seen)}
    history = [here.item(here.rec.shelf[e.item_id]) for e in chat.request.history[-50:]]
    return {"session": session, "user": live.user, "model": live.model, "turns": told, "history": history, **feedback}


@router.post("/v1/chat/completions", response_model=None)
async def completions(here: Here, http: Request, body: ChatBody) -> JSONResponse | StreamingResponse:
    """An answer to the last message. With `session` the server remembers what came before; without, the messages tell.

    A streamed chunk that names an item carries it as `delta.palate.item`; a whole answer has `message.palate.items`.
    """
    text, timeout = _asked(body), here.timeout(http)
    turn = await _turn(here, body, text)
    # begun before any header is sent, so that a full queue is a 429 and no broken stream
    turn.start(timeout)
    about = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": turn.model}
    if body.stream:
        usage_wanted = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(_events(here, turn, about, usage_wanted), media_type="text/event-stream")
    assert turn.future is not None
    assert turn.kept is not None
    await here.wait(http, turn.future, timeout)
    await asyncio.shield(turn.kept)
    told = {"items": [here.recommended(i) for i in turn.items], "session": body.session}
    message = {"role": "assistant", "content": turn.text, "palate": told}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return JSONResponse({**about, "object": "chat.completion", "choices": [choice], "usage": _usage(here, body, turn)})


async def _events(here: Service, turn: Turn, about: dict[str, Any], usage_wanted: bool) -> AsyncIterator[str]:
    """OpenAI's server-sent events. However it ends, what was told is kept."""

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        told = {**about, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(told, ensure_ascii=False)}\n\n"

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for piece in turn.pieces():
            delta: dict[str, Any] = {"content": piece.text}
            if piece.item is not None:
                delta["palate"] = {"item": here.recommended(piece.item)}
            yield chunk(delta)
        if turn.kept is not None:
            await asyncio.shield(turn.kept)
        yield chunk({}, "stop")
        if usage_wanted:
            told = {**about, "object": "chat.completion.chunk", "choices": [], "usage": _usage(here, turn.body, turn)}
            yield f"data: {json.dumps(told)}\n\n"
        yield "data: [DONE]\n\n"
    except Exception as error:
        response = problems.of(error)
        yield f"data: {bytes(response.body).decode()}\n\n"
    finally:
        turn.leave()


async def _turn(here: Service, body: ChatBody, text: str) -> Turn:
    """The turn to take: in a session, or after what the messages tell."""
    rec = here.model(body.model)
    if body.session is not None:
        live = await asyncio.to_thread(here.sessions.get, body.session)
        return await Turn.of(here, body, live.chat, text, live)
    chat = await asyncio.to_thread(here.sessions.chat, rec, body.user, None, body.context)
    return await Turn.of(here, body, chat, text)


def _asked(body: ChatBody) -> str:
    last = body.messages[-1]
    if last.role != "user":
        raise Problem(f"messages: expected the last one to be the user's, got one of role {last.role!r}")
    for message in body.messages:
        if isinstance(message.content, list) and any(
            part.type not in ("text", "input_text") for part in message.content
        ):
            raise Unsupported("messages: expected text, got another kind of part; pictures cannot be read in a chat")
    return last.text


def _usage(here: Service, body: ChatBody, turn: Turn) -> dict[str, int]:
    """Token counts of what was said, by the base's tokenizer."""
    count = [len(ids) for ids in here.rec.serializer.encoder.content([*(m.text for m in body.messages), turn.text])]
    return dict(usage(sum(count[:-1]), count[-1]))
