"""Bodies, paths and headers of `palate serve`, in process: an answer, or an error in its form; never a 500."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

from palate.errors import PalateError
from trust import mutate, tiny
from trust.fuzz import SilentChange, Target

BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/score", {"user": "7", "items": ["1", "2"], "mode": "embedding", "context": {"time": "evening"}}),
    ("/v1/score", {"history": ["3", {"item": "4", "timestamp": 5.0, "rating": 4}], "items": ["1"], "query": "fun"}),
    ("/v1/score", {"query": "The user watched", "items": [" x", " y"], "label_token_ids": [3, 4], "apply_softmax": True}),
    ("/v1/recommend", {"history": ["1"], "k": 3, "filters": {"year": [1970, 1980], "genres": {"not": "Drama"}}, "diversity": 0.5}),
    ("/v1/events", {"item": "1", "user": "u", "kind": "like", "rating": 4, "timestamp": 880000000, "context": {"a": "b"}}),
    ("/v1/events", {"events": [{"item": "1", "user": "u"}, {"item": "2", "session": "s"}]}),
    ("/v1/sessions", {"user": "3", "history": ["1"], "context": {}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "something funny"}], "k": 2, "user": "3", "stream": False}),
)  # fmt: skip


class Http(Target):
    name = "http"
    about = "JSON bodies of every route changed and damaged, odd headers, paths and queries; nothing goes by sockets"

    def setup(self, folder: Path) -> None:
        import logging

        from fastapi.testclient import TestClient

        from palate.apps.serve.app import create_app
        from palate.apps.serve.settings import Settings
        from palate.store import Store

        logging.disable(logging.CRITICAL)
        app = create_app(tiny.recommender(folder), Store.open(None), Settings())
        self.client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        self.client.__enter__()

    def make(self, rng: Random) -> tuple[str, str, bytes, dict[str, str]]:
        headers = {"content-type": "application/json"}
        if rng.random() < 0.05:
            odd = rng.choice(
                ("x-request-timeout", "content-type", "cookie", "authorization", "accept-encoding", "content-length")
            )
            headers[odd] = "".join(c for c in mutate.text(rng)[:500] if 32 <= ord(c) < 127).strip()
        if rng.random() < 0.12:
            path = rng.choice(
                (
                    "/v1/items",
                    "/v1/items/{}",
                    "/v1/items/{}/image",
                    "/v1/people/{}",
                    "/v1/sessions/{}",
                    "/static/{}",
                    "/{}",
                    "/v1/items?q={}",
                )
            )
            from urllib.parse import quote

            return (
                rng.choice(("GET", "GET", "DELETE", "PUT")),
                path.format(quote(mutate.flat(mutate.text(rng))[:2000], safe="")),
                b"",
                headers,
            )
        path, body = rng.choice(BODIES)
        changed = mutate.structure(rng, body) if rng.random() < 0.9 else _halved(rng, body)
        data = json.dumps(changed).encode()  # half characters become escapes, which JSON's grammar allows
        if rng.random() < 0.15:
            data = mutate.damaged(rng, data, [b"\\ud800", b"[" * 2000, b'"', b"\xff", b"1e999", b"NaN", b"{"])
        return "POST", path, data, headers

    def judge(self, case: tuple[str, str, bytes, dict[str, str]]) -> None:
        method, path, data, headers = case
        answer = self.client.request(method, path, content=data, headers=headers)
        if answer.status_code >= 500:
            raise RuntimeError(f"{answer.status_code} {answer.text[:200]}")
        if answer.status_code >= 400 and answer.status_code != 404:
            error = answer.json()["error"]
            if set(error) != {"message", "type", "code", "param"} or not error["message"]:
                raise SilentChange(f"an error in another form: {answer.text[:200]}")
            raise PalateError(error["message"])
        if answer.headers.get("content-type", "").startswith("application/json"):
            json.loads(answer.content.decode("utf-8"), parse_constant=_never)


def _halved(rng: Random, body: dict[str, Any]) -> dict[str, Any]:
    """A body with half a character in one or two of its texts, values or names."""
    body = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 2))):
        here, key = rng.choice([(h, k) for h, k in mutate.places(body) if isinstance(h[k], str) or isinstance(k, str)])
        half = chr(rng.randrange(0xD800, 0xE000))
        where = here[key] if isinstance(here[key], str) and rng.random() < 0.9 else None
        if where is None and isinstance(here, dict):
            here[key + half] = here.pop(key)
        else:
            at = rng.randint(0, len(here[key]))
            here[key] = here[key][:at] + half + here[key][at:]
    return body


def _never(name: str) -> None:
    raise SilentChange(f"the answer holds {name}, which is no JSON")
