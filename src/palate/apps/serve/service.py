"""What the routes share: the recommender, the store, the worker, and the way to wait for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import Depends, Request

from palate.apps.serve.metrics import Metrics
from palate.apps.serve.person import People
from palate.apps.serve.problems import Late, Problem, UnknownModel, Unsupported
from palate.apps.serve.sessions import Sessions
from palate.apps.serve.settings import Settings
from palate.apps.serve.titles import Titles
from palate.apps.serve.worker import Work, Worker
from palate.errors import did_you_mean
from palate.recommender import Recommendation, Recommender
from palate.recommender.fused import FUSED
from palate.schema import Item
from palate.store import Store

LONGEST = 600.0
"""Seconds a request may ask to wait at most."""


class Gone(Problem):
    """The client left before its answer: nobody reads this."""

    status, code = 499, "client_gone"


class Service:
    """One server's parts. Somebody has to run the worker; `close` drains it."""

    def __init__(self, rec: Recommender, store: Store, settings: Settings) -> None:
        self.rec, self.store, self.settings = rec, store, settings
        self.metrics = Metrics()
        self.people = People(rec, store)
        self.titles = Titles(rec)
        self.sessions = Sessions(self.people, settings.sessions)
        self.draining = False
        s = settings
        self.worker = Worker(s.queue, s.batch, s.candidates, s.linger, self.metrics.batch)
        self.metrics.waiting.set_function(lambda: self.worker.waiting)
        self.metrics.tokens.set_function(lambda: sum(r.runner.tokens_seen for r in rec.adapters.values()))
        self.metrics.hits.set_function(lambda: rec.prefixes.stats.hit_rate)
        self.metrics.held.set_function(lambda: rec.prefixes.stats.nbytes)

    def close(self) -> None:
        """Finish what waits, within the time a stop may take, and close the store."""
        self.draining = True
        self.worker.stop(self.settings.drain)
        self.store.close()

    def model(self, name: str | None) -> Recommender:
        """The recommender of the adapter called so; the first for None. Raises UnknownModel."""
        if name is None:
            return next(iter(self.rec.adapters.values()))
        if name not in self.rec.adapters:
            raise UnknownModel(f"no model is called {name!r}; {did_you_mean(name, self.rec.adapters)}")
        return self.rec.adapters[name]

    def modes(self, rec: Recommender) -> list[str]:
        """The modes this server scores in, the default first."""
        return [m for m in rec.ranker.mode_names if m != FUSED or self.settings.fused]

    def mode(self, rec: Recommender, name: str | None) -> str:
        """The name of a mode, the default's for None. Raises ConfigError for an unknown one, Unsupported for `fused`
        where its retrievers were not fitted before: that would hold everybody up for minutes.
        """
        if name == FUSED and not self.settings.fused:
            raise Unsupported("mode 'fused' needs retrievers that this server has not fitted; start it with --fused")
        return rec.mode(name).name

    # --- waiting ------------------------------------------------------------------------------------

    async def run(self, http: Request, work: Work, payload: Any, cost: int = 1) -> Any:
        """The result of a job. A client that leaves takes its job out of the queue.

        Raises Overloaded, Late, Closing, and what the job raises.
        """
        timeout = self.timeout(http)
        return await self.wait(http, self.worker.submit(work, payload, cost, timeout), timeout)

    async def wait(self, http: Request, future: Future[Any], timeout: float) -> Any:
        """What a future of the worker gives, unless the client leaves or the time is up before."""
        answer = asyncio.wrap_future(future)
        left = asyncio.ensure_future(_left(http))
        try:
            await asyncio.wait({answer, left}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise Gone("the client left") if left.done() else Late(f"no answer within {timeout:g} s; ask for less")
        finally:
            left.cancel()
            answer.cancel()

    def timeout(self, http: Request) -> float:
        """Seconds this request may wait: its header X-Request-Timeout, else the server's setting."""
        asked = http.headers.get("x-request-timeout")
        if asked is None:
            return self.settings.timeout
        try:
            seconds = float(asked)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= LONGEST:
            raise Problem(f"X-Request-Timeout: expected seconds from 0 to {LONGEST:g}, got {asked[:40]!r}")
        return seconds

    def check_size(self, count: int, what: str) -> None:
        """Problem where a list is longer than this server takes."""
        if count > self.settings.items:
            raise Problem(f"{what}: expected at most {self.settings.items:,}, got {count:,}; send them in parts")

    # --- forms --------------------------------------------------------------------------------------

    def item(self, item: Item) -> dict[str, Any]:
        """An item as JSON."""
        image = f"/v1/items/{_quoted(item.item_id)}/image" if "image" in item.media else None
        return {"item_id": item.item_id, "title": item.title, "text": dict(item.text), "image": image}

    def recommended(self, found: Recommendation) -> dict[str, Any]:
        """A recommendation as JSON."""
        told = {"score": round(found.score, 6), "rank": found.rank, "reason": found.reason}
        return {**self.item(self.rec.shelf[found.item_id]), **told}


async def _left(http: Request) -> None:
    """Returns when the client has gone. The body has been read by then: nothing else arrives."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _quoted(item_id: str) -> str:
    from urllib.parse import quote

    return quote(item_id, safe="")


def usage(prompt: int, completion: int = 0) -> Mapping[str, int]:
    """OpenAI's token counts."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _service(http: Request) -> Service:
    found = http.app.state.service
    assert isinstance(found, Service)
    return found


Here = Annotated[Service, Depends(_service)]
"""A route's parameter: the service it belongs to."""
