"""The app: parts put together. `create_app` is what tests and other ASGI servers use, `palate serve` runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pkgutil import iter_modules

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

import palate
from palate.apps.serve import problems, routes
from palate.apps.serve.guard import Guard
from palate.apps.serve.service import Service
from palate.apps.serve.settings import Settings
from palate.recommender import Recommender
from palate.store import Store

TOLD = """Recommendations from a language model you own: scores, lists, reasons and conversation.

`/v1/chat/completions` speaks OpenAI's protocol, `/v1/score` also SGLang's and vLLM's. Errors are `{"error": {"message",
"type", "code"}}`. A request may say in the header `X-Request-Timeout` how many seconds it will wait.
"""


def create_app(rec: Recommender, store: Store, settings: Settings | None = None, threaded: bool = True) -> FastAPI:
    """The service for one recommender (and the adapters beside it). Closing the app drains its queue.

    threaded: the model works on a thread that starts with the app; False where the caller's own thread is to run
    `app.state.service.worker.work()`.
    """
    service = Service(rec, store, settings or Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if threaded:
            service.worker.start()
        yield
        service.close()

    app = FastAPI(
        title="Palate", version=palate.__version__, description=TOLD, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    problems.install(app)
    for module in iter_modules(routes.__path__):
        app.include_router(import_module(f"{routes.__name__}.{module.name}").router)
    # answers to a page, not to the scoring of a list: small bodies and streams stay as they are
    app.add_middleware(GZipMiddleware, minimum_size=4096, compresslevel=5)
    app.add_middleware(Guard, settings=service.settings, metrics=service.metrics)
    return app
