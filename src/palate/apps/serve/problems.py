"""What goes wrong, as HTTP: OpenAI's error shape, one status a kind of mistake, no inner workings told."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from palate.errors import EmptyLegalSet, PalateError, did_you_mean, spelt

log = logging.getLogger("palate.serve")


class Problem(PalateError):
    """A request that is refused. status: of HTTP; code: for machines; headers: such as Retry-After."""

    status = 400
    code = "invalid_request"

    @property
    def headers(self) -> Mapping[str, str]:
        return {}


class NotFound(Problem):
    """What the path or the body names is not here."""

    status, code = 404, "not_found"


class UnknownModel(NotFound):
    """No adapter has this name."""

    code = "model_not_found"


class Unsupported(Problem):
    """Something OpenAI's shape allows and this service does not do."""

    code = "unsupported"


class Late(Problem):
    """A request waited longer than it may."""

    status, code = 504, "timeout"


class Closing(Problem):
    """The server is stopping."""

    status, code = 503, "closing"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": "5"}


class Overloaded(Problem):
    """The queue is full. seconds: when a place is likely."""

    status, code = 429, "overloaded"

    def __init__(self, seconds: float) -> None:
        self.seconds = math.ceil(seconds)
        super().__init__(f"too many requests are waiting; try again in {self.seconds} s")

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(self.seconds)}


def body(message: str, code: str, status: int) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def response(message: str, code: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body(spelt(message), code, status), status, headers=dict(headers or {}))


def of(error: Exception) -> JSONResponse:
    """Any error as a response. What is not Palate's own is logged by its kind; its text stays inside."""
    if isinstance(error, Problem):
        return response(str(error), error.code, error.status, error.headers)
    if isinstance(error, PalateError):
        code = "nothing_fits" if isinstance(error, EmptyLegalSet) else "invalid_request"
        return response(str(error), code, 400)
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return response(f"unexpected {type(error).__name__}; the server's log has more", "internal", 500)


class Wordless(logging.Filter):
    """A traceback without what its errors say, which may be what somebody typed: logs hold no text of people."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = wordless(record.exc_info[1])
            record.exc_info = None
        return True


def wordless(error: BaseException) -> str:
    """Where an error came from: the frames and kinds of it and of what led to it, the first last."""
    told: list[str] = []
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        told.append("".join(traceback.format_tb(at.__traceback__)) + f"{type(at).__name__} (its text is not logged)")
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return "\nwhich came from\n".join(told)


log.addFilter(Wordless())


def _invalid(errors: Sequence[Any], known: Iterable[str]) -> str:
    """What a body gets wrong, in one line. known: the keys it may have."""
    told = []
    for error in errors[:3]:
        places = [str(part) for part in error["loc"] if part != "body"]
        where = ".".join(places) or "the body"
        if error["type"] == "extra_forbidden" and len(places) == 1:
            told.append(f"unknown key {where!r}; {did_you_mean(where, known)}")
        else:
            told.append(f"{where}: {error['msg']}")
    more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
    return "; ".join(told) + more


def install(app: FastAPI) -> None:
    """Answer every error of an app in this form."""

    async def palate(request: Request, error: Exception) -> JSONResponse:
        return of(error)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = "not_found" if error.status_code == 404 else "invalid_request"
        told = f"{request.method} {request.url.path}: {error.detail}"
        return response(told, code, error.status_code, error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        field = getattr(request.scope.get("route"), "body_field", None)
        body = getattr(getattr(field, "field_info", None), "annotation", None)
        known = getattr(body, "model_fields", {})
        return response(_invalid(error.errors(), known), "invalid_request", 422)

    app.add_exception_handler(PalateError, palate)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, palate)
