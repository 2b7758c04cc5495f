"""Before any route: keys, host names, body sizes; behind it: security headers, counts.

Plain ASGI, so that a route still hears when its client leaves.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palate.apps.serve import problems
from palate.apps.serve.metrics import Metrics
from palate.apps.serve.settings import Settings

OPEN = ("/", "/healthz", "/readyz", "/v1/about", "/docs", "/openapi.json")
"""Paths that need no key: they tell what the service is, and nothing of its people or its catalogue."""
FILES = ("/static/", "/docs/")
"""What the page and the documentation are made of: open too."""
COOKIE = "palate_key"
"""Where a page keeps the key for pictures: a browser sends no header with an image."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class _TooLarge(Exception):
    """The body went over its limit while it was read."""


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._hosts = {h.casefold() for h in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        self.metrics.open.inc()
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, answer)
            else:
                await self._bounded(scope, receive, answer)
        finally:
            self.metrics.open.dec()
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, time.monotonic() - start)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, with a body that breaks off where it grows too long; what the app makes of that is not sent."""
        size, over, started = 0, False, False

        async def bounded() -> Message:
            nonlocal size, over
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.settings.body:
                over = True
                raise _TooLarge
            return message

        async def unless_over(message: Message) -> None:
            nonlocal started
            if not over or started:
                started = True
                await send(message)

        with suppress(_TooLarge):
            await self.app(scope, bounded, unless_over)
        if over and not started:
            await self._too_large()(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").casefold()
        name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
        if self._hosts and name not in self._hosts:
            return problems.response(
                "this server does not answer to that host name; start it with --allow-host", "bad_host", 421
            )
        if self.settings.keys and not self._public(scope) and not self._known(scope, headers):
            return problems.response(
                "expected a key as 'Authorization: Bearer KEY', got none that this server knows",
                "invalid_api_key",
                401,
                {"WWW-Authenticate": "Bearer"},
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.settings.body:
            return self._too_large()
        return None

    @staticmethod
    def _public(scope: Scope) -> bool:
        return scope["path"] in OPEN or scope["path"].startswith(FILES)

    def _known(self, scope: Scope, headers: Headers) -> bool:
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.casefold() == "bearer" and _matches(key.strip(), self.settings.keys):
            return True
        # a cookie reads pictures and nothing else, so that no other site can act with it
        pictures = scope["method"] == "GET" and scope["path"].endswith("/image")
        return pictures and _matches(_cookie(headers), self.settings.keys)

    def _too_large(self) -> ASGIApp:
        told = f"expected a body of at most {self.settings.body:,} bytes, got more; send it in parts"
        return problems.response(told, "too_large", 413, {"Connection": "close"})


def _matches(key: str, keys: Sequence[str]) -> bool:
    """Whether a key is one of the known, in a time that tells nothing of where it differs."""
    given = key.encode()
    return sum(hmac.compare_digest(given, known.encode()) for known in keys) > 0


def _cookie(headers: Headers) -> str:
    try:
        held = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return held.value if held else ""
